"""Training the head for questions: on an uploaded set in SQuAD's shape, read beside what is found.

Passages of a row's own text may be among its hits: that is what the server finds too, and what the
retriever's weight is fitted on. In training only hits that hold no answer are read beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from app.problems import invalid
from app.records.datasets import Dataset
from app.records.feedback import answered
from app.training.context import Training, check_rows, enough
from app.training.frozen_rows import (
    PASSAGES,
    ROWS,
    Query,
    Retrieval,
    documents,
    feedback_rows,
    freeze_rows,
    read_info,
)
from app.training.frozen_rows import lines as objects
from index_data.documents import Document, content_id, near_duplicate
from index_data.text.analysis import detect_language
from index_data.text.passages import passages

if TYPE_CHECKING:
    from index_data.search.searcher import Searcher
    from model.qa.rows import SpanRow

EPOCHS: Final = ((500, 20), (2_000, 10), (10_000, 4))
"""By the number of questions; of more, as many as the configuration says."""
SMALL_BATCH: Final = (1_500, 8)
SGD_RATE: Final = 0.05


def check_index(searcher: Searcher, field: str) -> None:
    """Documents carry no questions. Raises ``validation``."""
    raise invalid("#/dataset", "questions are learned from an uploaded set of the shape squad")


def check_dataset(found: Dataset) -> None:
    """Refuse too few questions. Raises ``validation``."""
    check_rows(found)


def freeze(training: Training, searcher: Searcher) -> None:
    """Find passages for every question that has an answer.

    Raises :class:`JobRefused` where there are too few.
    """
    from model.qa.rows import SpanTrainConfig

    given = training.dataset_rows() or []
    rows = [row for row in given if row["answers"]]
    enough(rows, f"of the {len(given)} questions of the set have an answer")
    fits = searcher.has_vectors
    retrieval = Retrieval(
        searcher,
        SpanTrainConfig(**training.options()).k,
        searcher.default_method if fits else "bm25",
        training.encoder.encode if fits else None,
        passages=True,
    )
    freeze_rows(
        retrieval,
        training.work,
        [_query(row) for row in rows],
        training.reporter,
        field=training.field,
        labels={},
        left_out=len(given) - len(rows),
        feedback_items=list(_said(training)),
    )


def _query(row: dict[str, Any]) -> Query:
    question, context = row["question"], row["context"]
    name = row.get("id") or content_id(f"{question}\n{context}")
    return Query(name, question, row, partial(is_same, question, context))


def _said(training: Training) -> Iterator[Query]:
    """Questions to which people gave the answer with its document, read in the answer's passage.

    An answer that its document does not hold (any more) says nothing of where it should be found.
    """
    said = training.said(answered)
    with training.store() as store:
        for one in said:
            answer = one.answer or {}
            document = store.get(answer["doc_id"]) if answer.get("doc_id") else None
            text = "" if document is None else document.text
            start = answer.get("start")
            start = text.find(answer["text"]) if start is None else start
            end = start + len(answer["text"])
            if not 0 <= start < end or text[start:end] != answer["text"]:
                continue
            words = int(training.params["_passage_words"])
            whole = ((a, b) for a, b in passages(text, words=words) if a <= start and end <= b)
            first, last = next(whole, (0, len(text)))
            context = text[first:last]
            place = {"text": answer["text"], "start": start - first}
            title = None if document is None else document.title
            row = {"question": one.text, "context": context, "title": title, "answers": [place]}
            yield Query(one.id, one.text, row, partial(is_same, one.text, context))


def is_same(question: str, context: str, other: Document) -> bool:
    """Whether a document is the question again, or nearly its text but not its very text.

    A text that only nearly is the row's own would count as another one that holds the answer.
    """
    if near_duplicate(question, other.text):
        return True
    own = context in other.text or other.text in context
    return not own and near_duplicate(context, other.text)


def train(training: Training) -> dict[str, Any]:
    """Train on the frozen rows; the report, and what the rows were made from."""
    from model.provenance import digests
    from model.qa.rows import SpanTrainConfig
    from model.training.qa import train_span

    info, (rows, feedback_items) = read_info(training.work), load(training)
    report = train_span(
        rows,
        SpanTrainConfig(
            field=training.field, lang=language(rows), **sized(training.options(), len(rows))
        ),
        training.encoder,
        training.out,
        base=training.base,
        feedback_items=feedback_items,
        documents=digests(documents(training.work)),
        progress=training.progress,
        cancelled=training.reporter.cancelled,
    ).to_json()
    if info.left_out:
        left = f"{info.left_out} questions without an answer were left out"
        report["warnings"] = [*report["warnings"], left]
    return {"report": report, "data": asdict(info)}


def load(training: Training) -> tuple[list[SpanRow], list[SpanRow]]:
    """The frozen rows, and the recorded feedback."""
    from model.labels.memory import Retrieved
    from model.qa.rows import SpanRow

    found = [
        Retrieved(passage["title"], passage["text"], None, 0.0, None)
        for passage in objects(training.work / PASSAGES)
    ]

    def row(raw: dict[str, Any]) -> SpanRow:
        answers = [(answer["text"], answer["start"]) for answer in raw["answers"]]
        hits = [found[number] for number, _ in raw["hits"]]
        own = (hit.title for hit in hits if hit.text in raw["context"])
        title = raw.get("title") or next(own, None)
        return SpanRow(raw["id"], raw["question"], raw["context"], answers, hits, title)

    rows = [row(raw) for raw in objects(training.work / ROWS)]
    return rows, [row(raw) for raw in feedback_rows(training.work)]


def sized(given: dict[str, Any], rows: int) -> dict[str, Any]:
    """The options with those filled in that go by the number of rows or by the optimizer."""
    epochs = next((n for limit, n in EPOCHS if rows < limit), None)
    chosen: dict[str, Any] = {} if epochs is None else {"epochs": epochs}
    if rows < SMALL_BATCH[0]:
        chosen["batch_size"] = SMALL_BATCH[1]
    if given.get("optimizer") == "sgd":
        chosen["lr"] = SGD_RATE
    return chosen | given


def language(rows: Sequence[SpanRow]) -> str:
    """By whose rules answers are compared: the language of most texts."""
    return Counter(detect_language(row.context) for row in rows).most_common(1)[0][0]
