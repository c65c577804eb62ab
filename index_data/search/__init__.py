"""Searching: one immutable state, its fusion, its highlights."""
