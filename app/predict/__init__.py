"""The six tasks."""
