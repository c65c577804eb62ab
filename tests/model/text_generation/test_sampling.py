"""Tokens chosen from logits, and text that is given out as far as it is certain."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from model.text_generation.sampling import Sampler, Sampling, TextStream, nucleus

LOGITS = torch.tensor([0.0, 2.0, 1.0, -1.0])


def test_greedy_is_the_likeliest_and_top_p_zero_too() -> None:
    assert Sampler(Sampling()).choose(LOGITS) == 1
    narrow = Sampler(Sampling(temperature=1.0, top_p=0.0))
    assert {narrow.choose(LOGITS) for _ in range(20)} == {1}


def test_samples_follow_the_probabilities_and_the_seed() -> None:
    one = Sampler(Sampling(temperature=1.0, seed=5))
    drawn = torch.tensor([one.choose(LOGITS) for _ in range(4_000)])
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    assert torch.allclose(shares, LOGITS.softmax(-1), atol=0.03)
    again = Sampler(Sampling(temperature=1.0, seed=5))
    assert [again.choose(LOGITS) for _ in range(50)] == drawn[:50].tolist()
    other = Sampler(Sampling(temperature=1.0, seed=-6))
    assert [other.choose(LOGITS) for _ in range(50)] != drawn[:50].tolist()


def test_the_nucleus_is_the_smallest_set() -> None:
    probs = torch.tensor([0.1, 0.5, 0.3, 0.1])
    assert nucleus(probs, 0.5).tolist() == [0.0, 1.0, 0.0, 0.0]
    kept = nucleus(probs, 0.7)
    assert torch.allclose(kept, torch.tensor([0.0, 0.625, 0.375, 0.0]))
    assert torch.allclose(nucleus(probs, 1.0), probs)


def written(pieces: list[bytes], stop: list[str]) -> tuple[list[str], bool]:
    """What a stream gives out for tokens that are these bytes."""

    def decode(ids: object) -> str:
        return b"".join(pieces[i] for i in ids).decode("utf-8", "replace")  # type: ignore[attr-defined]

    stream = TextStream(decode, (), stop)
    out = []
    for token in range(len(pieces)):
        out.append(stream.push(token))
        if stream.stopped:
            break
    return [*out, stream.flush()], stream.stopped


def test_a_character_comes_whole() -> None:
    raw = "é猫".encode()
    parts, _ = written([raw[i : i + 1] for i in range(len(raw))], [])
    assert [p for p in parts if p] == ["é", "猫"]
    assert written([b"a", raw[:1]], [])[0][-1] == "\ufffd"  # the end of the text is told anyway


def test_a_stop_string_that_lies_over_tokens() -> None:
    parts, stopped = written([b"go o", b"n\nUs", b"er", b": no"], ["\nUser:"])
    assert ("".join(parts), stopped) == ("go on", True)
    parts, stopped = written([b"go\nUs", b"ed"], ["\nUser:"])
    assert ("".join(parts), stopped) == ("go\nUsed", False)


@given(
    st.lists(st.text(alphabet="ab猫\n", min_size=1, max_size=4).map(str.encode), max_size=8),
    st.lists(st.text(alphabet="ab猫\n", min_size=1, max_size=3), max_size=3),
    st.integers(1, 3),
)
def test_the_parts_are_the_text_before_the_first_stop(
    words: list[bytes], stop: list[str], size: int
) -> None:
    raw = b"".join(words)
    pieces = [raw[i : i + size] for i in range(0, len(raw), size)]
    text = raw.decode()
    places = [text.find(s) for s in stop if s in text]
    parts, stopped = written(pieces, stop)
    assert stopped == bool(places)
    assert "".join(parts) == (text[: min(places)] if places else text)
