"""What is measured: `python -m benchmarks.<name>`; the last line of each is one JSON object."""
