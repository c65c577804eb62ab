"""An index keeps to the analyzer that it was built with: queries, delta, restarts, both scorers."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from index_data.documents import Document
from index_data.generations.build import build_generation
from index_data.generations.index import Index, NoGeneration
from index_data.segment.manifest import manifest_sha256
from index_data.storage.store import DocumentStore
from index_data.text.analysis import (
    ANALYZERS,
    STANDARD,
    Analyzer,
    analyze,
    analyzer_of,
    matches,
    terms,
)

UNSTEMMED, ALL_WORDS = ANALYZERS["unstemmed"], ANALYZERS["all-words"]
TEXTS = {
    "shop": "The business is old",
    "street": "The busy street was older",
    "band": "There was a concert by The Who",
    "order": "我的订单",
}
FINDS = {
    # what is asked for: what finds it, by analyzer
    "businesses": {"standard": {"shop", "street"}, "unstemmed": set(), "all-words": set()},
    "busy": {"standard": {"shop", "street"}, "unstemmed": {"street"}, "all-words": {"street"}},
    "the": {"standard": set(), "unstemmed": set(), "all-words": {"shop", "street", "band"}},
    "我的": {"standard": set(), "unstemmed": set(), "all-words": {"order"}},
    "订单": {"standard": {"order"}, "unstemmed": {"order"}, "all-words": {"order"}},
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DocumentStore]:
    store = DocumentStore(tmp_path / "store")
    store.upsert([Document(name, text) for name, text in TEXTS.items()]).result()
    yield store
    store.close()


def published(store: DocumentStore, folder: Path, analyzer: Analyzer) -> Index:
    built = build_generation(
        store.folder, folder, encode=None, encoder_sha=None, passage_words=200, analyzer=analyzer
    )
    index = Index(store, folder)
    index.open_without_generation()
    index.publish(built)
    return index


def found(index: Index, query: str) -> dict[str, float]:
    return {hit.doc_id: hit.score for hit in index.searcher.search(query, k=20)}


def test_what_is_made_of_words() -> None:
    text = "The Businesses' offices"
    assert terms(text) == ["busi", "offic"]
    assert terms(text, None, UNSTEMMED) == ["businesses", "offices"]
    assert terms(text, None, ALL_WORDS) == ["the", "businesses", "offices"]
    assert terms("Café, the 订单!", "en", ALL_WORDS) == ["café", "the", "订单"]
    for analyzer in ANALYZERS.values():
        assert analyzer_of(analyzer.version) is analyzer
        _, tokens = analyze(text, None, analyzer)
        assert [t.stem for t in tokens if not t.stop] == terms(text, None, analyzer)
    assert len({one.version for one in ANALYZERS.values()}) == len(ANALYZERS)
    assert analyzer_of("2:other") is None


def test_the_standard_analyzer_is_what_indexes_were_built_with_before_there_was_a_choice() -> None:
    assert STANDARD.version == "1:nfkc,lucene-33,snowball-english,rjieba-no-hmm"


@pytest.mark.parametrize("name", ANALYZERS)
def test_an_index_finds_what_its_analyzer_says(
    store: DocumentStore, tmp_path: Path, name: str
) -> None:
    index = published(store, tmp_path / "generations", ANALYZERS[name])
    for query, by in FINDS.items():
        assert set(found(index, query)) == by[name], query
    assert [one.analyzer for one in index.generations()] == [name]
    # A text that is written now is analysed in the same way.
    later = [Document("later", "Businesses of the busy 我的")]
    index.apply(store.upsert(later).result().documents)
    also = {"standard": {"businesses", "busy"}, "unstemmed": {"businesses", "busy"}}
    for query in FINDS:
        expected = query != "订单" if name == "all-words" else query in also[name]
        assert ("later" in found(index, query)) is expected, query


@pytest.mark.parametrize("name", ANALYZERS)
def test_both_scorers_agree_under_every_analyzer(
    store: DocumentStore, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "generations"
    ours = published(store, folder, ANALYZERS[name])
    theirs = Index(store, folder, scorer="whoosh")
    theirs.open()
    later = store.upsert([Document("later", "The older businesses of the busy")]).result()
    for index in (ours, theirs):
        index.apply(later.documents)
    for query in ("the old busy", "who was older", "businesses concert", "我的订单"):
        assert list(found(ours, query)) == list(found(theirs, query))
        assert found(ours, query) == pytest.approx(found(theirs, query), rel=1e-6)


def test_it_is_kept_over_restarts_and_without_a_generation(
    store: DocumentStore, tmp_path: Path
) -> None:
    folder = tmp_path / "generations"
    published(store, folder, UNSTEMMED)
    again = Index(store, folder)
    again.open()
    assert again.searcher.analyzer is UNSTEMMED
    assert set(found(again, "busy")) == {"street"}
    shutil.rmtree(folder)
    without = Index(store, folder)
    with pytest.raises(NoGeneration):
        without.open()
    without.open_without_generation()
    assert set(found(without, "busy")) == {"street"}


def test_another_generation_brings_its_analyzer_with_it(
    store: DocumentStore, tmp_path: Path
) -> None:
    index = published(store, tmp_path / "generations", UNSTEMMED)
    built = build_generation(
        store.folder, tmp_path / "generations", encode=None, encoder_sha=None, passage_words=200
    )
    index.keep(built)
    assert set(found(index, "busy")) == {"street"}
    index.activate(2)
    assert set(found(index, "busy")) == {"shop", "street"}
    index.activate(1)
    assert set(found(index, "busy")) == {"street"}


def test_an_analyzer_that_this_version_has_not_is_not_opened(
    store: DocumentStore, tmp_path: Path
) -> None:
    folder = tmp_path / "generations"
    published(store, folder, UNSTEMMED)
    path = folder / "generation-000001" / "manifest.json"
    content = json.loads(path.read_text()) | {"analyzer": "9:later"}
    path.write_text(json.dumps(content))
    store.meta_set("index:sha256:generation-000001", manifest_sha256(path.parent))
    with pytest.raises(NoGeneration, match="analyzer 9:later, this version has 1:nfkc"):
        Index(store, folder).open()


def test_what_is_marked_is_what_was_found() -> None:
    text = "Businesses of the busy"
    marked = [text[start:end] for start, end in matches(text, "the busy", None, UNSTEMMED)]
    assert marked == ["busy"]
    assert len(matches(text, "busy")) == 2
    assert len(matches(text, "the busy", None, ALL_WORDS)) == 2
