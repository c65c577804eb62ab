"""Documents and the index: store, analysis, filters, scoring, generations, search.

Knows nothing of the model or of HTTP; see ``docs/architecture.md``.
"""
