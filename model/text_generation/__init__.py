"""Generators: loading, prompts, decoding."""
