"""Searching: one immutable state and its fusion."""
