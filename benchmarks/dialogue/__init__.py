"""Dialogue without a generator: `python -m benchmarks.dialogue`."""
