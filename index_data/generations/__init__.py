"""The published index: generation folders, the delta, and what serves."""
