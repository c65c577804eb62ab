"""A compiled part of the index: postings, vectors, columns, filters."""
