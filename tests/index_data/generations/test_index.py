"""The index end to end: store, generations, delta, search, on real files."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from index_data.documents import Document
from index_data.generations.build import BuildCancelled, build_generation
from index_data.generations.index import EncoderChanged, Index, NoGeneration
from index_data.search.fusion import Fusion
from index_data.search.searcher import MethodUnavailable, Searcher
from index_data.segment.manifest import GenerationCorrupt
from index_data.storage.store import DocumentStore, StoredVectors, Tombstone

DIM = 16
ENCODER = "encoder-of-tests"
WORDS = [f"word{i}" for i in range(60)]


def encode(texts: list[str]) -> NDArray[np.float32]:
    """A hashed bag of words, normalised: near texts are near."""
    rows = np.zeros((len(texts), DIM), np.float32)
    for row, text in zip(rows, texts, strict=True):
        for word in text.lower().split():
            row[hashlib.sha256(word.encode()).digest()[0] % DIM] += 1.0
    norms: NDArray[np.float32] = np.linalg.norm(rows, axis=1, keepdims=True).astype(np.float32)
    return rows / norms


def texts(count: int, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(3, 12))) for _ in range(count)]


def documents(count: int, seed: int = 0) -> list[Document]:
    return [
        Document(f"d{i}", text, labels={"label": f"l{i % 3}"}, metadata={"n": i})
        for i, text in enumerate(texts(count, seed))
    ]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DocumentStore]:
    store = DocumentStore(tmp_path / "store")
    yield store
    store.close()


def catch_up(store: DocumentStore, index: Index) -> None:
    """Apply what the store has and the index has not seen, with the vectors that are stored."""
    reached = index.searcher.sequence
    changes = list(store.changes(reached, until=store.sequence))
    index.apply(
        [change for change in changes if isinstance(change, Document)],
        [change for change in changes if isinstance(change, Tombstone)],
        {v.doc_id: v.vectors.astype(np.float32) for v in store.vectors_after(reached, ENCODER)},
    )


def build(store: DocumentStore, folder: Path, *, vectors: bool = True) -> Path:
    return build_generation(
        store.folder,
        folder,
        encode=encode if vectors else None,
        encoder_sha=ENCODER if vectors else None,
        passage_words=200,
    )


def add(store: DocumentStore, index: Index, docs: list[Document], *, vectors: bool = True) -> None:
    result = store.upsert(docs).result()
    made = {d.id: encode([d.text]) for d in result.documents} if vectors else None
    index.apply(result.documents, vectors=made)


def answers(searcher: Searcher, query: str, **given: object) -> list[tuple[str, float]]:
    hits = searcher.search(query, k=10, query_vector=encode([query])[0], **given)  # type: ignore[arg-type]
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    return [(hit.doc_id, hit.score) for hit in hits]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "generations"


def published(store: DocumentStore, folder: Path, **given: object) -> Index:
    index = Index(store, folder, encoder_sha=ENCODER, **given)  # type: ignore[arg-type]
    index.publish(build(store, folder))
    return index


def test_a_published_generation_is_found_again(store: DocumentStore, folder: Path) -> None:
    store.upsert(documents(40)).result()
    index = published(store, folder)
    assert index.searcher.generation == 1
    assert (index.searcher.size, index.searcher.sequence) == (40, store.sequence)
    assert index.searcher.default_method == "hybrid"
    again = Index(store, folder, encoder_sha=ENCODER)
    again.open()
    for method in ("bm25", "dense", "hybrid"):
        expected = answers(index.searcher, "word1 word2 word3", method=method)
        assert expected
        assert answers(again.searcher, "word1 word2 word3", method=method) == expected


def test_what_is_written_counts_at_once(store: DocumentStore, folder: Path) -> None:
    store.upsert(documents(20)).result()
    index = published(store, folder)
    before = index.searcher
    add(store, index, [Document("new", "zebra word1"), Document("d3", "zebra instead")])
    assert [d for d, _ in answers(index.searcher, "zebra", method="bm25")] == ["new", "d3"]
    assert index.searcher.size == 21
    gone = store.delete(["new"]).result()
    catch_up(store, index)
    assert [d for d, _ in answers(index.searcher, "zebra", method="bm25")] == ["d3"]
    assert index.searcher.sequence == gone.sequence == store.sequence
    assert answers(before, "zebra", method="bm25") == []  # a snapshot stays what it was


def test_late_writes_do_not_undo_later_ones(store: DocumentStore, folder: Path) -> None:
    index = published(store, folder)
    first = store.upsert([Document("a", "zebra first")]).result().documents
    second = store.upsert([Document("a", "zebra second")]).result().documents
    index.apply(second)
    index.apply(first)
    assert [h.text for h in index.searcher.search("zebra", k=5)] == ["zebra second"]
    store.delete(["a"]).result()
    catch_up(store, index)
    index.apply(second)
    assert index.searcher.search("zebra", k=5) == []


def test_vectors_may_come_after_the_document(store: DocumentStore, folder: Path) -> None:
    store.upsert(documents(5)).result()
    index = published(store, folder)
    add(store, index, [Document("late", "zebra zebra")], vectors=False)
    assert [d.id for d in index.without_vectors()] == ["late"]
    assert index.searcher.search("zebra", k=1)[0].vector is None
    query = encode(["zebra"])[0]
    assert "late" in [h.doc_id for h in index.searcher.search("zebra", k=6, query_vector=query)]
    document = store.get("late")
    assert document is not None
    index.apply([document], vectors={"late": encode([document.text])})
    assert index.without_vectors() == []
    hit = index.searcher.search("zebra", k=1, query_vector=query)[0]
    assert hit.doc_id == "late"
    assert hit.vector is not None
    np.testing.assert_allclose(hit.vector, encode(["zebra"])[0], atol=1e-3)


def test_a_restart_replays_documents_and_their_vectors(store: DocumentStore, folder: Path) -> None:
    store.upsert(documents(30)).result()
    index = published(store, folder)
    result = store.upsert(documents(8, seed=5)).result()
    kept = [
        StoredVectors(d.id, d.sequence, encode([d.text]).astype(np.float16))
        for d in result.documents
    ]
    store.put_vectors(kept, ENCODER).result()
    store.delete(["d20", "d2"]).result()
    catch_up(store, index)
    again = Index(store, folder, encoder_sha=ENCODER)
    again.open()
    assert again.without_vectors() == []
    assert again.searcher.size == store.count()
    for method in ("bm25", "dense", "hybrid"):
        for query in texts(5, seed=9):
            found = answers(again.searcher, query, method=method)
            assert found == answers(index.searcher, query, method=method)


def test_both_scorers_answer_alike(store: DocumentStore, folder: Path) -> None:
    store.upsert(documents(50)).result()
    compiled = published(store, folder)
    whoosh = Index(store, folder, scorer="whoosh", encoder_sha=ENCODER)
    whoosh.open()
    for seed in range(4):
        changed = store.upsert(documents(7, seed=seed + 20)).result().documents
        store.delete([f"d{30 + seed}"]).result()
        compiled.apply(changed)
        whoosh.apply(changed)
        catch_up(store, compiled)
        catch_up(store, whoosh)
        for query in texts(10, seed=seed):
            for method in ("bm25", "hybrid"):
                expected = answers(compiled.searcher, query, method=method)
                assert answers(whoosh.searcher, query, method=method) == expected


def test_served_from_memory_until_there_is_a_generation(store: DocumentStore, folder: Path) -> None:
    index = Index(store, folder, encoder_sha=ENCODER)
    with pytest.raises(NoGeneration):
        index.open()
    store.upsert(documents(30)).result()
    index.open_without_generation()
    memory = answers(index.searcher, "word1 word2", method="bm25")
    index.publish(build(store, folder))
    assert [d for d, _ in answers(index.searcher, "word1 word2", method="bm25")] == [
        d for d, _ in memory
    ]


def test_the_previous_generation_is_kept_and_can_serve(store: DocumentStore, folder: Path) -> None:
    store.upsert(documents(10)).result()
    index = published(store, folder)
    for _ in range(2):
        index.publish(build(store, folder))
    assert [g.number for g in index.generations()] == [3, 2]
    assert [g.active for g in index.generations()] == [True, False]
    add(store, index, [Document("new", "zebra")])
    index.activate(2)
    assert index.searcher.generation == 2
    assert [h.doc_id for h in index.searcher.search("zebra", k=3)] == ["new"]
    again = Index(store, folder, encoder_sha=ENCODER)
    again.open()
    assert again.searcher.generation == 2  # what was activated last serves after a restart
    with pytest.raises(KeyError):
        index.activate(1)


@pytest.mark.parametrize("name", ["terms.json", "vectors.npy", "whoosh", "manifest.json"])
def test_a_damaged_generation_is_not_opened(store: DocumentStore, folder: Path, name: str) -> None:
    store.upsert(documents(10)).result()
    index = published(store, folder)
    index.publish(build(store, folder))
    path = folder / "generation-000002" / name
    if path.is_dir():
        path = next(path.glob("*.toc"))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(bytes(raw))
    again = Index(store, folder, encoder_sha=ENCODER)
    again.open()
    assert again.searcher.generation == 1
    with pytest.raises(GenerationCorrupt):
        again.activate(2)


def test_a_file_too_many_is_refused(store: DocumentStore, folder: Path) -> None:
    # A later table of contents would be unpickled by Whoosh in place of the one that was written.
    index = published(store, folder)
    (folder / "generation-000001" / "whoosh" / "_MAIN_9.toc").write_bytes(b"bomb")
    with pytest.raises(NoGeneration, match="_MAIN_9"):
        Index(store, folder).open()
    assert index.searcher.search("word1", k=1) == []


def test_a_folder_that_was_never_published_is_not_opened(
    store: DocumentStore, folder: Path
) -> None:
    build(store, folder)
    with pytest.raises(NoGeneration, match="not been built"):
        Index(store, folder).open()


def test_other_encoders_vectors_are_left_aside(store: DocumentStore, folder: Path) -> None:
    store.upsert(documents(10)).result()
    published(store, folder)
    index = Index(store, folder, encoder_sha="another")
    index.open()
    assert index.searcher.default_method == "bm25"
    with pytest.raises(MethodUnavailable):
        answers(index.searcher, "word1", method="dense")


def test_vectors_are_taken_over_by_content(store: DocumentStore, folder: Path) -> None:
    store.upsert(documents(12)).result()
    index = published(store, folder)
    changed = store.upsert([Document("d0", "another text"), Document("z", texts(12)[5])]).result()
    index.apply(changed.documents)
    asked: list[str] = []

    def counting(batch: list[str]) -> NDArray[np.float32]:
        asked.extend(batch)
        return encode(batch)

    path = build_generation(
        store.folder, folder, encode=counting, encoder_sha=ENCODER, passage_words=200
    )
    assert asked == ["another text"]
    index.publish(path)
    assert index.searcher.size == 13
    hit = index.searcher.search("another", k=1)[0]
    assert hit.vector is not None


def test_a_cancelled_build_leaves_nothing(store: DocumentStore, folder: Path) -> None:
    store.upsert(documents(5)).result()
    with pytest.raises(BuildCancelled):
        build_generation(
            store.folder,
            folder,
            encode=None,
            encoder_sha=None,
            passage_words=200,
            cancelled=lambda: True,
        )
    assert list(folder.iterdir()) == []


def test_an_empty_store_can_be_built(store: DocumentStore, folder: Path) -> None:
    index = published(store, folder)
    assert index.searcher.size == 0
    assert index.searcher.search("word1", k=3) == []
    add(store, index, [Document("first", "zebra"), Document("second", "horse")])
    assert [h.doc_id for h in index.searcher.search("zebra", k=3)] == ["first"]
    assert index.searcher.default_method == "hybrid"


def test_a_missing_folder_is_no_generation(store: DocumentStore, folder: Path) -> None:
    published(store, folder)
    shutil.rmtree(folder)
    with pytest.raises(NoGeneration):
        Index(store, folder).open()


def test_a_generation_can_be_kept_without_serving(store: DocumentStore, folder: Path) -> None:
    store.upsert(documents(10)).result()
    index = published(store, folder)
    store.upsert([Document(id="late", text="a zebra")]).result()
    index.keep(build(store, folder))
    assert index.searcher.generation == 1
    assert [g.number for g in index.generations()] == [2, 1]
    again = Index(store, folder, encoder_sha=ENCODER)
    again.open()
    assert again.searcher.generation == 1
    again.activate(2)
    assert again.searcher.generation == 2


def test_a_generation_that_is_gone_is_named(store: DocumentStore, folder: Path) -> None:
    store.upsert(documents(3)).result()
    index = published(store, folder)
    index.publish(build(store, folder))
    shutil.rmtree(folder / "generation-000002")
    again = Index(store, folder, encoder_sha=ENCODER)
    assert again.open() == ["generation-000002: is missing"]
    assert again.searcher.generation == 1


def test_an_index_as_if_written_to_is_the_one_that_a_write_makes(
    store: DocumentStore, tmp_path: Path
) -> None:
    store.upsert(documents(40)).result()
    index = Index(store, tmp_path / "index", encoder_sha=ENCODER)
    index.publish(build(store, tmp_path / "index"))
    written = [Document("d3", "word1 word2 fresh"), Document("new", "word1 fresh fresh")]
    for document in written:
        sequence = index.searcher.sequence
        vectors = encode(index.passage_texts(document))
        before, after = index.as_if(document, vectors)
        assert before is index.searcher
        assert index.searcher.sequence == sequence
        store.upsert([document]).result()
        (stored,) = store.changes(sequence)
        assert isinstance(stored, Document)
        index.apply([stored], (), {document.id: vectors})
        for query in ("word1 fresh", "word7 word8"):
            vector = encode([query])[0]
            found = [
                [(hit.doc_id, hit.score) for hit in s.search(query, k=10, query_vector=vector)]
                for s in (before, after, index.searcher)
            ]
            assert found[1] == found[2]
            assert found[0] != found[1] or "fresh" not in query


def test_the_hybrid_follows_the_length_of_the_passages(store: DocumentStore, folder: Path) -> None:
    index = Index(store, folder, encoder_sha=ENCODER)
    index.open_without_generation()
    add(store, index, [Document(f"s{i}", f"parcel refund {i}") for i in range(4)])
    assert index.searcher.fusion == Fusion.over(3.0)
    words = " ".join(f"word{i}" for i in range(120))
    add(store, index, [Document(f"l{i}", f"{words} {i}") for i in range(8)])
    long = index.searcher.fusion
    assert long.weight < Fusion.over(3.0).weight
    index.publish(build(store, folder))
    assert index.searcher.fusion == long
    assert Index(store, folder, fusion=Fusion(weight=0.2)).searcher.fusion.weight == 0.2


def test_whoever_watches_gets_every_searcher(store: DocumentStore, folder: Path) -> None:
    store.upsert(documents(20)).result()
    index = published(store, folder)
    seen: list[Searcher] = []
    index.watch(seen.append)
    assert seen == [index.searcher]
    add(store, index, [Document("new", "zebra")])
    assert seen[1:] == [index.searcher]
    together: list[Searcher] = []
    index.publish(build(store, folder), serve=together.append)
    assert together == [index.searcher]
    assert len(seen) == 2


def test_vectors_of_another_encoder_are_refused(store: DocumentStore, folder: Path) -> None:
    index = published(store, folder)
    before = index.searcher
    (written,) = store.upsert([Document("new", "zebra")]).result().documents
    vectors = encode([written.text])
    with pytest.raises(EncoderChanged):
        index.apply([written], (), {written.id: vectors}, encoder_sha="another")
    with pytest.raises(EncoderChanged):
        index.as_if(written, vectors, encoder_sha="another")
    assert index.searcher is before
    index.apply([written], (), {written.id: vectors}, encoder_sha=ENCODER)
    assert index.searcher.sequence == written.sequence
