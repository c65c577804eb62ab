"""Speed of a real server over HTTP: `python -m benchmarks.serving`."""
