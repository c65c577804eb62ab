"""The snapshot that requests answer from: replaced as a whole."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from app.inference.indexer import Indexer
from app.inference.snapshot import Snapshots
from app.problems import Problem
from index_data.generations.index import Index
from index_data.storage.store import DocumentStore


def test_parts_are_replaced_together_and_the_rest_stays(tmp_path: Path) -> None:
    store = DocumentStore(tmp_path / "store")
    searcher = Index(store, tmp_path / "index").searcher
    snapshots = Snapshots()
    before = snapshots.now()
    snapshots.degrade("encoder", "it does not load")
    snapshots.degrade("index", "it is damaged")
    snapshots.put(searcher=searcher, repaired=("encoder", "checkpoint"))
    now = snapshots.now()
    assert (now.searcher, now.serving, now.generator) == (searcher, None, None)
    assert now.degraded == ("it is damaged",)
    assert dict(snapshots.faults) == {"index": "it is damaged"}
    assert (before.searcher, before.degraded) == (None, ())  # whoever has one keeps it
    store.close()


def test_nothing_is_waited_for_where_no_index_is_open(tmp_path: Path) -> None:
    store = DocumentStore(tmp_path / "store")
    indexer = Indexer(store, Snapshots())
    assert not indexer.is_open
    asyncio.run(indexer.wait(10**9))
    with pytest.raises(Problem, match="not open"):
        indexer.check_open()
    with pytest.raises(Problem, match="not valid"):
        asyncio.run(indexer.reach(1, "#/min_sequence"))
    with pytest.raises(Problem, match="not open"):
        asyncio.run(indexer.reach(0, "#/min_sequence"))
    indexer.close()
    store.close()
