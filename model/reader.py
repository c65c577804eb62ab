"""Inference: one checkpoint over the base encoder, for one thread.

A text is encoded once (`read`): the base vector, with which documents are found, and the adapted
states of the field's head. When the hits are there, `predict` does the small rest. A field that
has no head is answered by its neighbours alone; with neither, the answer abstains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.checkpoint import HeadFiles, build, load_heads
from model.config import MAX_TOKENS
from model.encoder.adapter import Adapter
from model.encoder.encoder import Encoder
from model.encoder.windows import join_windows, split_windows
from model.labels import list_fields, one_label
from model.labels.memory import Retrieved
from model.labels.neighbours import NEIGHBOURS
from model.labels.network import RetrievalAugmentedModel
from model.labels.novelty import COUNTED
from model.labels.prediction import Prediction
from model.labels.query_state import QueryState
from model.ner.network import TagNetwork
from model.ner.tagger import Tagger
from model.provenance import TrainedOn
from model.qa.answers import SpanReader
from model.qa.network import SpanNetwork


@dataclass(frozen=True, slots=True)
class HeadInfo:
    """What a head can do. `k`: how many hits it counts; `report`: how it was trained.

    `known`: the documents that it was trained on, as far as they were written down.
    """

    labels: tuple[str, ...]
    task: str
    k: int
    report: dict[str, Any]
    known: TrainedOn


class Reader:
    """Heads over a shared encoder. Not for several threads at once."""

    def __init__(self, encoder: Encoder, *, version: str, sha256: str) -> None:
        """A reader without heads; `load` adds those of a checkpoint."""
        self.encoder = encoder
        self.version = version
        self.sha256 = sha256
        self.heads: dict[str, HeadInfo] = {}  # of label fields
        self._networks: dict[str, RetrievalAugmentedModel] = {}
        self._spans: dict[str, SpanReader] = {}
        self._taggers: dict[str, Tagger] = {}
        self._neighbours_alone = Tagger(None, encoder)

    @classmethod
    def load(
        cls,
        checkpoint: Path | None,
        encoder: Encoder,
        *,
        device: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Reader:
        """Load a checkpoint; None is a reader without heads. Device and type: the encoder's.

        Raises:
            CheckpointRefused: It does not verify, or belongs to another encoder.
        """
        if checkpoint is None:
            return cls(encoder, version="none", sha256=encoder.sha256)
        manifest, heads = load_heads(checkpoint)
        reader = cls(encoder, version=manifest.version, sha256=manifest.sha256)
        for field, head in heads.items():
            network = build(head, encoder).requires_grad_(False)
            network.to(device=device or encoder.device)
            assert isinstance(network.adapter, Adapter)
            encoder.fold(network.adapter)
            network.to(dtype=dtype or encoder.dtype)
            reader._add(field, network, head)
        return reader

    def _add(self, field: str, network: nn.Module, head: HeadFiles) -> None:
        if isinstance(network, SpanNetwork):
            self._spans[field] = SpanReader(network)
        elif isinstance(network, TagNetwork):
            network.calibrated = bool(head.report.get("calibration"))
            self._taggers[field] = Tagger(network, self.encoder)
        elif isinstance(network, RetrievalAugmentedModel):
            network.gate.float().cpu()
            self._networks[field] = network
            config = network.config
            known = TrainedOn(b"" if config.multilabel else head.documents)
            k = max(config.k, COUNTED) if known else config.k
            self.heads[field] = HeadInfo(config.labels, config.task, k, head.report, known)

    @property
    def span_heads(self) -> dict[str, int]:
        """The question-answering heads, by name: how many passages each reads."""
        return {name: spans.config.k for name, spans in self._spans.items()}

    def spans(self, name: str) -> SpanReader:
        """A question-answering head. Raises `KeyError` where there is none of this name."""
        return self._spans[name]

    def tagger(self, name: str) -> Tagger:
        """What finds entities: the head of this name, or the neighbours alone."""
        return self._taggers.get(name, self._neighbours_alone)

    def tokenize(self, text: str, *, max_tokens: int = MAX_TOKENS, windows: int = 1) -> list[int]:
        """Token ids of a text; total over any string. For `windows` see `Encoder.tokenize`."""
        return self.encoder.tokenize([text], max_tokens=max_tokens, windows=windows)[0]

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Base vectors [n, d], for documents and search queries."""
        return self.encoder.encode(texts)

    def wanted(self, field: str) -> int:
        """How many hits the answer to a field counts."""
        return self.heads[field].k if field in self.heads else NEIGHBOURS

    @torch.inference_mode()
    def read(
        self,
        token_ids: Sequence[Sequence[int]],
        fields: Sequence[str | None],
        *,
        window: int = MAX_TOKENS,
    ) -> list[QueryState]:
        """One padded pass over a batch; a field of None (or without a head): only the vector.

        `window`: the `max_tokens` that the texts were tokenised with. The vector is that of a
        text's first window, the states are those of all its windows.
        """
        encoder = self.encoder
        parts = split_windows(token_ids, min(window, encoder.max_tokens))
        # Without a head only the vector is wanted: of a long text the rest is not read.
        read = [p if f in self._networks else p[:1] for p, f in zip(parts, fields, strict=True)]
        owner = [i for i, row in enumerate(read) for _ in row]
        first = [owner.index(i) for i in range(len(read))]
        ids, mask = encoder.pad([ids for row in read for ids in row])
        depth = encoder.depth
        adapted = [self._networks[f].config.layers if f in self._networks else 0 for f in fields]
        split = depth - max(adapted, default=0)
        h = encoder.layers(encoder.embed(ids, mask), mask, 0, split)
        top = encoder.layers(h[first], mask[first], split, depth)
        vectors = encoder.pool(top, mask[first]).float().cpu().numpy()
        states: list[Tensor | None] = [None] * len(fields)
        wides: list[Tensor | None] = [None] * len(fields)
        for field in {f for f in fields if f is not None and f in self._networks}:
            network = self._networks[field]
            rows = [i for i, f in enumerate(fields) if f == field]
            picks = [w for w, i in enumerate(owner) if fields[i] == field]
            part, part_mask = h[picks], mask[picks]
            part = encoder.layers(part, part_mask, split, network.first_layer)
            out = network.adapted(part, part_mask)
            whole, _ = join_windows(out, part_mask, [len(read[i]) for i in rows])
            wide = network.wide([token_ids[i] for i in rows])
            for i, row, logits in zip(rows, whole, wide, strict=True):
                states[i], wides[i] = row[: len(token_ids[i])], logits
        return [
            QueryState(vector, state, sum(len(w) for w in row), encoder.reads(row[0]), wide)
            for vector, state, row, wide in zip(vectors, states, read, wides, strict=True)
        ]

    @torch.inference_mode()
    def predict(
        self,
        states: Sequence[QueryState],
        hits: Sequence[Sequence[Retrieved]],
        field: str,
        *,
        index_labels: Sequence[str],
    ) -> list[Prediction]:
        """Answer for a batch of one field; `index_labels`: all labels of the field in the index."""
        network = self._networks.get(field)
        own = list(network.config.labels) if network else []
        seen = {label for row in hits for hit in row for label in hit.names}
        labels = own + sorted(({*index_labels} | seen) - {*own})
        if network is not None and network.config.multilabel:
            return list_fields.by_head(network, states, hits, labels)
        head = None
        if network is not None:
            info = self.heads[field]
            head = one_label.Trained(network, info.known, info.k)
        lists = [any(isinstance(hit.label, list) for hit in row) for row in hits]
        if not any(lists):
            return one_label.answer(head, states, hits, labels)
        # Rows with lists one by one, so that no answer depends on what it shares a batch with.
        rest = [i for i, is_list in enumerate(lists) if not is_list]
        single = iter(
            one_label.answer(head, [states[i] for i in rest], [hits[i] for i in rest], labels)
            if rest
            else ()
        )
        return [
            list_fields.by_neighbours(state, row, labels) if is_list else next(single)
            for state, row, is_list in zip(states, hits, lists, strict=True)
        ]
