"""The influence of each document on an answer: the answer again without it, all recomputed.

A document is removed from the hits, nothing is retrieved in its place, and what is left goes
through fusion, head, neighbours and gate (scores relative to the best hit that is left). The text
is not read again: its state is kept, and the lists of hits go through the network as one batch.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING

from app.inference.retrieval import decided, same_text
from app.inference.snapshot import Serving
from app.schemas.prediction import FlipSet, Influence
from index_data.search.searcher import Hit

if TYPE_CHECKING:
    from model.labels.memory import Retrieved
    from model.labels.prediction import Prediction
    from model.labels.query_state import QueryState
    from model.reader import Reader

ROWS_AT_ONCE = 64  # lists of hits between two looks at what other requests wait for
PAIRED = 12  # documents of which every pair is tried
GROUPS = 4  # labels without whose documents it is tried in the first pass

Removed = frozenset[int]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a prediction says: its best label, all that it answers, and every probability."""

    label: str | None
    answered: frozenset[str]
    probs: dict[str, float]


class Variants:
    """The hits of an input in the reader's shape, with any of them removed."""

    def __init__(self, text: str, hits: Sequence[Hit], field: str) -> None:
        self.hits = hits
        self._field = field
        # Which of them decides hangs on the others: two that contradict each other do not.
        self._same = same_text(text, hits, field)
        self._rows = shaped(hits, field, decided(self._same, field))

    def without(self, removed: Collection[int] = ()) -> list[Retrieved]:
        """The hits but those at ``removed``."""
        if not self._same:
            return [row for i, row in enumerate(self._rows) if i not in removed]
        gone = {id(self.hits[i]) for i in removed}
        exact = decided([hit for hit in self._same if id(hit) not in gone], self._field)
        return [
            replace(row, exact=self.hits[i].doc_id in exact)
            for i, row in enumerate(self._rows)
            if i not in removed
        ]

    def expected(self, cited: int | None) -> list[Removed]:
        """The sets that an explanation will remove, as far as is known before the answer.

        Each hit, where all will be cited (``cited``: at most so many, None: all); and all that
        carry a label together, for the labels that most of them carry.
        """
        if len(self.hits) > (ROWS_AT_ONCE - GROUPS if cited is None else cited):
            return []
        names = Counter(name for row in self._rows for name in row.names)
        groups = [self.carrying([name], range(len(self.hits))) for name, _ in names.most_common()]
        wide = [frozenset(group) for group in groups if len(group) > 1][:GROUPS]
        return [*(frozenset({i}) for i in range(len(self.hits))), *wide]

    def carrying(self, labels: Collection[str], among: Iterable[int]) -> list[int]:
        """Which hits carry one of some labels."""
        carrying = []
        for i in among:
            value = self.hits[i].document.labels.get(self._field)
            own = {value} if isinstance(value, str) else set(value or ())
            if own & set(labels):
                carrying.append(i)
        return carrying


def as_retrieved(text: str, hits: Sequence[Hit], field: str) -> list[Retrieved]:
    """Hits in the shape in which the reader takes them."""
    return shaped(hits, field, decided(same_text(text, hits, field), field))


def shaped(hits: Sequence[Hit], field: str, exact: Collection[str]) -> list[Retrieved]:
    """The same, where it is known which of them decide."""
    from model.labels.memory import Retrieved  # torch takes seconds, and the port opens before it

    return [
        Retrieved(
            title=hit.document.title,
            text=hit.text,
            label=hit.document.labels.get(field),
            score=hit.score,
            vector=hit.vector,
            exact=hit.doc_id in exact,
            doc_id=hit.doc_id,
        )
        for hit in hits
    ]


@dataclass(slots=True)
class Counterfactuals:
    """One input, and its answers over parts of its hits; none is computed twice.

    ``judge``: what a prediction amounts to in this request.
    """

    serving: Serving
    state: QueryState
    label_field: str
    labels: tuple[str, ...]
    variants: Variants
    judge: Callable[[Prediction], Verdict]
    _known: dict[object, Verdict] = field(default_factory=dict, init=False)

    async def whole(self, expected: Sequence[Removed]) -> Prediction:
        """The prediction over all hits, and in the same pass those with each of ``expected`` gone.

        Most of what a pass costs is the same for one list and for ten.
        """
        rows = [self.variants.without(removed) for removed in [frozenset[int](), *expected]]
        done = await self._predict(rows)
        for row, prediction in zip(rows[1:], done[1:], strict=True):
            self._known[self._key(row)] = self.judge(prediction)
        return done[0]

    async def without(self, parts: Sequence[Removed]) -> list[Verdict]:
        """What is answered with each of these sets of hits removed."""
        keys, fresh = [], {}
        for removed in parts:
            row = self.variants.without(removed)
            keys.append(self._key(row))
            if keys[-1] not in self._known:
                fresh[keys[-1]] = row
        waiting = list(fresh.items())
        for start in range(0, len(waiting), ROWS_AT_ONCE):
            part = waiting[start : start + ROWS_AT_ONCE]
            done = await self._predict([row for _, row in part])
            for (key, _), prediction in zip(part, done, strict=True):
                self._known[key] = self.judge(prediction)
        return [self._known[key] for key in keys]

    async def _predict(self, rows: list[list[Retrieved]]) -> list[Prediction]:
        def predict(reader: Reader) -> list[Prediction]:
            states = [self.state] * len(rows)
            return reader.predict(states, rows, self.label_field, index_labels=self.labels)

        return await asyncio.wrap_future(self.serving.engine.call(predict))

    def _key(self, row: list[Retrieved]) -> object:
        """What the reader sees of a list of hits: what it does not count cannot matter."""
        counted = row[: self.serving.model.counted(self.label_field)]
        if any(isinstance(hit.label, list) for hit in row):
            counted = row
        best = max((abs(hit.score) for hit in row), default=0.0)
        exact = tuple(str(hit.label) for hit in row if hit.exact)
        # A variant may hold copies of the same hit; its vector is one object in all of them.
        return best, exact, tuple((hit.score, id(hit.text), id(hit.vector)) for hit in counted)


async def influences(
    counterfactuals: Counterfactuals, whole: Verdict, cited: Sequence[int]
) -> tuple[dict[int, Influence], FlipSet | None]:
    """The influence of each hit of ``cited``, and the smallest set that flips the answer.

    That set is of hits that carry the answer. All that leave out one hit are one batch.
    """
    supporting = frozenset(counterfactuals.variants.carrying(whole.answered, cited))
    each = [frozenset({i}) for i in cited]
    *single, none = await counterfactuals.without([*each, supporting])
    effects = {
        i: Influence(delta=_delta(whole, verdict), flips=_flips(whole, verdict))
        for i, verdict in zip(cited, single, strict=True)
    }
    order = sorted(cited, key=lambda i: -effects[i].delta)
    flipping = [i for i in order if effects[i].flips]
    if flipping:
        verdict = single[list(cited).index(flipping[0])]
        return effects, _flip_set(counterfactuals, [flipping[0]], verdict, exact=True)
    if not _flips(whole, none):
        return effects, None
    ranked = [i for i in order if i in supporting]
    return effects, await _smallest(counterfactuals, whole, ranked, none)


async def _smallest(
    counterfactuals: Counterfactuals, whole: Verdict, ranked: Sequence[int], none: Verdict
) -> FlipSet:
    """The smallest set of supporting hits, most influential first; all together flip the answer.

    Each alone was tried. The two most influential, if they look like it, then every pair; then
    greedy: one more at a time until it flips, and out goes again what can be left out.
    """
    pairs = [frozenset(pair) for pair in combinations(ranked[:PAIRED], 2)]
    prefixes = [frozenset(ranked[:n]) for n in range(3, len(ranked))]
    first, second = await counterfactuals.without([frozenset({i}) for i in ranked[:2]])
    # As if their effects added up: it only decides what is tried first.
    hopeful = _gap(whole, first) + _gap(whole, second) <= _gap(whole, whole)
    parts = (pairs[:1], pairs[1:] + prefixes) if hopeful else (pairs + prefixes,)
    for part in parts:
        tried = list(zip(part, await counterfactuals.without(part), strict=True))
        flipped = [(removed, verdict) for removed, verdict in tried if _flips(whole, verdict)]
        two = [one for one in flipped if len(one[0]) == 2]
        if two:
            pair, verdict = max(two, key=lambda one: _delta(whole, one[1]))
            chosen = [i for i in ranked if i in pair]
            return _flip_set(counterfactuals, chosen, verdict, exact=True)
    removed, verdict = flipped[0] if flipped else (frozenset(ranked), none)
    while True:
        chosen = [i for i in ranked if i in removed]
        fewer = [removed - {i} for i in chosen[::-1]]
        tried = list(zip(fewer, await counterfactuals.without(fewer), strict=True))
        left = next((one for one in tried if _flips(whole, one[1])), None)
        if left is None:
            break
        removed, verdict = left
    every = len(ranked) <= PAIRED
    return _flip_set(counterfactuals, chosen, verdict, exact=every and len(chosen) <= 3)


def _flip_set(
    counterfactuals: Counterfactuals, chosen: Sequence[int], verdict: Verdict, *, exact: bool
) -> FlipSet:
    doc_ids = [counterfactuals.variants.hits[i].doc_id for i in chosen]
    return FlipSet(doc_ids=doc_ids, label=verdict.label, exact=exact)


def _delta(whole: Verdict, other: Verdict) -> float:
    label = whole.label or ""
    return whole.probs.get(label, 0.0) - other.probs.get(label, 0.0)


def _gap(whole: Verdict, other: Verdict) -> float:
    """How far the answered label is above the best other one."""
    others = [p for label, p in other.probs.items() if label != whole.label]
    return other.probs.get(whole.label or "", 0.0) - max(others, default=0.0)


def _flips(whole: Verdict, other: Verdict) -> bool:
    return whole.answered != other.answered
