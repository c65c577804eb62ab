"""Influence, flip sets and ablation are what recomputing by brute force says."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.inference.answer import AnswerOptions, Evidence, verdict
from app.inference.engine import Engine
from app.inference.influence import Counterfactuals, Variants, as_retrieved
from app.inference.pipeline import Pipeline
from app.inference.snapshot import ModelInfo, Serving, Snapshot
from app.metrics import Metrics
from index_data.documents import Document
from index_data.search.searcher import Hit
from model.checkpoint import load_heads, save_checkpoint
from model.encoder.encoder import Encoder
from model.provenance import digests
from model.reader import Reader
from tests.app.tiny import WORDS

CASES = 25
ASK = AnswerOptions(influence=True, ablation=True)


@pytest.fixture(scope="module", params=["head", "head and new documents", "no head"])
def serving(
    request: Any, checkpoint: Path, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    folder = checkpoint if request.param.startswith("head") else None
    if request.param == "head and new documents":  # it was trained on every other one of `case`
        folder = tmp_path_factory.mktemp("heads") / "v2"
        known = digests(f"d{rank}" for rank in range(1, 13, 2))
        heads = {
            name: replace(head, documents=known) for name, head in load_heads(checkpoint)[1].items()
        }
        save_checkpoint(folder, heads, encoder)
    engine = Engine(lambda: Reader.load(folder, encoder.fork()), max_tokens=32, batch_tokens=512)
    reader = engine.start().result()
    yield Serving(engine, ModelInfo.of(reader, "v1"), encoder)
    engine.retire()
    engine.join(5)


def case(seed: int, encoder: Encoder) -> tuple[str, list[Hit]]:
    """A text and hits: repeated texts, foreign labels, lists, none, no vector, exact matches."""
    rng = random.Random(seed)
    words = [w for group in WORDS.values() for w in group]
    text = " ".join(rng.sample(words, 3))
    kind = seed % 5
    hits = []
    for rank in range(1, rng.randint(1, 12) + 1):
        topic = rng.choice(sorted(WORDS))
        body = " ".join(rng.sample(WORDS[topic], 2))
        if (kind == 1 and rng.random() < 0.4) or (kind == 2 and rng.random() < 0.2):
            body = text.upper()  # the very text: its label decides, unless two differ
        label: str | list[str] | None = rng.choice([topic, topic, topic, "other", None])
        if kind == 3 and rng.random() < 0.4:
            label = rng.sample(sorted(WORDS), 2)
        document = Document(
            id=f"d{rank}",
            text=body,
            labels={} if label is None else {"label": label},
            metadata={"source": rng.choice(["test", "feedback"])},
        )
        vector = None if rng.random() < 0.1 else encoder.encode([body])[0]
        score = rng.choice([3.0, 1.0, 0.2]) / rank
        hits.append(Hit(document.id, rank, score, {}, document, 0, len(body), vector))
    return text, hits


def brute(
    serving: Serving, text: str, hits: list[Hit], labels: tuple[str, ...], ask: AnswerOptions = ASK
) -> Any:
    """What is predicted over these hits, alone and from the text on."""
    state = serving.engine.read(text, "label").result().state
    row = as_retrieved(text, hits, "label")
    said = serving.engine.call(
        lambda reader: reader.predict([state], [row], "label", index_labels=labels)
    ).result()
    return verdict(said[0], ask)


def answer(serving: Serving, text: str, evidence: Evidence, ask: AnswerOptions = ASK) -> Any:
    pipeline = Pipeline(retrieval_threads=1)
    snapshot = Snapshot(None, serving)
    try:
        return asyncio.run(pipeline.answer(snapshot, text, ask, recorded=evidence))
    finally:
        pipeline.close()


@pytest.mark.parametrize(
    "asked", [ASK, AnswerOptions(influence=True, labels=("fruit", "tool"), k=12)]
)
def test_influence_equals_brute_force(
    serving: Serving, encoder: Encoder, asked: AnswerOptions
) -> None:
    labels = ("fruit", "music", "other", "tool")
    flips = sets = 0
    for seed in range(CASES):
        text, hits = case(seed, encoder)
        found = answer(serving, text, Evidence(hits, labels), asked)
        if not found.scores:
            continue
        whole = brute(serving, text, hits, labels, asked)
        for cited in found.cited:
            left = [hit for hit in hits if hit is not cited.hit]
            other = brute(serving, text, left, labels, asked)
            delta = whole.probs[whole.label] - other.probs.get(whole.label, 0.0)
            assert cited.influence.delta == pytest.approx(delta, abs=1e-5), seed
            assert cited.influence.flips == (other.answered != whole.answered), seed
            flips += cited.influence.flips
        if found.flip_set is not None:
            sets += 1
            check_flip_set(serving, text, hits, labels, found, whole, asked)
    assert flips > 0
    assert sets > 0


def check_flip_set(
    serving: Serving,
    text: str,
    hits: list[Hit],
    labels: tuple[str, ...],
    found: Any,
    whole: Any,
    asked: AnswerOptions,
) -> None:
    """It flips, and nothing smaller does (where it says exact), or nothing inside it."""

    def flips(gone: set[str]) -> bool:
        left = [hit for hit in hits if hit.doc_id not in gone]
        return bool(brute(serving, text, left, labels, asked).answered != whole.answered)

    chosen = set(found.flip_set.doc_ids)
    assert flips(chosen)
    ids = [
        c.hit.doc_id
        for c in found.cited
        if whole.answered & set(np.atleast_1d(c.hit.document.labels.get("label", [])).tolist())
    ]
    every = [c.hit.doc_id for c in found.cited]
    assert len(chosen) == 1 or not any(flips({one}) for one in every)
    smaller = (
        [set(c) for n in range(1, len(chosen)) for c in combinations(ids, n)]
        if found.flip_set.exact
        else [chosen - {one} for one in chosen]
    )
    assert not any(flips(gone) for gone in smaller)


@pytest.mark.parametrize("serving", ["no head"], indirect=True)  # a head has an opinion of its own
def test_three_that_say_the_same_are_told_together(serving: Serving, encoder: Encoder) -> None:
    """Each alone changes nothing: the others say it too."""
    hits = []
    for rank in range(1, 6):
        body, label = ("apple pear", "fruit") if rank <= 3 else ("hammer saw drill", "tool")
        document = Document(id=f"d{rank}", text=body, labels={"label": label})
        vector = encoder.encode([body])[0]
        hits.append(Hit(document.id, rank, 1.0, {}, document, 0, len(body), vector))
    found = answer(serving, "apple pear plum", Evidence(hits, ("fruit", "tool")))
    assert found.label == "fruit"
    assert not any(c.influence.flips for c in found.cited)
    assert found.flip_set.doc_ids == ["d1", "d2", "d3"]
    assert (found.flip_set.label, found.flip_set.exact) == ("tool", True)


def test_no_list_of_hits_is_computed_twice(serving: Serving, encoder: Encoder) -> None:
    text, hits = case(0, encoder)
    state = serving.engine.read(text, "label").result().state
    rows: list[int] = []

    class Counting:
        def call(self, work: Any) -> Any:
            def counted(reader: Reader) -> Any:
                done = work(reader)
                rows.append(len(done))
                return done

            return serving.engine.call(counted)

    watched = Serving(Counting(), serving.model, serving.encoder)  # type: ignore[arg-type]
    asked = Counterfactuals(
        watched, state, "label", (), Variants(text, hits, "label"), lambda p: verdict(p, ASK)
    )
    parts = [frozenset({0}), frozenset({0}), frozenset[int]()]
    asyncio.run(asked.without(parts))
    asyncio.run(asked.without(parts))
    assert sum(rows) == 2


def test_lists_in_one_request_change_no_other(serving: Serving, encoder: Encoder) -> None:
    """A batch may hold hits with single labels and hits with lists of them."""
    cases = [case(seed, encoder) for seed in range(10)]
    states = [serving.engine.read(text, "label").result().state for text, _ in cases]
    rows = [as_retrieved(text, hits, "label") for text, hits in cases]
    labels = ("fruit", "music", "other", "tool")
    together = serving.engine.call(
        lambda r: r.predict(states, rows, "label", index_labels=labels)
    ).result()
    assert {said.multi for said in together} == {True, False}
    for (text, hits), said in zip(cases, together, strict=True):
        alone = brute(serving, text, hits, labels)
        assert verdict(said, ASK).probs == pytest.approx(alone.probs, abs=1e-5)


def test_ablation_is_the_closed_book(serving: Serving, encoder: Encoder) -> None:
    for seed in range(8):
        text, hits = case(seed, encoder)
        found = answer(serving, text, Evidence(hits, ("fruit",)))
        closed = answer(serving, text, Evidence([], ()))
        assert found.closed.label == closed.label
        assert found.closed.scores == pytest.approx(dict(closed.scores), abs=1e-5)
        assert found.closed.confidence == pytest.approx(closed.confidence, abs=1e-5)
        if serving.model.heads:
            assert set(found.closed.scores) == set(WORDS)
        else:
            assert found.closed.label is None


def test_what_retrieval_brought_is_counted() -> None:
    from app.inference.ablation import Ablations, ClosedBook
    from app.inference.influence import Verdict

    metrics = Metrics()
    ablations = Ablations(metrics)
    on = Verdict("a", frozenset({"a"}), {"a": 0.9, "b": 0.1})
    for alone in (
        Verdict("a", frozenset({"a"}), {"a": 0.7, "b": 0.3}),
        Verdict("b", frozenset({"b"}), {"a": 0.4, "b": 0.6}),
        Verdict(None, frozenset(), {}),
    ):
        ablations.count("label", ClosedBook.of(alone, on))
    ablations.judge("label", "a", "b", "a")
    ablations.judge("label", "a", "b", "c")
    told = ablations.to_json()["label"]
    assert told["answers"] == 3
    assert told["changed"] == pytest.approx(2 / 3, abs=1e-6)
    assert told["confidence"] == pytest.approx((0.2 + 0.3 + 0.9) / 3, abs=1e-6)
    assert told["judged"] == {"on": 1, "off": 0, "both": 0, "neither": 1}
    assert 'footnote_ablation_changed_total{field="label"} 2.0\n' in metrics.text().decode()
