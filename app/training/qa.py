"""Training the head for questions: on an uploaded set in SQuAD's shape, read beside what is found.

Passages of a row's own text may be among its hits: that is what the server finds too, and what the
retriever's weight is fitted on. In training only hits that hold no answer are read beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from app.problems import invalid
from app.training.context import Training, TrainingTask, check_rows, enough
from app.training.frozen_rows import Query, Retrieval, SetInfo, freeze_rows, load_rows
from index_data.documents import Document, content_id, near_duplicate
from index_data.search.evidence import text_evidence
from index_data.text.analysis import detect_language
from index_data.text.passages import passages

if TYPE_CHECKING:
    from index_data.search.searcher import Searcher
    from model.qa.rows import SpanRow
    from model.training.qa import QaTraining

EPOCHS: Final = ((500, 20), (2_000, 10), (10_000, 4))
"""By the number of questions; of more, as many as the configuration says."""
SMALL_BATCH: Final = (1_500, 8)
SGD_RATE: Final = 0.05


def check_index(searcher: Searcher, field: str) -> None:
    """Documents carry no questions. Raises ``validation``."""
    raise invalid("#/dataset", "questions are learned from an uploaded set of the shape squad")


def freeze(training: Training, searcher: Searcher) -> None:
    """Find passages for every question that has an answer.

    Raises :class:`JobRefused` where there are too few.
    """
    from model.qa.rows import SpanTrainConfig

    given = training.dataset_rows() or []
    rows = [row for row in given if row["answers"]]
    enough(rows, f"of the {len(given)} questions of the set have an answer")
    freeze_rows(
        Retrieval.by_default(
            searcher,
            SpanTrainConfig(**training.options()).k,
            training.encoder.encode,
            filter=text_evidence(searcher),
            passages=True,
        ),
        training.work,
        [_query(row) for row in rows],
        training.reporter,
        field=training.field,
        labels={},
        left_out=len(given) - len(rows),
        feedback_items=list(_feedback(training)),
    )


def _query(row: dict[str, Any]) -> Query:
    question, context = row["question"], row["context"]
    name = row.get("id") or content_id(f"{question}\n{context}")
    return Query(name, question, row, same=partial(is_same, question, context))


def _feedback(training: Training) -> Iterator[Query]:
    """Questions to which people gave the answer with its document, read in the answer's passage.

    An answer that its document does not hold (any more) says nothing of where it should be found.
    """
    items = training.feedback("answer")
    with training.store() as store:
        for one in items:
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
            yield Query(one.id, one.text, row, same=partial(is_same, one.text, context))


def is_same(question: str, context: str, other: Document) -> bool:
    """Whether a document is the question again, or nearly its text but not its very text.

    A text that only nearly is the row's own would count as another one that holds the answer.
    """
    if near_duplicate(question, other.text):
        return True
    own = context in other.text or other.text in context
    return not own and near_duplicate(context, other.text)


def head_training(training: Training, _: SetInfo) -> QaTraining:
    """The frozen rows, and how a head is trained on them."""
    from model.qa.evidence import PassageText
    from model.qa.rows import SpanRow, SpanTrainConfig
    from model.training.qa import QaTraining

    def passage(raw: dict[str, Any]) -> PassageText:
        return PassageText(raw["text"], title=raw["title"])

    def row(raw: dict[str, Any], scored: list[tuple[PassageText, float]]) -> SpanRow:
        hits = [hit for hit, _ in scored]
        own = (hit.title for hit in hits if hit.text in raw["context"])
        title = raw.get("title") or next(own, None)
        answers = [(answer["text"], answer["start"]) for answer in raw["answers"]]
        return SpanRow(raw["id"], raw["question"], raw["context"], answers, hits, title)

    rows, feedback = load_rows(training.work, passage, row)
    options = sized(training.options(), len(rows))
    config = SpanTrainConfig(field=training.field, lang=language(rows), **options)
    return QaTraining(rows, config, training.encoder, feedback)


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


QA: Final = TrainingTask(
    head="qa",
    family="qa",
    check_index=check_index,
    check_dataset=check_rows,
    freeze=freeze,
    head_training=head_training,
)
