"""Corrections, new labels and retraining over HTTP: `python -m benchmarks.learning`."""
