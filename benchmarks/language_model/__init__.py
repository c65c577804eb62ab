"""The language model with retrieval, against its rivals: `python -m benchmarks.language_model`."""
