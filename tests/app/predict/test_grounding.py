"""Which sentences the retrieved text supports, by words, numbers and negation."""

from __future__ import annotations

import pytest

from app.predict.grounding import Sentence, Source, citations, grounded, share, weights
from index_data.text.passages import sentences

SOURCES = [
    Source.of(1, "Refunds", "The refund is paid within 14 days. Opened software is not refunded."),
    Source.of(2, None, "A courier brings the parcel before noon. 退款需要三天。"),
    Source.of(3, None, "The warehouse in Leeds checks each parcel."),
]


@pytest.mark.parametrize(
    ("text", "ranks"),
    [
        ("The refund is paid within 14 days.", (1,)),
        ("Refunds are paid within 14 days.", (1,)),
        ("The refund is paid within 30 days.", ()),  # another number
        ("The refund is not paid within 14 days.", ()),  # the contrary
        ("Opened software is refunded.", ()),
        ("Opened software isn't refunded.", (1,)),
        ("The courier brings your parcel before noon.", (2,)),
        ("The courier brings the parcel and the warehouse in Leeds checks.", (2, 3)),
        ("The moon is far away.", ()),
        ("退款需要三天。", (2,)),
        ("Refunds, refunds within 14 days, refunds within days, refunds.", ()),  # in circles
        ("Yes.", ()),
        ("...", ()),
    ],
)
def test_a_sentence_rests_on_what_says_it(text: str, ranks: tuple[int, ...]) -> None:
    assert citations(text, SOURCES) == ranks


DRONE = [
    Source.of(
        1,
        "The Gannet",
        "It flies for 34 minutes. The battery weighs 90 g. Wind above 12 m/s is refused. "
        "A spare propeller from Leeds costs 8 euro.",
    ),
    Source.of(2, None, "Parcels from Dublin need five days."),
]


@pytest.mark.parametrize(
    ("text", "ranks"),
    [
        ("The Gannet flies for 34 minutes.", (1,)),  # a title counts with each sentence
        ("The Gannets fly for 34 minutes.", (1,)),
        ("The battery of the Gannet weighs 90 g and it flies for 34 minutes.", (1,)),  # two
        ("A battery propeller of wind weighs minutes.", ()),  # words from all over
        ("The battery weighs 34 g.", ()),  # a number that stands elsewhere
        ("A spare propeller from Dublin costs 8 euro.", ()),  # a name that does
        ("A spare propeller from Leeds costs 8 euro.", (1,)),
        ("A spare propeller costs 8 euro and parcels from Dublin need five days.", (1, 2)),
        ("Spare Propeller Costs", (1,)),  # no names in a headline
    ],
)
def test_what_is_said_must_stand_together(text: str, ranks: tuple[int, ...]) -> None:
    assert citations(text, DRONE) == ranks


def test_an_answer_is_told_sentence_by_sentence() -> None:
    text = "  The refund is paid within 14 days. The moon is made of cheese!\nA courier brings it."
    found = grounded(text, SOURCES)
    assert [text[s.start : s.end] for s in found] == [
        "The refund is paid within 14 days.",
        "The moon is made of cheese!",
        "A courier brings it.",
    ]
    assert [s.grounded for s in found] == [True, False, True]
    assert 0.5 < share(found) < 1
    shares = weights(found, [1, 2, 3])
    assert shares[3] == 0
    assert sum(shares.values()) == pytest.approx(share(found))
    assert share([]) == 0
    assert weights([Sentence(0, 10, (1, 2))], [1, 2]) == {1: 0.5, 2: 0.5}


def test_sentences_hold_every_word() -> None:
    text = "One.  Two? 三。四！\nfive\n\n  "
    assert [text[a:b] for a, b in sentences(text)] == ["One.", "Two?", "三。", "四！", "five"]
    assert sentences(" \n ") == []
