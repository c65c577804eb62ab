"""The store: what was written is there, whole, in order; what cannot be is told, and it heals."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index_data.documents import Document
from index_data.filters import parse_filter
from index_data.storage.database import FILE_NAME
from index_data.storage.store import (
    DocumentStore,
    InvalidCursor,
    PreconditionFailed,
    ReadOnlyStore,
    StorageError,
    StoreClosed,
    StoreCorrupt,
    StoredVectors,
    StoreLocked,
    StoreTooNew,
    Tombstone,
    holder,
    upsert_documents,
)

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DocumentStore]:
    opened = DocumentStore(tmp_path / "store")
    yield opened
    opened.close()


def make(number: int, text: str = "text", **more: object) -> Document:
    return Document(f"d{number:04}", f"{text} {number}", **more)  # type: ignore[arg-type]


@contextmanager
def other_hand(store: DocumentStore) -> Iterator[sqlite3.Connection]:
    """A connection that does to the file what the store would not."""
    connection = sqlite3.connect(store.folder / FILE_NAME, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def test_what_is_written_is_read_back_with_its_sequence(store: DocumentStore) -> None:
    assert store.created
    first = store.upsert([make(1, labels={"label": "a"}), make(2)]).result()
    assert (first.sequence, first.created, first.updated) == (2, 2, 0)
    assert first.documents == [store.get("d0001"), store.get("d0002")]
    second = store.upsert([make(1, "new"), make(3)]).result()
    assert (second.sequence, second.created, second.updated) == (4, 1, 1)
    assert store.sequence == 4
    assert store.count() == 3
    changed = store.get("d0001")
    assert changed == make(1, "new", sequence=3)
    assert list(store.get_many(["d0003", "none", "d0002"])) == ["d0003", "d0002"]
    assert store.get("none") is None


def test_the_last_of_one_id_in_a_write_stays(store: DocumentStore) -> None:
    result = store.upsert([make(1, "a"), make(1, "b")]).result()
    assert (result.created, result.updated, result.sequence) == (1, 1, 2)
    assert [d.text for batch in store.scan() for d in batch] == ["b 1"]


def test_deletions_leave_tombstones_and_changes_tell_all_in_order(store: DocumentStore) -> None:
    store.upsert([make(i) for i in range(4)]).result()
    deleted = store.delete(["d0001", "none", "d0002"]).result()
    assert (deleted.sequence, deleted.deleted, deleted.ids) == (6, 2, ["d0001", "d0002"])
    store.upsert([make(2, "again")]).result()
    told = [(change.id, change.sequence) for change in store.changes(0)]
    assert told == [("d0000", 1), ("d0003", 4), ("d0001", 5), ("d0002", 7)]
    assert next(store.changes(4)) == Tombstone("d0001", 5)
    assert list(store.changes(7)) == []
    assert store.delete(["none"]).result().sequence == 7


def test_many_changes_come_in_pages(store: DocumentStore) -> None:
    store.upsert([make(i) for i in range(2_500)]).result()
    assert [c.sequence for c in store.changes(0)] == list(range(1, 2_501))
    assert [len(batch) for batch in store.scan()] == [1_000, 1_000, 500]
    assert sum(len(batch) for batch in store.scan(until=200)) == 200


def test_if_match_guards_updates_and_deletions(store: DocumentStore) -> None:
    etag = make(1).etag
    with pytest.raises(PreconditionFailed, match="no such document"):
        store.upsert([make(1)], if_match="*").result()
    store.upsert([make(1)]).result()
    store.upsert([make(1, "new")], if_match=f'"x", {etag}').result()
    with pytest.raises(PreconditionFailed) as failure:
        store.upsert([make(1, "newer")], if_match=etag).result()
    assert failure.value.current == make(1, "new").etag
    with pytest.raises(PreconditionFailed):
        store.delete(["d0001"], if_match=etag).result()
    assert store.sequence == 2
    assert store.delete(["d0001"], if_match="*").result().deleted == 1


def test_listing_is_in_pages_and_filtered(store: DocumentStore) -> None:
    langs = ["en", "zh"]
    store.upsert([make(i, lang=langs[i % 2], metadata={"n": i}) for i in range(25)]).result()
    seen: list[str] = []
    cursor = None
    while True:
        page, cursor = store.list(cursor=cursor, limit=10)
        seen += [d.id for d in page]
        store.upsert([make(int(page[0].id[1:]), "moved")]).result()
        if cursor is None:
            break
    assert seen == [f"d{i:04}" for i in range(25)]
    where = parse_filter({"metadata.n": {"gte": 11, "lt": 20}, "lang": "en"})
    page, cursor = store.list(limit=2, where=where)
    assert [d.id for d in page] == ["d0012", "d0014"]
    page, cursor = store.list(limit=2, where=where, cursor=cursor)
    assert [d.id for d in page] == ["d0016", "d0018"]
    assert cursor is None
    for bad in ("?", "é", "\ud800", "_____"):
        with pytest.raises(InvalidCursor):
            store.list(cursor=bad)


def test_a_write_that_fails_takes_nothing_else_with_it(store: DocumentStore) -> None:
    gate = threading.Event()
    store.write(lambda _: gate.wait(10))

    def half(connection: sqlite3.Connection) -> None:
        upsert_documents(connection, [make(9)])
        raise LookupError("after half of it")

    good, bad, later = store.upsert([make(1)]), store.write(half), store.upsert([make(2)])
    gate.set()
    with pytest.raises(LookupError):
        bad.result()
    assert (good.result().sequence, later.result().sequence) == (1, 2)
    assert [c.id for c in store.changes(0)] == ["d0001", "d0002"]


def test_waiting_writes_share_a_commit(store: DocumentStore) -> None:
    gate = threading.Event()
    store.write(lambda _: gate.wait(10))
    writes = [store.upsert([make(i)]) for i in range(200)]
    cancelled = store.upsert([make(999)])
    assert cancelled.cancel()
    gate.set()
    wait(writes)
    assert [w.result().sequence for w in writes] == list(range(1, 201))
    assert store.count() == 200


def test_other_modules_keep_tables_of_their_own(store: DocumentStore) -> None:
    store.write(lambda c: c.execute("CREATE TABLE notes (a TEXT)")).result()
    store.write(lambda c: c.execute("INSERT INTO notes VALUES ('x')")).result()
    with store.read() as connection:
        assert connection.execute("SELECT a FROM notes").fetchall() == [("x",)]
        with pytest.raises(sqlite3.OperationalError):
            connection.execute("INSERT INTO notes VALUES ('y')")
    store.meta_set("generation", "7")
    assert (store.meta_get("generation"), store.meta_get("none")) == ("7", None)


def test_a_read_sees_one_state(store: DocumentStore) -> None:
    store.upsert([make(1)]).result()
    with store.read() as connection:
        before = connection.execute("SELECT count(*) FROM documents").fetchone()
        store.upsert([make(2)]).result()
        assert connection.execute("SELECT count(*) FROM documents").fetchone() == before
    assert store.count() == 2


def test_another_process_reads_while_this_one_writes(store: DocumentStore) -> None:
    store.upsert([make(1)]).result()
    reader = ReadOnlyStore(store.folder)
    assert reader.count() == 1
    store.upsert([make(2)]).result()
    assert (reader.count(), reader.sequence) == (2, 2)
    reader.close()


def test_a_store_that_is_not_there_is_not_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        ReadOnlyStore(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_everything_is_there_after_closing(tmp_path: Path) -> None:
    with_writes = DocumentStore(tmp_path)
    futures = [with_writes.upsert([make(i)]) for i in range(50)]
    with_writes.close()
    with_writes.close()
    assert all(f.done() for f in futures)
    with pytest.raises(StoreClosed):
        with_writes.upsert([make(1)])
    again = DocumentStore(tmp_path)
    assert (again.count(), again.sequence, again.created) == (50, 50, False)
    again.close()


def test_a_sequence_is_never_given_twice(tmp_path: Path) -> None:
    store = DocumentStore(tmp_path)
    store.upsert([make(1)]).result()
    store.delete(["d0001"]).result()
    store.close()
    store = DocumentStore(tmp_path)
    assert store.upsert([make(1)]).result().sequence == 3
    store.close()


def test_a_second_owner_is_refused_and_told_who(tmp_path: Path) -> None:
    store = DocumentStore(tmp_path, address="127.0.0.1:8000")
    begin = time.monotonic()
    with pytest.raises(StoreLocked, match=rf"process {os.getpid()} at 127.0.0.1:8000") as refusal:
        DocumentStore(tmp_path)
    assert time.monotonic() - begin < 1
    assert refusal.value.holder.pid == os.getpid()
    store.set_address("127.0.0.1:9")
    program = "import sys; from index_data.storage.store import holder"
    program += "; print(holder(sys.argv[1]).address)"
    program = program.replace("sys.argv[1]", "__import__('pathlib').Path(sys.argv[1])")
    command = [sys.executable, "-c", program, str(tmp_path)]
    seen = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert seen.stdout.strip() == "127.0.0.1:9"
    store.close()
    assert holder(tmp_path) is None
    assert holder(tmp_path / "nowhere") is None
    DocumentStore(tmp_path).close()


def test_a_store_of_a_later_version_is_refused(tmp_path: Path) -> None:
    store = DocumentStore(tmp_path)
    store.meta_set("schema_version", "99")
    store.close()
    for opening in (DocumentStore, ReadOnlyStore):
        with pytest.raises(StoreTooNew, match=r"99.*1"):
            opening(tmp_path)
    assert holder(tmp_path) is None


@pytest.mark.parametrize("content", [b"not a database" * 1_000, b"SQLite format 3\x00" * 700])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(StoreCorrupt):
        DocumentStore(tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == content


def test_a_damaged_row_is_named_and_the_rest_served(store: DocumentStore) -> None:
    store.upsert([make(i) for i in range(5)]).result()
    with other_hand(store) as connection:
        connection.execute(
            "UPDATE documents SET body = replace(body, 'text', 'tixt') WHERE id = 'd0001'"
        )
        connection.execute("UPDATE documents SET body = 'text' WHERE id = 'd0002'")
        connection.execute("UPDATE documents SET checksum = x'00' WHERE id = 'd0003'")
    assert store.damaged() == []
    assert [d.id for batch in store.scan() for d in batch] == ["d0000", "d0004"]
    assert [c.id for c in store.changes(0)] == ["d0000", "d0004"]
    assert [d.id for d in store.list()[0]] == ["d0000", "d0004"]
    assert store.get("d0001") is None
    assert store.damaged() == ["d0001", "d0002", "d0003"]
    assert store.verify() == [f"document d000{i}: damaged row" for i in (1, 2, 3)]
    store.upsert([make(1)]).result()
    store.delete(["d0002"]).result()
    assert store.damaged() == ["d0003"]
    assert store.get("d0001") is not None


def test_a_destroyed_page_hides_its_own_rows_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DocumentStore(tmp_path)
    store.upsert([make(i, "longer text " * 20) for i in range(300)]).result()
    with store.read() as connection:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    store.close()
    content = bytearray((tmp_path / FILE_NAME).read_bytes())
    place = content.index(b"text  150") // size * size
    content[place : place + size] = b"\xff" * size
    (tmp_path / FILE_NAME).write_bytes(content)
    store = DocumentStore(tmp_path)
    monkeypatch.setattr("index_data.storage.reader._PAGE", 70)
    found = [d.id for batch in store.scan() for d in batch]
    lost = store.damaged()
    assert "d0150" in lost
    assert len(lost) < 30
    assert sorted(found + lost) == [f"d{i:04}" for i in range(300)]
    assert [change.id for change in store.changes(0)] == found
    assert any("d0150" in problem for problem in store.verify())
    assert [d.id for d in store.list(limit=1_000)[0]] == sorted(found)
    assert store.get("d0150") is None
    assert list(store.get_many(["d0150", "d0001"])) == ["d0001"]
    with pytest.raises(StoreCorrupt):
        store.upsert([make(150)]).result()
    assert store.upsert([make(0), make(1000)]).result().created == 1
    store.close()


@pytest.mark.parametrize("seed", range(8))
def test_flipped_bits_are_found_and_never_served(tmp_path: Path, seed: int) -> None:
    store = DocumentStore(tmp_path)
    documents = [make(i, "some longer text " * 20) for i in range(200)]
    store.upsert(documents).result()
    store.close()
    random = np.random.default_rng(seed)
    content = bytearray((tmp_path / FILE_NAME).read_bytes())
    for place in random.integers(0, len(content), 25):
        content[place] ^= 1 << int(random.integers(8))
    (tmp_path / FILE_NAME).write_bytes(content)
    true = {d.id: d.text for d in documents}
    try:
        store = DocumentStore(tmp_path)
    except StoreCorrupt:
        return
    try:
        for batch in store.scan():
            assert all(true[d.id] == d.text for d in batch)
    except StoreCorrupt:
        pass
    finally:
        store.close()


def test_a_full_disk_is_told_to_all_who_wait_and_heals(store: DocumentStore) -> None:
    store.upsert([make(1)]).result()

    def limit(connection: sqlite3.Connection, pages: int = 0) -> None:
        (used,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages or used}")

    gate = threading.Event()
    store.write(limit).result()
    holding = store.write(lambda _: gate.wait(10))
    small, big = store.upsert([make(2)]), store.upsert([make(3, "x" * 500_000)])
    gate.set()
    for future in (holding, small, big):
        with pytest.raises(StorageError) as failure:
            future.result()
        assert failure.value.errno == errno.ENOSPC
        assert failure.value.full
    assert [c.id for c in store.changes(0)] == ["d0001"]
    assert store.sequence == 1
    # A new connection has no such limit: as if there were space again.
    assert store.upsert([make(4, "x" * 500_000)]).result().sequence == 2


def test_a_write_that_the_system_refuses_is_never_acknowledged(store: DocumentStore) -> None:
    store.upsert([make(1)]).result()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sizes = [p.stat().st_size for p in store.folder.iterdir()]
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(sizes) + 10_000, hard))
    try:
        for number in (2, 3):
            with pytest.raises(StorageError):
                store.upsert([make(number, "x" * 500_000)]).result()
            assert store.get("d0001") is not None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert store.upsert([make(4, "x" * 500_000)]).result().created == 1
    assert [c.id for c in store.changes(0)] == ["d0001", "d0004"]


def test_a_write_that_commits_on_its_own_is_told_so(store: DocumentStore) -> None:
    def misbehave(connection: sqlite3.Connection) -> None:
        connection.execute("ROLLBACK")

    with pytest.raises(sqlite3.OperationalError, match="savepoint"):
        store.write(misbehave).result()
    assert store.upsert([make(1)]).result().sequence == 1


def test_vectors_belong_to_one_write_of_a_document(store: DocumentStore) -> None:
    written = store.upsert([make(1), make(2), make(3)]).result().documents
    values = {d.id: np.arange(8, dtype=np.float16).reshape(2, 4) + d.sequence for d in written}
    items = [StoredVectors(d.id, d.sequence, values[d.id]) for d in written]
    store.upsert([make(2, "new")]).result()
    assert store.put_vectors(items, "sha").result() == 2
    found = list(store.vectors_after(0, "sha"))
    assert [(v.doc_id, v.sequence) for v in found] == [("d0001", 1), ("d0003", 3)]
    for item in found:
        np.testing.assert_array_equal(item.vectors, values[item.doc_id])
    assert list(store.vectors_after(0, "another")) == []
    assert [v.doc_id for v in store.vectors_after(1, "sha")] == ["d0003"]
    with other_hand(store) as connection:
        connection.execute("UPDATE vectors SET vector = x'0102' WHERE doc_id = 'd0001'")
    assert [v.doc_id for v in store.vectors_after(0, "sha")] == ["d0003"]
    store.delete(["d0003"]).result()
    assert list(store.vectors_after(0, "sha")) == []


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("udx"), st.lists(st.integers(0, 6), min_size=1, max_size=4)),
        max_size=12,
    )
)
def test_changes_replayed_are_the_store(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, list[int]]]
) -> None:
    """Whoever follows the changes from any point has what the store has."""
    store = DocumentStore(tmp_path_factory.mktemp("law"))
    try:
        expected: dict[str, str] = {}
        follower: dict[str, str] = {}
        reached = 0
        for step, (kind, numbers) in enumerate(steps):
            before = store.sequence
            if kind == "d":
                store.delete([make(n).id for n in numbers]).result()
                for n in numbers:
                    expected.pop(make(n).id, None)
            else:
                store.upsert([make(n, f"step {step}") for n in numbers]).result()
                expected.update({make(n).id: make(n, f"step {step}").text for n in numbers})
            assert store.sequence >= before
            if kind == "x":
                for change in store.changes(reached):
                    assert change.sequence > reached
                    reached = change.sequence
                    if isinstance(change, Tombstone):
                        follower.pop(change.id, None)
                    else:
                        follower[change.id] = change.text
                assert follower == expected
        assert {d.id: d.text for batch in store.scan() for d in batch} == expected
        assert store.verify() == []
    finally:
        store.close()


def test_a_lock_file_says_json(store: DocumentStore) -> None:
    assert json.loads((store.folder / "lock").read_text())["pid"] == os.getpid()
