"""Analysis is total, its places are right, and its fast path is its slow path."""

from __future__ import annotations

import threading
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from index_data.text.analysis import (
    MAX_QUERY_TERMS,
    analyze,
    detect_language,
    matches,
    nfkc,
    query_terms,
    supported,
    terms,
)
from index_data.text.passages import passages

# Every code point, lone surrogates too, and what is most likely to go wrong more often.
HARD = (
    "a A z9_'’-.\n ﬁ①½㍿ＡＢ中国人民"
    "é\u0301\u0300\u1100\u1161\u11a8가ｶﾞㅏㄱﾡ\u0958İßΣς\ud800\udfff\U00020000々〇\u200d"
)
ANY_TEXT = st.text(st.characters() | st.sampled_from(HARD), max_size=60) | st.text(
    st.characters(codec=None, categories=None) | st.sampled_from(HARD), max_size=60
)
LANGUAGES = st.sampled_from([None, "en", "zh", "de", "en-GB"])


@given(ANY_TEXT, LANGUAGES)
@example("a\ud800b 中国\udfff", None)
@example("'’'", None)
@example("X" * 5_000 + "中" * 5_000, None)
def test_analysis_is_total_and_its_places_are_right(text: str, lang: str | None) -> None:
    language, tokens = analyze(text, lang)
    assert language == (lang or detect_language(text))
    position = 0
    for token in tokens:
        assert 0 <= token.start < token.end <= len(text)
        assert token.text == text[token.start : token.end]
        assert token.start >= position or token.start == tokens[0].start
        position = token.start
        assert 0 < len(token.stem) <= 64
    assert terms(text, lang) == [token.stem for token in tokens if not token.stop]


@given(ANY_TEXT)
def test_normalising_in_pieces_is_normalising_the_whole(text: str) -> None:
    mapped = nfkc(text)
    assert mapped.text == unicodedata.normalize("NFKC", text)
    for end in range(1, len(mapped.text) + 1):
        start, stop = mapped.original(end - 1, end)
        assert 0 <= start < stop <= len(text)


def test_every_pair_that_could_join_is_mapped_right() -> None:
    joining = [chr(c) for c in range(0x110000) if unicodedata.combining(chr(c))]
    joining += [chr(c) for c in (*range(0x1100, 0x1200), *range(0x3131, 0x318F))]
    joining += [chr(c) for c in range(0xFF65, 0xFFDD)]
    for first in "aÉ中\u1100가ｶ\u0915\u09c7\uffa1":
        for second in joining:
            text = first + second + "x"
            assert nfkc(text).text == unicodedata.normalize("NFKC", text)


def test_each_step_is_shown() -> None:
    language, tokens = analyze("The customers' PAYMENTS, ﬁles read_csv!")
    assert language == "en"
    assert [(t.text, t.stem, t.stop) for t in tokens] == [
        ("The", "the", True),
        ("customers", "custom", False),
        ("PAYMENTS", "payment", False),
        ("ﬁles", "file", False),
        ("read", "read", False),
        ("csv", "csv", False),
    ]


def test_mixed_text_is_handled_by_script() -> None:
    text = "退款 for my 订单 was rejected"
    assert terms(text) == terms(text, "zh") == terms(text, "en")
    assert terms(text) == ["退款", "my", "订单", "reject"]


def test_chinese_is_segmented_and_its_stop_words_dropped() -> None:
    language, tokens = analyze("我的订单被重复扣款了。")
    assert language == "zh"
    assert "".join(t.text for t in tokens) == "我的订单被重复扣款了"
    assert [t.stem for t in tokens if not t.stop] == ["订单", "重复", "扣款"]


def test_full_width_and_decomposed_letters_are_the_same_terms() -> None:
    assert terms("ＲＥＦＵＮＤ café") == terms("refund cafe\u0301")
    assert terms("don’t") == terms("don't")
    assert terms("the bank’s") == ["bank"]
    assert terms("that's it") == []


def test_a_language_without_an_analyzer_is_not_stemmed() -> None:
    assert not supported("de")
    assert supported("en-GB")
    assert supported("zh-Hant")
    assert supported(None)
    assert terms("The Rechnungen", "de") == ["the", "rechnungen"]


def test_a_query_is_cut() -> None:
    assert len(query_terms("word " * 100_000)) == MAX_QUERY_TERMS
    assert query_terms("X" * 1_000_000) == ["x" * 64]


def test_matches_are_found_by_stem() -> None:
    text = (
        "The parcel was charged twice, the charge was right. Refunds of double charges take a week."
    )
    found = [text[start:end] for start, end in matches(text, "charging refund")]
    assert found == ["charged", "charge", "Refunds", "charges"]
    chinese = "我想退货，因为屏幕坏了。"
    assert "屏幕" in [chinese[start:end] for start, end in matches(chinese, "屏幕坏了")]
    assert matches(text, "the") == []


@pytest.mark.parametrize("count", [8])
def test_threads_do_not_share_a_stemmer(count: int) -> None:
    words = [f"{a}{b}ing" for a in "abcdefgh" for b in ("walk", "charg", "order", "pay")]
    expected = terms(" ".join(words))
    found: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: found.append(terms(" ".join(words * 20))))
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected * 20] * count


SENTENCES = st.lists(
    st.sampled_from(["One. ", "Two words! ", "今天很好。", "x" * 130, "\n", " a b"])
)


@given(SENTENCES.map("".join) | ANY_TEXT, st.integers(0, 12))
def test_passages_cover_the_text_in_order(text: str, words: int) -> None:
    spans = passages(text, words=words)
    covered: set[int] = set()
    for (start, end), (next_start, next_end) in pairwise(spans):
        assert start < next_start
        assert end < next_end
        assert next_start <= end or not text[end:next_start].strip()
    for start, end in spans:
        assert 0 <= start <= end <= len(text)
        covered.update(range(start, end))
    assert all(text[i].isspace() for i in range(len(text)) if i not in covered)
    if words == 0:
        assert spans == [(0, len(text))]


def test_passages_end_with_sentences_and_share_one() -> None:
    text = "One two three. Four five. Six seven eight! Nine ten."
    assert [text[s:e] for s, e in passages(text, words=5)] == [
        "One two three. Four five.",
        "Four five. Six seven eight!",
        "Six seven eight! Nine ten.",
    ]
    assert passages(text, words=10) == [(0, len(text))]
    chinese = "今天天气很好。我们去公园吧！"
    assert len(passages(chinese, words=4)) == 2
    assert len(passages(chinese, words=200)) == 1
