"""The sample: counts, languages, offsets, a held-out part that is apart, and Python's docs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from index_data.documents import Document, near_duplicate, normalise, parse_document
from index_data.sample import helpdesk, helpdesk_heldout, python_docs
from scripts.build_sample import (
    ENTITY_TYPES,
    FOLDER,
    LABELS,
    SourceError,
    collect,
    locate,
    problems,
    ticket,
)


@pytest.fixture(scope="module")
def shipped() -> list[Document]:
    return list(helpdesk())


@pytest.fixture(scope="module")
def heldout() -> list[Document]:
    return helpdesk_heldout()


@pytest.fixture(scope="module")
def tickets(shipped: list[Document], heldout: list[Document]) -> list[Document]:
    return [d for d in shipped + heldout if d.metadata["kind"] == "ticket"]


@pytest.fixture(scope="module")
def articles(shipped: list[Document]) -> list[Document]:
    return [d for d in shipped if d.metadata["kind"] == "article"]


def test_enough_tickets_and_articles(tickets: list[Document], articles: list[Document]) -> None:
    assert len(tickets) >= 600
    assert len(articles) >= 80
    assert all(d.metadata["source"] == "sample" for d in [*tickets, *articles])


def test_a_sixth_of_both_is_chinese(tickets: list[Document], articles: list[Document]) -> None:
    for documents in (tickets, articles):
        assert {d.lang for d in documents} == {"en", "zh"}
        assert sum(d.lang == "zh" for d in documents) * 6 >= len(documents)


def test_every_label_in_both_languages_and_both_parts(
    shipped: list[Document], heldout: list[Document]
) -> None:
    for part in (shipped, heldout):
        pairs = Counter((d.lang, d.labels["label"]) for d in part if d.labels)
        assert set(pairs) == {(lang, label) for lang in ("en", "zh") for label in LABELS}
        assert min(pairs.values()) >= 2


def test_sentiment_is_given_often_and_both_ways(tickets: list[Document]) -> None:
    counts = Counter(d.labels.get("sentiment") for d in tickets)
    assert set(counts) == {"positive", "negative", None}
    assert min(counts.values()) >= 60


def test_articles_carry_a_topic_and_no_label(articles: list[Document]) -> None:
    assert all(not d.labels and d.title for d in articles)
    assert {d.metadata["topic"] for d in articles} == {*LABELS, "general"}


def test_a_third_of_the_tickets_has_entities_with_exact_offsets(tickets: list[Document]) -> None:
    marked = [d for d in tickets if "entities" in d.metadata]
    assert len(marked) * 3 >= len(tickets)
    kinds: set[str] = set()
    for document in marked:
        border = 0
        for entity in document.metadata["entities"]:
            assert entity["start"] >= border
            border = entity["end"]
            assert document.text[entity["start"] : border] == entity["text"]
            kinds.add(entity["type"])
    assert kinds == set(ENTITY_TYPES)


def test_hard_cases_are_in_both_parts(shipped: list[Document], heldout: list[Document]) -> None:
    for part in (shipped, heldout):
        assert sum(d.metadata.get("hard", False) for d in part) >= 10


def test_heldout_is_apart(shipped: list[Document], heldout: list[Document]) -> None:
    assert 0.1 <= len(heldout) / len([d for d in shipped + heldout if d.labels]) <= 0.2
    ids = [d.id for d in shipped + heldout]
    assert len(ids) == len(set(ids))
    texts = {normalise(d.text) for d in shipped + heldout}
    assert len(texts) == len(ids)
    for held in heldout:
        assert not any(d.lang == held.lang and near_duplicate(held.text, d.text) for d in shipped)


def test_the_shipped_files_are_what_the_source_builds() -> None:
    for name, documents in zip(
        ("helpdesk.jsonl", "heldout.jsonl"), collect(FOLDER / "source"), strict=True
    ):
        lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == documents


def test_problems_names_repeats_and_near_repeats() -> None:
    def document(doc_id: str, text: str) -> dict[str, object]:
        return {"id": doc_id, "text": text, "lang": "en"}

    long = "my parcel has been lying in the depot for two weeks and nobody can say why"
    shipped = [document("a", "Where is it?"), document("b", "where  is it?"), document("c", long)]
    found = problems(shipped, [document("h", long + " now")])
    assert found == ["b repeats a", "h is held out and nearly repeats c"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"label": "weather"}, "unknown label 'weather'"),
        ({"sentiment": "mixed"}, "unknown sentiment 'mixed'"),
        ({"entities": [["Tarn", "THING"]]}, "unknown entity type 'THING'"),
        ({"entities": [["Wren", "PRODUCT"]]}, "entity 'Wren' does not occur"),
        ({"colour": "red"}, "unknown field 'colour'"),
    ],
)
def test_a_bad_source_line_is_refused(change: dict[str, object], reason: str) -> None:
    raw = {"text": "My Tarn is broken.", "label": "technical", "sentiment": None} | change
    with pytest.raises(SourceError, match=reason):
        ticket(raw, "en", 1)


def test_a_refused_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "tickets_en_1.jsonl").write_text('{"text": "x", "label": "billing"}\n\n{"text"\n')
    with pytest.raises(SourceError, match=r"tickets_en_1\.jsonl, line 3"):
        collect(tmp_path)


def test_locate_keeps_to_whole_words_and_takes_each_occurrence_once() -> None:
    text = "Tarnish on my Tarn, says Simon. Which Simon? 塔恩5寸"
    found = locate(text, [("Simon", "PERSON"), ("Simon", "PERSON"), ("Tarn", "PRODUCT")])
    assert [(e["start"], e["text"]) for e in found] == [(14, "Tarn"), (25, "Simon"), (38, "Simon")]
    assert locate(text, [("塔恩5", "PRODUCT")])[0]["end"] == len(text) - 1


@given(st.text(), st.text(min_size=1), st.text())
def test_located_offsets_cut_out_the_surface(before: str, surface: str, after: str) -> None:
    text = f"{before} {surface} {after}"
    (entity,) = locate(text, [(surface, "PERSON")])
    assert text[entity["start"] : entity["end"]] == surface


@pytest.fixture(scope="module")
def docs() -> list[Document]:
    return list(python_docs())


def test_python_docs_are_many_and_labelled_by_chapter(docs: list[Document]) -> None:
    assert 4_000 <= len(docs) <= 8_000
    counts = Counter(str(d.labels["label"]) for d in docs)
    assert len(counts) >= 20
    assert min(counts.values()) >= 10
    assert all(d.metadata["source"] == "sample" and d.metadata["kind"] == "python" for d in docs)


def test_python_docs_are_valid_distinct_and_in_a_fixed_order(docs: list[Document]) -> None:
    assert len({d.id for d in docs}) == len(docs)
    assert [d.id for d in python_docs()] == [d.id for d in docs]
    for document in docs:
        raw = {
            "id": document.id,
            "text": document.text,
            "title": document.title,
            "lang": document.lang,
            "labels": document.labels,
            "metadata": document.metadata,
        }
        assert parse_document(raw) == document


def test_python_docs_know_common_names(docs: list[Document]) -> None:
    by_id = {d.id: d for d in docs}
    assert by_id["python-str.split"].labels["label"] == "Built-in Functions and Types"
    assert by_id["python-bisect.bisect_left"].labels["label"] == "Data Types"
    assert by_id["python-topic-lambda"].labels["label"] == "Language Reference"
    assert "modification time" in by_id["python-posixpath.getmtime"].text
