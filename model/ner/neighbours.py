"""Entities with nothing learned: each word is tagged as its nearest words in labelled sentences.

The frozen encoder reads the text and the retrieved sentences; words are compared by the cosine of
their states (k-nearest-neighbour tagging, Wang et al. 2022), by what they look like and by being
the same word. So a type counts from the first sentence that carries it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model.encoder.encoder import Encoder, batches_by_length
from model.ner.crf import Decoded, constraints, decode
from model.ner.evidence import Tagged, TagHit, tagged
from model.ner.network import Window, windows

HITS = 12
"""Sentences that are read; each costs about a millisecond."""
NEAREST = 12
SHARPNESS = 20.0
SAME_SHAPE = 0.1
SAME_WORD = 0.1
LAYER = 4
"""Of six: below the top layers, which were trained to say what the whole sentence is about."""
FLOOR = 1e-4


@dataclass(frozen=True, slots=True)
class Vote:
    """What the neighbours say of one window. `near`: the best similarity of each word; `shares`:
    for each word and hit, the weight of the neighbours that voted for the word's tag, [w, hits].
    """

    types: list[str]
    decoded: Decoded
    near: NDArray[np.float32]
    shares: NDArray[np.float32]


@torch.no_grad()
def word_states(encoder: Encoder, parts: Sequence[Window]) -> list[NDArray[np.float32]]:
    """States of length 1 of the words of each window, from the frozen encoder: [w, d]."""
    out: list[NDArray[np.float32]] = [np.zeros((0, encoder.dim), np.float32)] * len(parts)
    layer = max(1, encoder.depth * LAYER // 6)
    for batch in batches_by_length([len(part.ids) for part in parts], budget=4096):
        ids, mask = encoder.pad([parts[i].ids for i in batch])
        h = encoder.layers(encoder.embed(ids, mask), mask, 0, layer)
        for i, states in zip(batch, h, strict=True):
            read = states[torch.tensor(parts[i].first, device=h.device)]
            out[i] = torch.nn.functional.normalize(read.float(), dim=-1).cpu().numpy()
    return out


class Neighbourhood:
    """The words of some labelled sentences, to be voted by. `types`: what they can say."""

    def __init__(
        self,
        encoder: Encoder,
        parts: Sequence[tuple[int, Tagged, Window]],
        types: Sequence[str],
        hits: int,
    ) -> None:
        self.encoder = encoder
        self.types = list(types)
        self._hits = hits
        self._states = np.concatenate(word_states(encoder, [window for _, _, window in parts]))
        column = {kind: 2 * i + 1 for i, kind in enumerate(types)}
        tags: list[int] = []
        keys: list[str] = []
        shapes: list[int] = []
        owners: list[int] = []
        for number, there, window in parts:
            n = len(window.words)
            for tag in there.tags[:n]:
                known = tag is not None and tag[0] in column
                tags.append(column[tag[0]] + (not tag[1]) if tag is not None and known else 0)
            keys += there.keys[:n]
            shapes += window.shapes
            owners += [number] * n
        self._tags, self._keys = np.array(tags), np.array(keys)
        self._shapes, self._owners = np.array(shapes), np.array(owners)

    @classmethod
    def of(
        cls, encoder: Encoder, hits: Sequence[TagHit], *, only: Sequence[str]
    ) -> Neighbourhood | None:
        """The first hits that carry one of these types; None where none does."""
        types = {*only}
        parts: list[tuple[int, Tagged, Window]] = []
        for number, hit in enumerate(hits):
            if len(parts) == HITS or not types & {kind for _, _, kind in hit.entities}:
                continue
            there = tagged(hit.text, hit.entities)
            cut = windows(encoder, hit.text, there.words, encoder.max_tokens)
            parts += [(number, there, cut[0])] if cut else []
        return cls(encoder, parts, sorted(types), len(hits)) if parts else None

    def vote(self, window: Window) -> Vote:
        """Tag the words of a window as the words that are nearest to them."""
        own = word_states(self.encoder, [window])[0]
        alike = own @ self._states.T
        alike += SAME_SHAPE * (np.array(window.shapes)[:, None] == self._shapes[None, :])
        mine = np.array([word.text.casefold() for word in window.words])
        alike += SAME_WORD * (mine[:, None] == self._keys[None, :])
        nearest = np.argsort(-alike, axis=1, kind="stable")[:, :NEAREST]
        picked = np.take_along_axis(alike, nearest, 1)
        weights = np.exp(SHARPNESS * (picked - picked[:, :1]))
        weights /= weights.sum(1, keepdims=True)
        probs = np.full((len(own), 2 * len(self.types) + 1), FLOOR)
        for row, near, weight in zip(probs, nearest, weights, strict=True):
            np.add.at(row, self._tags[near], weight)
        decoded = decode(np.log(probs), *constraints(len(self.types)))
        shares = np.zeros((len(own), self._hits), np.float32)
        for first, stop, kind in decoded.spans:
            for w in range(first, stop):
                agree = (self._tags[nearest[w]] + 1) // 2 == kind + 1
                np.add.at(shares[w], self._owners[nearest[w]], weights[w] * agree)
        near = (picked[:, 0] / (1 + SAME_SHAPE + SAME_WORD)).astype(np.float32)
        return Vote(self.types, decoded, near, shares)
