"""Which base encoder serves: what was chosen last, until a reindex makes another one fit.

Vectors and heads belong to one encoder, so a new one goes live together with its generation. The
choice is kept in the store, beside the setting that it was made under: a setting that has changed
since names another encoder, which a reindex makes fit while the old one serves.
"""

from __future__ import annotations

import json

from index_data.storage.store import DocumentStore

KEY = "encoder"


class EncoderChoice:
    """The encoder of a store. ``None`` names the one that comes with Footnote."""

    def __init__(self, store: DocumentStore, setting: str | None) -> None:
        self._store = store
        self._setting = setting
        self.source: str | None = setting
        self.requested: str | None = setting
        stored = store.meta_get(KEY)
        if stored is None:
            self.choose(setting)
        else:
            body = json.loads(stored)
            self.source = body["source"]
            self.requested = self.source if body["setting"] == setting else setting

    @property
    def pending(self) -> bool:
        """Whether another encoder than the one that serves is asked for."""
        return self.requested != self.source

    def choose(self, source: str | None) -> None:
        """Write down what serves from now on."""
        self._store.meta_set(KEY, json.dumps({"setting": self._setting, "source": source}))
        self.source = self.requested = source
