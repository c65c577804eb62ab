"""Label heads: network, neighbours, gate."""
