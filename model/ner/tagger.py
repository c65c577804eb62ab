"""Text and labelled sentences in, entities out: the code that serves, trains and is measured.

A head answers for the types that it knows. Types that it does not know, or all of them where there
is no head, are answered by the words' neighbours in the retrieved sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from model.encoder.encoder import Encoder, batches_by_length
from model.ner.crf import Decoded, Span, decode
from model.ner.evidence import Seen, TagHit, features, occurrences
from model.ner.neighbours import Neighbourhood, Vote
from model.ner.network import TagNetwork, Window, collate, windows
from model.ner.words import split_words

BATCH_TOKENS = 2048
MIN_SCORE = 0.3
"""What neighbours alone say of a span counts from this probability on."""


@dataclass(frozen=True, slots=True)
class Entity:
    """An entity: `text[start:end]` in code points, and the probability of exactly this span."""

    text: str
    type: str
    start: int
    end: int
    score: float
    trained: bool = True  # by a head; otherwise by neighbours alone


@dataclass(slots=True)
class TagAnswer:
    """The entities of a text, in order.

    `confidence`: the least certain entity's score, or the probability that there is none.
    `support`: 0 to 1, how far the hits carry the answer. `weights`: for each hit, its share in it.
    `abstained`: there is neither a head nor a labelled sentence.
    """

    entities: list[Entity]
    confidence: float
    support: float
    weights: list[float]
    tokens: int
    calibrated: bool
    abstained: bool = False


@dataclass(slots=True)
class _Part:
    """One window of one text on its way."""

    text: int
    window: Window
    seen: list[list[Seen]]
    evidence: NDArray[np.float32]
    decoded: Decoded | None = None


@dataclass(slots=True)
class _Text:
    """What is gathered for one text."""

    hits: Sequence[TagHit]
    entities: list[Entity] = field(default_factory=list)
    empty: float = 1.0  # probability that no window holds an entity
    supports: list[float] = field(default_factory=list)
    weights: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    tokens: int = 0
    read: bool = False  # whether `neighbourhood` was looked for
    neighbourhood: Neighbourhood | None = None


class Tagger:
    """Finds entities. Not for several threads at once."""

    def __init__(self, network: TagNetwork | None, encoder: Encoder) -> None:
        """`network`: None is one that answers by neighbours alone."""
        self.network = network
        self.encoder = encoder
        self.types: tuple[str, ...] = network.config.types if network else ()
        self.k = network.config.k if network else 48

    @torch.inference_mode()
    def answer(self, texts: Sequence[str], hits: Sequence[Sequence[TagHit]]) -> list[TagAnswer]:
        """The entities of each text, given its labelled hits, best first."""
        gathered = [_Text(row[: self.k], weights=np.zeros(len(row))) for row in hits]
        parts = [
            part
            for i, (text, result) in enumerate(zip(texts, gathered, strict=True))
            for part in self._parts(i, text, result.hits)
        ]
        if self.network is not None:
            self._decode(self.network, parts)
        for part in parts:
            self._collect(part, texts[part.text], gathered[part.text])
        return [self._finish(result) for result in gathered]

    def _parts(self, number: int, text: str, hits: Sequence[TagHit]) -> list[_Part]:
        words = split_words(text)
        limit = self.network.config.max_tokens if self.network else self.encoder.max_tokens
        seen = occurrences(words, hits)
        evidence = features(seen, self.types)
        parts, at = [], 0
        for window in windows(self.encoder, text, words, limit):
            stop = at + len(window.words)
            parts.append(_Part(number, window, seen[at:stop], evidence[at:stop]))
            at = stop
        return parts

    def _decode(self, network: TagNetwork, parts: Sequence[_Part]) -> None:
        start, transitions, heat = network.tables()
        lengths = [len(part.window.ids) for part in parts]
        for batch in batches_by_length(lengths, budget=BATCH_TOKENS):
            some = [parts[i] for i in batch]
            tensors = collate(self.encoder, [p.window for p in some], [p.evidence for p in some])
            dtype = network.scores.weight.dtype
            tensors = tensors._replace(evidence=tensors.evidence.to(dtype))
            emissions = network(tensors).double().cpu().numpy()
            for part, rows in zip(some, emissions, strict=True):
                own = rows[: len(part.window.words)] / heat
                part.decoded = decode(own, start / heat, transitions / heat)

    def _collect(self, part: _Part, text: str, result: _Text) -> None:
        """The spans of head and neighbours; where they overlap, the likelier ones stay."""
        window = part.window
        result.tokens += len(window.ids)
        vote = self._vote(window, result)
        voted: list[tuple[Span, float]] = []
        if vote is not None:
            for span, prob in zip(vote.decoded.spans, vote.decoded.probs, strict=True):
                if prob >= MIN_SCORE:
                    voted.append(
                        (span, prob * min(1.0, float(vote.near[span[0] : span[1]].mean())))
                    )
        own: list[tuple[Span, float]] = []
        if part.decoded is not None:
            result.empty *= part.decoded.path if not part.decoded.spans else 1.0
            own = list(zip(part.decoded.spans, part.decoded.probs, strict=True))
        added = [
            (span, score)
            for span, score in voted
            if all(score > other for learned, other in own if _overlap(span, learned))
        ]

        def add(first: int, stop: int, name: str, score: float, *, trained: bool) -> None:
            start, end = window.words[first].start, window.words[stop - 1].end
            result.entities.append(Entity(text[start:end], name, start, end, score, trained))

        for span, score in own:
            if any(_overlap(span, other) for other, _ in added):
                continue
            first, stop, kind = span
            add(first, stop, self.types[kind], score, trained=True)
            self._credit(part, first, stop, self.types[kind], result)
        if vote is None:
            return
        for (first, stop, kind), score in added:
            add(first, stop, vote.types[kind], score, trained=False)
            shares = vote.shares[first:stop].mean(0)
            result.weights[: len(shares)] += shares
            result.supports.append(float(vote.near[first:stop].mean() * shares.sum()))

    def _vote(self, window: Window, result: _Text) -> Vote | None:
        """What the neighbours say of a window, about the types that the head lacks."""
        if not result.read:
            others = {t for hit in result.hits for _, _, t in hit.entities} - {*self.types}
            result.neighbourhood = Neighbourhood.of(self.encoder, result.hits, only=sorted(others))
            result.read = True
        return None if result.neighbourhood is None else result.neighbourhood.vote(window)

    def _credit(self, part: _Part, first: int, stop: int, name: str, result: _Text) -> None:
        """Which hits tag the words of an entity as the answer does, and how far they agree."""
        agreed = np.zeros(len(result.weights))
        total = 0.0
        for w in range(first, stop):
            for one in part.seen[w]:
                total += one.weight
                if one.tag is not None and one.tag[0] == name:
                    agreed[one.hit] += one.weight
        result.supports.append(float(agreed.sum() / total) if total else 0.0)
        if agreed.sum() > 0:
            result.weights += agreed / total

    def _finish(self, result: _Text) -> TagAnswer:
        result.entities.sort(key=lambda e: e.start)
        nothing = self.network is None and not any(hit.entities for hit in result.hits)
        scores = [entity.score for entity in result.entities]
        confidence = min(scores) if scores else result.empty if self.network else 0.0
        count = max(len(result.entities), 1)
        return TagAnswer(
            entities=result.entities,
            confidence=0.0 if nothing else confidence,
            support=min(1.0, sum(result.supports) / count),
            weights=[float(w) for w in result.weights / count],
            tokens=result.tokens,
            calibrated=self.network is not None
            and self.network.calibrated
            and all(entity.trained for entity in result.entities),
            abstained=nothing,
        )


def _overlap(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]
