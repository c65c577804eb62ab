from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from index_data.search.highlight import fragments, matches

TEXT = (
    "The parcel was charged twice. Nobody at the shop answered for a week, and then they said that "
    "the charge was right. I had ordered one lamp only. "
    + "Filler words stand here. " * 20
    + "Refunds of double charges take five days."
)


def test_matches_are_found_by_stem() -> None:
    found = [TEXT[start:end] for start, end, _ in matches(TEXT, "charging refund")]
    assert found == ["charged", "charge", "Refunds", "charges"]


def test_fragments_hold_the_most_terms() -> None:
    first, second = fragments(TEXT, "charged refund", count=2)
    assert "charged twice" in first.text
    assert second.text.endswith("Refunds of double charges take five days.")
    assert [TEXT[s:e] for s, e in second.matches] == ["Refunds", "charges"]


def test_chinese() -> None:
    text = "我想退货，因为屏幕坏了。" * 30
    found = fragments(text, "屏幕坏了", count=1)
    assert "屏幕" in found[0].text
    assert len(found[0].text) <= 200


@given(st.text(max_size=400), st.text(max_size=20), st.integers(1, 3), st.integers(1, 60))
def test_fragments_are_pieces_of_the_text(text: str, query: str, count: int, size: int) -> None:
    found = fragments(text, query + " " + text[:10], count=count, size=size)
    assert len(found) <= count
    for one in found:
        assert one.text == text[one.start : one.end]
        assert one.matches
        assert all(one.start <= start < end <= one.end for start, end in one.matches)
    for one, other in pairwise(found):
        assert one.end <= other.start
