"""Questions: network, pairs, answers."""
