"""The network that finds named entities: an adapted encoder, what its words look like, and a CRF.

Each word is read at its first sub-word. What an uncased vocabulary loses (case, digits, prefixes
and suffixes) comes from the word's shape and a small convolution over its characters; how the
retrieved labelled sentences tag the same words is a third input (`model.ner.evidence`). Both enter
twice: below the adapted layers, so that attention can use them, and before the tags' scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from model.config import HeadSettings
from model.encoder.adapter import Adapter
from model.encoder.encoder import Encoder
from model.ner.crf import Crf
from model.ner.words import BUCKETS, SHAPES, Word, align, chars_of, shape_of


@dataclass(frozen=True, slots=True, kw_only=True)
class TagConfig(HeadSettings):
    """A head for named entities."""

    types: tuple[str, ...]
    field: str = "ner"
    task: str = "ner"
    layers: int = 4
    char_dim: int = 32
    char_filters: int = 64
    shape_dim: int = 16
    evidence_dim: int = 32
    hidden: int = 192
    max_tokens: int = 256  # of one window; a longer text is read in several

    def __post_init__(self) -> None:
        if len(set(self.types)) != len(self.types) or not self.types:
            raise ValueError(f"head {self.field!r}: a type stands twice, or there is none")

    @property
    def tags(self) -> int:
        """O, and B and I of each type."""
        return 2 * len(self.types) + 1

    @property
    def evidence(self) -> int:
        """Columns of what the hits say of a word: tags, another type, how often it was seen."""
        return self.tags + 2


@dataclass(slots=True)
class Window:
    """A part of a text that is read at once: its words, and the tokens that they begin at."""

    words: list[Word]
    ids: list[int]
    first: list[int]  # for each word, its first token
    owner: list[int]  # for each token, the word that it is of; -1: none
    shapes: list[int]
    chars: list[list[int]]


class Batch(NamedTuple):
    """Windows, padded."""

    ids: Tensor  # [b, t]
    mask: Tensor  # [b, t]
    first: Tensor  # [b, w]
    owner: Tensor  # [b, t], the row's width where there is no word
    shapes: Tensor  # [b, w]
    chars: Tensor  # [b, w, c]
    words: Tensor  # [b, w], true on words
    evidence: Tensor  # [b, w, e]


class TagNetwork(nn.Module):
    """Windows of words -> scores of their tags."""

    def __init__(self, config: TagConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.calibrated = False  # whether the temperature was fitted on rows held out
        self.adapter = Adapter(encoder.shapes, layers=config.layers, rank=config.rank)
        self.chars = nn.Embedding(BUCKETS, config.char_dim, padding_idx=0)
        self.convolution = nn.Conv1d(config.char_dim, config.char_filters, 3, padding=1)
        self.shapes = nn.Embedding(len(SHAPES) + 1, config.shape_dim, padding_idx=0)
        self.evidence = nn.Linear(config.evidence, config.evidence_dim)
        width = config.char_filters + config.shape_dim + config.evidence_dim
        self.inject = nn.Linear(width, config.dim, bias=False)
        nn.init.zeros_(self.inject.weight)
        self.hidden = nn.Linear(config.dim + width, config.hidden)
        self.scores = nn.Linear(config.hidden, config.tags)
        self.dropout = nn.Dropout(config.dropout)
        self.crf = Crf(len(config.types))
        self.log_temperature = nn.Parameter(torch.zeros(()), requires_grad=False)

    @property
    def first_layer(self) -> int:
        """The lowest layer that carries an adapter."""
        return self.encoder.depth - self.config.layers

    def forward(self, batch: Batch, lower: Tensor | None = None) -> Tensor:
        """Emissions [b, w, n]; `lower` [b, t, d]: the states below the adapted layers."""
        if lower is None:
            lower = self.encoder.lower(batch.ids, batch.mask, self.config.layers)
        known = self.features(batch)
        none = torch.zeros_like(known[:, :1])
        padded = torch.cat([known, none], 1)  # [b, w + 1, f]
        index = batch.owner[:, :, None].expand(-1, -1, known.shape[2])
        h = lower + self.inject(padded.gather(1, index))
        depth = self.encoder.depth
        h = self.encoder.layers(h, batch.mask, self.first_layer, depth, self.adapter)
        read = h.gather(1, batch.first[:, :, None].expand(-1, -1, h.shape[2]))  # [b, w, d]
        both = self.dropout(torch.cat([read, known], 2))
        emissions: Tensor = self.scores(self.dropout(F.gelu(self.hidden(both))))
        return emissions

    def features(self, batch: Batch) -> Tensor:
        """What the words look like, and what the hits say of them: [b, w, f]."""
        b, w, c = batch.chars.shape
        letters = self.chars(batch.chars.view(b * w, c)).transpose(1, 2)
        shape = F.relu(self.convolution(letters)).amax(2).view(b, w, -1)
        hints = (
            F.relu(self.evidence(batch.evidence)) * (batch.evidence.abs().sum(2) > 0)[:, :, None]
        )
        joined: Tensor = self.dropout(torch.cat([shape, self.shapes(batch.shapes), hints], 2))
        return joined

    @torch.no_grad()
    def tables(self) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Start and transition scores for decoding, and the temperature to divide all by."""
        start, transitions = self.crf.tables()
        temperature = float(self.log_temperature.exp())
        return start.cpu().double().numpy(), transitions.cpu().double().numpy(), temperature


def windows(encoder: Encoder, text: str, words: Sequence[Word], limit: int) -> list[Window]:
    """The words of a text in windows of at most `limit` tokens with the encoder's marks.

    A window ends after the last sentence that fits; one that has no end in it is cut at a word.
    """
    if not words:
        return []
    prefix, suffix = encoder.marks()
    room = max(1, min(limit, encoder.max_tokens) - len(prefix) - len(suffix))
    ids, offsets = encoder.spans([text])[0]
    first, owner = align(words, offsets)
    parts: list[Window] = []
    begin = 0
    while begin < len(words):
        low = _token(first, begin, len(ids))
        stop, ends = begin + 1, 0
        while stop < len(words) and _token(first, stop, len(ids)) - low <= room:
            if (
                words[stop - 1].text in ".!?。！？"
                or "\n" in text[words[stop - 1].end : words[stop].start]
            ):
                ends = stop
            stop += 1
        whole = stop == len(words) and len(ids) - low <= room
        if not whole and stop - begin > 1:
            stop = ends or stop - 1
        high = min(_token(first, stop, len(ids)), low + room)
        shift = len(prefix) - low
        part = list(words[begin:stop])
        parts.append(
            Window(
                words=part,
                ids=[*prefix, *ids[low:high], *suffix],
                first=[
                    min(max(first[w], low), max(high - 1, low)) + shift if first[w] >= 0 else 0
                    for w in range(begin, stop)
                ],
                owner=[-1] * len(prefix)
                + [w - begin if w >= 0 else -1 for w in owner[low:high]]
                + [-1] * len(suffix),
                shapes=[shape_of(word.text) for word in part],
                chars=[chars_of(word.text) for word in part],
            )
        )
        begin = stop
    return parts


def _token(first: Sequence[int], word: int, end: int) -> int:
    """The first token of a word or of the next one that has any."""
    return next((t for t in first[word:] if t >= 0), end)


def collate(
    encoder: Encoder, parts: Sequence[Window], evidence: Sequence[NDArray[np.float32]]
) -> Batch:
    """Pad windows, each with what the hits say of its words [w, e]."""
    ids, mask = encoder.pad([part.ids for part in parts])
    b, t, w = len(parts), ids.shape[1], max(len(part.words) for part in parts)
    first = torch.zeros(b, w, dtype=torch.long)
    owner = torch.full((b, t), w)
    shapes = torch.zeros(b, w, dtype=torch.long)
    chars = torch.zeros(b, w, len(parts[0].chars[0]), dtype=torch.long)
    hints = torch.zeros(b, w, evidence[0].shape[1])
    words = torch.zeros(b, w, dtype=torch.bool)
    for i, (part, row) in enumerate(zip(parts, evidence, strict=True)):
        n = len(part.words)
        first[i, :n] = torch.tensor(part.first)
        mine = torch.tensor(part.owner)
        owner[i, : len(mine)] = torch.where(mine < 0, w, mine)
        shapes[i, :n] = torch.tensor(part.shapes)
        chars[i, :n] = torch.tensor(part.chars)
        hints[i, :n] = torch.from_numpy(row)
        words[i, :n] = True
    rest = (part.to(encoder.device) for part in (first, owner, shapes, chars, words, hints))
    return Batch(ids, mask, *rest)
