"""One training run of a label field: its network's shape, its stages, and the n-grams beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from model.config import HeadConfig, TrainConfig
from model.encoder.encoder import Encoder
from model.labels.gate import NOVEL_FEATURES
from model.labels.multilabel import label_network, marks_of
from model.labels.network import RetrievalAugmentedModel
from model.labels.ngrams import NGrams, share_of
from model.training.batches import Prepared, evidence_of
from model.training.calibration import Evidence, join
from model.training.split import Plan, Row, bucket
from model.training.trainer import Fitted, Progress, Stage, Ticker

Judged = tuple[Evidence, Tensor]
"""Rows that were not trained on: their evidence, and their logits with the book closed [n, L]."""


class Texts(NamedTuple):
    """Labelled texts as numbers."""

    tokens: list[list[int]]
    truth: Tensor  # [n]; of independent labels [n, L], 0 or 1


class Beside(NamedTuple):
    """The n-grams of a run; `parts` and `held` are the evidence with them in it."""

    features: int  # how many n-grams the network has now
    share: float  # the weight, `s`
    wide: Tensor  # [n, L] what they say to the held-out rows before they are weighed
    parts: list[Judged]
    held: Judged | None

    def with_none(self, evidence: Evidence) -> Evidence:
        """The held-out rows by another network, with the n-grams weighed for it."""
        share = share_of(evidence.logits, self.wide, evidence.truth)
        return replace(evidence, logits=evidence.logits + share * self.wide)

    @property
    def fitting(self) -> Evidence:
        """What gate and temperatures are fitted on: the folds, or the held-out rows."""
        return joined(self.parts or [self.measured])[0]

    @property
    def measured(self) -> Judged:
        """What figures are of: the held-out rows, or the folds."""
        return self.held or joined(self.parts)


def joined(parts: Sequence[Judged]) -> Judged:
    """All of them, under each other."""
    return join([evidence for evidence, _ in parts]), torch.cat([closed for _, closed in parts])


def others_of(
    rows: Sequence[Row],
    labels: Sequence[str],
    encoder: Encoder,
    config: TrainConfig,
    *,
    multilabel: bool = False,
) -> Texts:
    """The labelled hits that are none of the rows, each once; `several`: with independent labels.

    A passage of a row's document is the row, and so is a text that equals its own: rows that are
    held out must not be learned from.
    """
    ids, texts, known = {row.id for row in rows}, {bucket(row.text) for row in rows}, {*labels}
    found = {
        hit.text: hit.names
        for row in rows
        for hit in row.hits
        if known.intersection(hit.names) and hit.doc_id not in ids
        if multilabel or not isinstance(hit.label, list)
    }
    kept = {text: names for text, names in found.items() if bucket(text) not in texts}
    tokens = encoder.tokenize([*kept], max_tokens=config.max_tokens, windows=config.windows)
    marks = marks_of(labels, [*kept.values()])
    return Texts(tokens, marks if multilabel else marks.argmax(-1))


def plain_rows(rows: Sequence[Row]) -> Iterator[object]:
    """What `fingerprint` reads of rows and of their hits."""
    for row in rows:
        yield [row.id, row.text, row.label]
        yield from ([hit.text[:64], hit.label, round(hit.score, 4)] for hit in row.hits)


def head_config(
    config: TrainConfig, labels: Sequence[str], encoder: Encoder, *, multilabel: bool = False
) -> HeadConfig:
    """The head that a run trains; `several`: with independent labels."""
    return HeadConfig(
        field=config.field,
        labels=tuple(labels),
        encoder_sha256=encoder.sha256,
        task=config.task,
        dim=encoder.dim,
        layers=min(config.layers, encoder.depth),
        rank=config.rank,
        fusion_k=config.fusion_k,
        k=config.k,
        dropout=config.dropout,
        multilabel=multilabel,
        novel=NOVEL_FEATURES,
    )


@dataclass(slots=True)
class Run:
    """What the stages of one training share."""

    head: HeadConfig
    encoder: Encoder
    data: Prepared
    config: TrainConfig
    work: Path
    others: Texts | None = None
    """What only retrieval brought: the n-grams are of them too."""
    ticker: Ticker = field(default_factory=lambda: Ticker(1))

    def steps(self, rows: int) -> int:
        """Of a stage that trains on so many rows."""
        return int(self.config.epochs or 1) * -(-rows // int(self.config.batch_size or 1))

    def count(
        self,
        train_rows: Sequence[int],
        folds: Sequence[Sequence[int]],
        baseline: bool,
        progress: Progress | None,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        """Set the ticker to the steps of all stages."""
        total = self.steps(len(train_rows)) * (1 + baseline)
        total += sum(self.steps(len(train_rows) - len(fold)) for fold in folds)
        self.ticker = Ticker(total, progress, cancelled)

    def fold_by_fold(
        self, train_rows: Sequence[int], folds: Sequence[Sequence[int]]
    ) -> list[Judged]:
        """Each fold, judged by a network trained on the others."""
        parts: list[Judged] = []
        for i, fold in enumerate(folds):
            rest = sorted(set(train_rows) - set(fold))
            model, _ = self.stage(f"fold-{i}", rest, [], self.config)
            parts.append(evidence_of(model, self.data, fold))
        return parts

    def stage(
        self, name: str, rows: Sequence[int], held: Sequence[int], config: TrainConfig
    ) -> tuple[RetrievalAugmentedModel, Fitted]:
        """One network, trained on some rows."""
        torch.manual_seed(config.seed)
        model = label_network(self.head, self.encoder).to(self.encoder.device)
        stage = Stage(name, self.work / name, model)
        stage.start_head(self.data, rows)
        return model, stage.fit(self.data, rows, held, config, self.ticker)

    def beside(
        self,
        model: RetrievalAugmentedModel,
        plan: Plan,
        folds: Sequence[Sequence[int]],
        parts: list[Judged],
    ) -> Beside:
        """Put the n-grams beside a trained network, weighed on rows that neither has seen.

        `parts`: each fold's evidence by a network of the others. Where there are folds, the weight
        is fitted on them, else on the held-out rows.
        """
        held = evidence_of(model, self.data, plan.held) if plan.held else None
        wide = torch.zeros(len(plan.held), len(self.head.labels))
        if not self.config.ngrams:
            return Beside(0, 0.0, wide, parts, held)
        wides = [
            self._ngrams(sorted(set(plan.train) - set(fold)))(self._tokens(fold)) for fold in folds
        ]
        view = self._ngrams(plan.train)
        if plan.held:
            wide = view(self._tokens(plan.held))
        asked = [*zip(parts, wides, strict=True)] or ([(held, wide)] if held else [])
        share = share_of(
            torch.cat([judged[0].logits for judged, _ in asked]),
            torch.cat([said for _, said in asked]),
            torch.cat([judged[0].truth for judged, _ in asked]),
        )
        share = share if len(view.keys) else 0.0
        view.times(share)
        model.ngrams = view if share else None
        together = [_with(one, share * said) for one, said in zip(parts, wides, strict=True)]
        with_it = None if held is None else _with(held, share * wide)
        return Beside(len(view.keys) if share else 0, share, wide, together, with_it)

    def _ngrams(self, rows: Sequence[int]) -> NGrams:
        texts, truth = self._tokens(rows), self.data.truth[list(rows)]
        if self.others is not None:
            texts, truth = texts + self.others.tokens, torch.cat([truth, self.others.truth])
        return NGrams.fit(texts, truth, len(self.head.labels))

    def _tokens(self, rows: Sequence[int]) -> list[list[int]]:
        return [self.data.token_ids[i] for i in rows]


def _with(judged: Judged, wide: Tensor) -> Judged:
    evidence, closed = judged
    return replace(evidence, logits=evidence.logits + wide), closed + wide
