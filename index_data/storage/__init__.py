"""The document store in SQLite."""
