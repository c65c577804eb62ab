from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from model.ner.crf import FORBIDDEN, Crf, decode, nll, spans_of, tags_of


def paths(types: int, words: int) -> list[tuple[int, ...]]:
    """All tag sequences that IOB2 allows."""
    allowed = []
    for path in itertools.product(range(2 * types + 1), repeat=words):
        before = (0, *path)
        if all(tag == 0 or tag % 2 or before[i] in (tag, tag - 1) for i, tag in enumerate(path)):
            allowed.append(path)
    return allowed


def score(path: tuple[int, ...], e: np.ndarray, start: np.ndarray, t: np.ndarray) -> float:
    steps = sum(t[a, b] for a, b in itertools.pairwise(path))
    return float(start[path[0]] + steps + sum(e[i, tag] for i, tag in enumerate(path)))


def example(types: int, words: int, seed: int) -> tuple[Crf, np.ndarray]:
    torch.manual_seed(seed)
    crf = Crf(types)
    torch.nn.init.normal_(crf.start)
    torch.nn.init.normal_(crf.transitions)
    return crf, np.random.default_rng(seed).normal(scale=2.0, size=(words, 2 * types + 1))


@pytest.mark.parametrize(("types", "words"), [(1, 1), (1, 5), (2, 1), (2, 4)])
def test_decoding_and_likelihood_are_those_of_all_paths(types: int, words: int) -> None:
    crf, emissions = example(types, words, seed=types * 10 + words)
    start, transitions = (t.detach().double().numpy() for t in crf.tables())
    scores = {p: score(p, emissions, start, transitions) for p in paths(types, words)}
    total = math.log(sum(math.exp(s) for s in scores.values()))
    best = max(scores, key=lambda p: scores[p])
    found = decode(emissions, start, transitions)
    assert found.spans == spans_of(best)
    assert found.path == pytest.approx(math.exp(scores[best] - total), rel=1e-6)
    for span, prob in zip(found.spans, found.probs, strict=True):
        with_it = sum(math.exp(s - total) for p, s in scores.items() if span in spans_of(p))
        assert prob == pytest.approx(with_it, rel=1e-6)
    for path in itertools.islice(scores, 20):
        loss = crf.loss(
            torch.tensor(emissions[None]).float(),
            torch.tensor([path]),
            torch.ones(1, words, dtype=torch.bool),
        )
        assert float(loss.detach()) == pytest.approx(total - scores[path], abs=1e-4)


def test_padding_changes_no_loss() -> None:
    crf, emissions = example(2, 5, seed=3)
    alone = torch.tensor(emissions[None, :3]).float()
    padded = torch.tensor(emissions[None]).float()
    tags = torch.tensor([[1, 2, 0, 4, 4]])
    mask = torch.tensor([[True, True, True, False, False]])
    whole = torch.ones(1, 3, dtype=torch.bool)
    short = crf.loss(alone, tags[:, :3], whole)
    assert torch.allclose(crf.loss(padded, tags, mask), short, atol=1e-5)


def test_what_is_forbidden_is_never_answered() -> None:
    crf, emissions = example(2, 6, seed=5)
    emissions[:, [2, 4]] += 20.0  # every word wants to be inside of something
    start, transitions = (t.detach().double().numpy() for t in crf.tables())
    found = decode(emissions, start, transitions)
    tags = tags_of(found.spans, 6)
    assert tuple(tags) in paths(2, 6)
    broken = torch.tensor([[2, 2, 2, 2, 2, 2]])
    loss = nll(
        torch.tensor(emissions[None]).float(),
        broken,
        torch.ones(1, 6, dtype=torch.bool),
        *crf.tables(),
    )
    assert float(loss.detach()) > -FORBIDDEN / 2


def test_spans_and_tags_are_inverse_and_a_lone_i_begins_a_span() -> None:
    for path in paths(2, 4):
        assert tags_of(spans_of(path), 4) == list(path)
    assert spans_of([2, 2, 0, 4, 1]) == [(0, 2, 0), (3, 4, 1), (4, 5, 0)]


def test_a_text_without_words_has_no_entities() -> None:
    crf, _ = example(1, 1, seed=0)
    start, transitions = (t.detach().double().numpy() for t in crf.tables())
    assert decode(np.zeros((0, 3)), start, transitions).spans == []
