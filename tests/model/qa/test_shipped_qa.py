"""The head for questions that ships, over a context that is given: answered, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from index_data.sample import helpdesk
from model.encoder.encoder import Encoder
from model.qa.answers import SpanReader
from model.qa.evidence import PassageText
from model.reader import Reader
from model.training.qa_calibration import ask_all

SHIPPED = Path(__file__).resolve().parents[3] / "model" / "shipped"
HOURS = "The shop opens at nine and closes at five."
REPORT = "The report was written by Anna Smith in 2019."
WARRANTY = "The warranty covers manufacturing defects for two years."
RETURNS = "You can return an item within 30 days of delivery."


@pytest.fixture(scope="module")
def reader() -> SpanReader:
    return Reader.load(SHIPPED, Encoder.load()).spans("qa")


@pytest.mark.parametrize(
    ("question", "context", "answer"),
    [
        ("When does the shop close?", HOURS, "five"),
        ("Who wrote the report?", REPORT, "Anna Smith"),
        ("What does the warranty cover?", WARRANTY, "manufacturing defects"),
        ("How long do I have to return an item?", RETURNS, "30 days"),
        ("What is the capital of France?", REPORT, None),
        ("When did the war end?", WARRANTY, None),
        ("Who wrote the report?", RETURNS, None),
        ("When does the shop close?", "The shop sells bread and cakes in the old town.", None),
        ("What does the warranty cover?", HOURS, None),
    ],
)
def test_a_short_context_answers_or_does_not(
    reader: SpanReader, question: str, context: str, answer: str | None
) -> None:
    (said,) = ask_all(reader, [reader.ask(question, [PassageText(context)])])
    assert said.answerable == (answer is not None), said.support
    if answer is not None:
        assert said.spans[0].text == answer


@pytest.mark.parametrize(
    ("question", "article", "answer"),
    [
        ("Who is your partner for instalments?", "article-en-008", "Larkfield Credit"),
        (
            "How do I reset my password?",
            "article-en-033",
            "Press Forgotten password on the sign-in",
        ),
        ("When are the shops open on Saturday?", "article-en-076", "9:30 to 19:00"),
    ],
)
def test_what_a_title_says_is_not_asked_of_the_text_again(
    reader: SpanReader, question: str, article: str, answer: str
) -> None:
    document = next(one for one in helpdesk() if one.id == article)
    bare, titled = ask_all(
        reader,
        [
            reader.ask(question, [PassageText(document.text, title=title)])
            for title in (None, document.title)
        ],
    )
    assert titled.answerable
    assert titled.spans[0].text.startswith(answer)
    assert titled.support > bare.support


@pytest.mark.parametrize(
    ("question", "contexts", "readable"),
    [
        ("退款需要多久？", [RETURNS], False),
        ("When does the shop close?", ["我要退掉这台坏掉的电视机。"], False),
        ("When does the shop close?", ["我要退掉这台坏掉的电视机。", HOURS], True),
        ("When does the café in 東京 close?", [HOURS], True),
        ("When does the shop close?", [], True),
    ],
)
def test_what_the_vocabulary_does_not_cover_answers_nothing(
    reader: SpanReader, question: str, contexts: list[str], readable: bool
) -> None:
    (said,) = ask_all(reader, [reader.ask(question, [PassageText(c) for c in contexts])])
    assert said.readable is readable
    assert [mass > 0 for mass in said.mass] == [readable and text == HOURS for text in contexts]
    assert all(span.passage == contexts.index(HOURS) for span in said.spans)
