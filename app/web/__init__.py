"""HTTP without meaning: bodies, headers, connections, streams."""
