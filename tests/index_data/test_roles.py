"""The role of a document as evidence: of one document, on columns, and which hits it leaves."""

from __future__ import annotations

from typing import Any

import pytest

from index_data.documents import Document
from index_data.filters import EXAMPLES, KNOWLEDGE, MARKED, Filter, carrying, parse_filter
from index_data.roles import role_of
from index_data.search.evidence import entity_evidence, label_evidence, text_evidence
from index_data.search.searcher import Searcher
from index_data.segment.segment import segment_of
from index_data.segment.topk import NO_MASK
from index_data.segment.view import compiled, whole

ENTITIES = [{"start": 0, "end": 4, "type": "WORD"}]
DOCUMENTS = {
    "plain": Document("plain", "gamma one"),
    "topic": Document("topic", "gamma two", labels={"topic": "a"}),
    "list": Document("list", "gamma three", labels={"topics": ["a", "b"]}),
    "empty": Document("empty", "gamma four", labels={"topics": []}),
    "marked": Document("marked", "gamma five", metadata={"entities": ENTITIES}),
    "article": Document(
        "article", "gamma six", labels={"topic": "b"}, metadata={"role": "knowledge"}
    ),
    "fact": Document("fact", "gamma seven", metadata={"role": "example"}),
    "user": Document("user", "gamma eight", metadata={"role": "user"}),
}
KNOWING = {"plain", "empty", "article", "user"}


def searcher_of(*documents: Document) -> Searcher:
    segment = segment_of(documents, passage_words=0, average_length=2.0)
    return Searcher([whole(segment, compiled(segment, 2.0))], generation=1, sequence=0)


def found(searcher: Searcher, wanted: Filter | None) -> set[str]:
    return {hit.doc_id for hit in searcher.search("gamma", k=20, filter=wanted)}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_labels_make_an_example_and_a_document_says_otherwise(name: str) -> None:
    assert role_of(DOCUMENTS[name]) == ("knowledge" if name in KNOWING else "example")


@pytest.mark.parametrize("said", [["knowledge"], {"knowledge": 1}, 3, None, "Knowledge"])
def test_other_roles_mean_nothing(said: Any) -> None:
    document = Document("1", "gamma", labels={"topic": "a"}, metadata={"role": said})
    expected = "knowledge" if said == ["knowledge"] else "example"
    assert role_of(document) == expected
    assert found(searcher_of(document), EXAMPLES) == ({"1"} if expected == "example" else set())


@pytest.mark.parametrize("wanted", [EXAMPLES, KNOWLEDGE, carrying("topic"), MARKED.also(EXAMPLES)])
def test_columns_and_documents_agree(wanted: Filter) -> None:
    passing = {name for name, document in DOCUMENTS.items() if wanted.matches(document)}
    assert 0 < len(passing) < len(DOCUMENTS)
    assert found(searcher_of(*DOCUMENTS.values()), wanted) == passing


def test_each_kind_of_prediction_has_its_evidence() -> None:
    searcher = searcher_of(*DOCUMENTS.values())
    everything, examples = set(DOCUMENTS), set(DOCUMENTS) - KNOWING
    assert found(searcher, label_evidence("topic")) == {"topic"}
    assert found(searcher, label_evidence("topic", "all")) == everything
    assert found(searcher, label_evidence("topic", "knowledge")) == KNOWING
    assert found(searcher, text_evidence(searcher)) == KNOWING
    assert found(searcher, text_evidence(searcher, "examples")) == examples
    assert found(searcher, text_evidence(searcher, "all")) == everything
    assert found(searcher, entity_evidence()) == {"marked"}
    assert found(searcher, entity_evidence("knowledge")) == set()


def test_without_knowledge_in_view_a_text_has_all() -> None:
    searcher = searcher_of(*DOCUMENTS.values())
    own = parse_filter({"labels.topic": "a"})
    assert found(searcher, text_evidence(searcher, None, own)) == {"topic"}
    assert found(searcher, text_evidence(searcher, "knowledge", own)) == set()
    dead = Searcher([searcher.views[0].without([0, 3, 5, 7])], generation=1, sequence=1)
    assert found(dead, text_evidence(dead)) == set(DOCUMENTS) - KNOWING


def test_a_filter_that_all_pass_costs_nothing() -> None:
    view = searcher_of(DOCUMENTS["topic"], DOCUMENTS["list"]).views[0]
    assert view.allowed(EXAMPLES) is NO_MASK
    assert not view.allowed(KNOWLEDGE).any()
