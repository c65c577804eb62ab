"""The networks that a training of labels consists of: one for each fold, *main*, and *none*.

What head and hits say to rows that a network was not trained on is `Unseen`: the gate, the
temperatures and the weight of the n-grams (`model.labels.ngrams`) are fitted on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from model.config import HeadConfig, TrainConfig, bf16_products
from model.encoder.encoder import Encoder
from model.labels.multilabel import best_threshold, binary_loss, marks_of
from model.labels.network import RetrievalAugmentedModel
from model.labels.ngrams import NGrams, share_of
from model.training.calibration import Evidence, join
from model.training.label_examples import Prepared, evidence_of, make_batch
from model.training.label_losses import label_loss, start_head
from model.training.split import Row, Split, bucket
from model.training.trainer import Draws, LoopState, Ticker, run_epochs, save_tensors

BEST = "best.safetensors"
Judged = tuple[Evidence, Tensor]
"""Rows that were not trained on: their evidence, and their logits with the book closed [n, L]."""


class Texts(NamedTuple):
    """Labelled texts as numbers."""

    tokens: list[list[int]]
    truth: Tensor  # [n]; of independent labels [n, L], 0 or 1


class Unseen(NamedTuple):
    """What a run's networks say to rows that they were not trained on, n-grams included."""

    features: int  # how many n-grams the network has now
    share: float  # their weight, `s`
    wide: Tensor  # [n, L] what they say to the held-out rows before they are weighed
    folds: list[Judged]
    held: Judged | None

    def without_retrieval(self, evidence: Evidence) -> Evidence:
        """The held-out rows by another network, with the n-grams weighed for it."""
        share = share_of(evidence.logits, self.wide, evidence.truth)
        return replace(evidence, logits=evidence.logits + share * self.wide)

    @property
    def fitting(self) -> Evidence:
        """What gate and temperatures are fitted on: the folds, or the held-out rows."""
        return joined(self.folds or [self.measured])[0]

    @property
    def measured(self) -> Judged:
        """What figures are of: the held-out rows, or the folds."""
        return self.held or joined(self.folds)


def joined(parts: Sequence[Judged]) -> Judged:
    """All of them, under each other."""
    return join([evidence for evidence, _ in parts]), torch.cat([closed for _, closed in parts])


def other_texts(
    rows: Sequence[Row],
    labels: Sequence[str],
    encoder: Encoder,
    config: TrainConfig,
    *,
    multilabel: bool = False,
) -> Texts:
    """The labelled hits that are none of the rows, each once; `multilabel`: independent labels.

    A passage of a row's document is the row, and so is a text that equals its own: rows that are
    held out must not be learned from.
    """
    ids, texts, known = {row.id for row in rows}, {bucket(row.text) for row in rows}, {*labels}
    names = {
        hit.text: hit.names
        for row in rows
        for hit in row.hits
        if known.intersection(hit.names) and hit.doc_id not in ids
        if multilabel or not isinstance(hit.label, list)
    }
    names = {text: of_text for text, of_text in names.items() if bucket(text) not in texts}
    tokens = encoder.tokenize([*names], max_tokens=config.max_tokens, windows=config.windows)
    marks = marks_of(labels, [*names.values()])
    return Texts(tokens, marks if multilabel else marks.argmax(-1))


@dataclass(frozen=True, slots=True)
class LabelStages:
    """Trains the networks of one run. `work`: each keeps its state in a folder of its own there.

    `others`: what only retrieval brought; the n-grams are fitted on it too.
    """

    head: HeadConfig
    encoder: Encoder
    data: Prepared
    config: TrainConfig
    work: Path
    others: Texts | None

    def steps(self, split: Split, folds: Sequence[Sequence[int]], baseline: bool) -> int:
        """Of all networks."""
        sizes = [len(split.train)] * (1 + baseline)
        sizes += [len(split.train) - len(fold) for fold in folds]
        batch = int(self.config.batch_size or 1)
        return sum(int(self.config.epochs or 1) * -(-rows // batch) for rows in sizes)

    def train(
        self, name: str, rows: Sequence[int], held: Sequence[int], ticker: Ticker
    ) -> tuple[RetrievalAugmentedModel, LoopState]:
        """One network, trained on some rows; stopped early on others, with its best weights.

        *none* is the one that is trained without retrieval.
        """
        config = replace(self.config, retrieval=False) if name == "none" else self.config
        folder, data = self.work / name, self.data
        torch.manual_seed(config.seed)
        model = RetrievalAugmentedModel(self.head, self.encoder).to(self.encoder.device)
        start_head(model, data.base[list(rows)], data.truth[list(rows)])
        lengths = [len(data.token_ids[i]) for i in rows]

        def loss_of(part: Sequence[int], draws: Draws) -> tuple[Tensor, int]:
            batch = make_batch(model, data, [rows[j] for j in part])
            with bf16_products(self.encoder.device):
                loss = label_loss(model, batch, config, draws.generator)
            return loss, sum(lengths[j] for j in part)

        def after_epoch(state: LoopState, seen: Sequence[float]) -> dict[str, float]:
            point = {"train_loss": float(np.mean(seen)), "epoch": float(state.epoch)}
            if not held:
                state.best_epoch = state.epoch
                return point
            judged, loss = self._held_out(model, held, config)
            if state.best is None or judged < state.best:
                state.best, state.best_epoch = judged, state.epoch
                save_tensors(model.state_dict(), folder / BEST)
            elif state.epoch - state.best_epoch >= config.patience:
                state.done = True
            return point | {"held_out_loss": loss}

        state = run_epochs(
            model, config, lengths, loss_of, folder, ticker, stage=name, after_epoch=after_epoch
        )
        if (folder / BEST).exists():
            model.load_state_dict(load_file(folder / BEST))
        return model, state

    def _held_out(
        self, model: RetrievalAugmentedModel, held: Sequence[int], config: TrainConfig
    ) -> tuple[float, float]:
        """What early stopping goes by, and the loss of the held-out rows."""
        evidence, _ = evidence_of(model, self.data, held, closed_only=not config.retrieval)
        # Confidence keeps rising after accuracy has settled; errors are what counts.
        if self.head.multilabel:
            probs = torch.sigmoid(evidence.logits)
            loss = float(binary_loss(probs, evidence.truth).sum(-1).mean())
            wrong = 1 - best_threshold(probs, evidence.truth)[1]
        else:
            loss = float(F.cross_entropy(evidence.logits, evidence.truth))
            wrong = float((evidence.logits.argmax(-1) != evidence.truth).float().mean())
        return wrong + 0.05 * loss, loss

    def fold_by_fold(
        self, train: Sequence[int], folds: Sequence[Sequence[int]], ticker: Ticker
    ) -> list[Judged]:
        """Each fold, judged by a network trained on the others."""
        parts: list[Judged] = []
        for i, fold in enumerate(folds):
            rest = sorted(set(train) - set(fold))
            model, _ = self.train(f"fold-{i}", rest, [], ticker)
            parts.append(evidence_of(model, self.data, fold))
        return parts

    def with_ngrams(
        self,
        model: RetrievalAugmentedModel,
        split: Split,
        folds: Sequence[Sequence[int]],
        parts: list[Judged],
    ) -> Unseen:
        """Put the n-grams beside a trained network, weighed on rows that neither has seen.

        `parts`: each fold's evidence by a network of the others. Where there are folds, the weight
        is fitted on them, else on the held-out rows.
        """
        held = evidence_of(model, self.data, split.held) if split.held else None
        wide = torch.zeros(len(split.held), len(self.head.labels))
        if not self.config.ngrams:
            return Unseen(0, 0.0, wide, parts, held)
        wides = [
            self._ngrams(sorted(set(split.train) - set(fold)))(self._tokens(fold)) for fold in folds
        ]
        ngrams = self._ngrams(split.train)
        if split.held:
            wide = ngrams(self._tokens(split.held))
        weighed = [*zip(parts, wides, strict=True)] or ([(held, wide)] if held else [])
        share = share_of(
            torch.cat([judged[0].logits for judged, _ in weighed]),
            torch.cat([output for _, output in weighed]),
            torch.cat([judged[0].truth for judged, _ in weighed]),
        )
        share = share if len(ngrams.keys) else 0.0
        ngrams.times(share)
        model.ngrams = ngrams if share else None
        together = [_with(one, share * output) for one, output in zip(parts, wides, strict=True)]
        held = None if held is None else _with(held, share * wide)
        return Unseen(len(ngrams.keys) if share else 0, share, wide, together, held)

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
