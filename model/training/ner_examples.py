"""Rows of named entities as numbers: windows, what their hits say, and their tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.encoder.encoder import Encoder, batches_by_length
from model.ner.crf import tags_of
from model.ner.evidence import features as evidence_of
from model.ner.evidence import occurrences
from model.ner.network import Batch, TagConfig, Window, windows
from model.ner.rows import TagRow
from model.ner.words import split_words
from model.training.label_examples import CACHE_BYTES


@dataclass(slots=True)
class Prepared:
    """Windows of all rows, with what their hits say, their tags, and the states below the head."""

    windows: list[Window]
    evidence: list[np.ndarray[Any, np.dtype[np.float32]]]
    tags: list[list[int]]
    lower: list[Tensor] | None  # [t, d] each, half precision; None: too many to keep


def prepare(encoder: Encoder, head: TagConfig, rows: Sequence[TagRow]) -> Prepared:
    """Split, tokenise, look up, and run the frozen layers once."""
    data = Prepared([], [], [], [])
    kinds = {kind: i for i, kind in enumerate(head.types)}
    for row in rows:
        words = split_words(row.text)
        spans = []
        for start, end, kind in row.entities:
            inside = [i for i, w in enumerate(words) if w.start < end and w.end > start]
            if inside and kind in kinds:
                spans.append((inside[0], inside[-1] + 1, kinds[kind]))
        tags = tags_of(spans, len(words))
        evidence = evidence_of(occurrences(words, row.hits[: head.k]), head.types)
        at = 0
        for window in windows(encoder, row.text, words, head.max_tokens):
            n = len(window.words)
            data.windows.append(window)
            data.tags.append(tags[at : at + n])
            data.evidence.append(evidence[at : at + n])
            at += n
    size = sum(len(window.ids) for window in data.windows) * encoder.dim * 2
    if size > CACHE_BYTES:
        data.lower = None
        return data
    lower: list[Tensor] = [torch.empty(0)] * len(data.windows)
    lengths = [len(window.ids) for window in data.windows]
    for part in batches_by_length(lengths, budget=4096):
        ids, mask = encoder.pad([data.windows[i].ids for i in part])
        for i, states in zip(part, encoder.lower(ids, mask, head.layers), strict=True):
            lower[i] = states[: lengths[i]].to(torch.float16).clone()
    data.lower = lower
    return data


def padded(tags: Sequence[Sequence[int]], batch: Batch) -> Tensor:
    """The tags of a batch's windows as [b, words]."""
    truth = torch.zeros(batch.words.shape, dtype=torch.long)
    for out, row in zip(truth, tags, strict=True):
        out[: len(row)] = torch.tensor(row)
    return truth.to(batch.words.device)
