"""Training a head of one label a text, on rows that arrive with their hits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import HeadConfig, TrainConfig
from model.encoder.encoder import Encoder
from model.labels.gate import NOVEL_FEATURES, Gate
from model.labels.network import RetrievalAugmentedModel
from model.metrics import calibration_error, f1_by_label, set_scores
from model.reader import Reader
from model.training.calibration import Evidence, choose_k, fit_gate
from model.training.driver import Evaluated, Fitted, StartTicker, head_settings
from model.training.evaluation import (
    Answers,
    answers_of,
    diagnose,
    halves,
    neighbours_alone,
    paired,
)
from model.training.label_examples import Prepared, evidence_of, prepare
from model.training.label_stages import LabelStages, Unseen, other_texts
from model.training.split import Row, Split, make_folds, plan_rows
from model.training.workspace import TrainingRefused


def train(
    model: nn.Module, data_loader: Iterable[tuple[Any, Any, Tensor]], epochs: int, lr: float
) -> list[float]:
    """The plain loop: SGD and cross-entropy over (x, retrieved documents, label) batches.

    Returns the mean loss of each epoch. `driver.train_head` is this with what makes it good and
    safe.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    criterion = nn.CrossEntropyLoss()
    losses: list[float] = []
    model.train()
    for _ in range(epochs):
        seen: list[float] = []
        for x, retrieved_docs, y in data_loader:
            optimizer.zero_grad()
            loss = criterion(model(x, retrieved_docs), y)
            loss.backward()
            optimizer.step()
            seen.append(float(loss.detach()))
        losses.append(sum(seen) / max(len(seen), 1))
    return losses


@dataclass(slots=True)
class LabelFitted(Fitted[RetrievalAugmentedModel]):
    """A head of labels after its training; the rows of `data` that figures are of.

    `baseline`: the network that was trained without retrieval, where there is one.
    """

    data: Prepared
    measured: list[int]
    unseen: Unseen
    baseline: RetrievalAugmentedModel | None


@dataclass
class LabelTraining:
    """`rows` whose label is a list are left out.

    `feedback_items`: rows that are only measured on. `baseline`: also train *none*.
    """

    rows: Sequence[Row]
    config: TrainConfig
    encoder: Encoder
    feedback_items: Sequence[Row] = ()
    baseline: bool = True

    multilabel: ClassVar[bool] = False

    @cached_property
    def usable(self) -> list[Row]:
        """The rows that can be learned from."""
        return [row for row in self.rows if isinstance(row.label, str) and row.text.strip()]

    @cached_property
    def labels(self) -> list[str]:
        """Of the usable rows, sorted."""
        return sorted({name for row in self.usable for name in row.names})

    @cached_property
    def feedback(self) -> list[Row]:
        """The recorded feedback that can be measured on."""
        known = {*self.labels}
        return [row for row in self.feedback_items if row.label in known]

    def truth(self, rows: Sequence[Row]) -> Tensor:
        """Their labels as numbers, [n]."""
        number = {label: i for i, label in enumerate(self.labels)}
        return torch.tensor([number[str(row.label)] for row in rows])

    def check(self) -> list[str]:
        """Refuse too few labels; warnings of what is left out."""
        usable, rows = len(self.usable), len(self.rows)
        if not usable:
            raise TrainingRefused(f"none of the {rows} rows carries a label of its own")
        if len(self.labels) < 2:
            only = self.labels[0][:80]
            raise TrainingRefused(
                f"the {usable} labelled rows carry one label ({only!r}); two are needed"
            )
        left = rows - usable
        return [f"{left} rows without a label of their own were left out"] if left else []

    def split(self) -> Split:
        """See `HeadTraining`."""
        warnings = self.check()
        split = plan_rows(self.usable, self.config)
        split.warnings += warnings
        self.config = self.config.resolved(len(split.train))
        return split

    def plain_rows(self) -> Iterator[object]:
        """See `HeadTraining`."""
        for row in self.usable:
            yield [row.id, row.text, row.label]
            yield from ([hit.text[:64], hit.label, round(hit.score, 4)] for hit in row.hits)

    def fit(self, split: Split, work: Path, start: StartTicker) -> LabelFitted:
        """See `HeadTraining`: the folds, *main*, its n-grams and gate, and *none*."""
        encoder = self.encoder
        head = HeadConfig(
            labels=tuple(self.labels),
            task=self.config.task,
            fusion_k=self.config.fusion_k,
            multilabel=self.multilabel,
            novel=NOVEL_FEATURES,
            **head_settings(self.config, encoder),
        )
        self.config = config = replace(self.config, layers=head.layers)
        rows = [*self.usable, *self.feedback]
        hits = [row.hits[: config.k] for row in rows]
        data = prepare(encoder, [row.text for row in rows], self.truth(rows), hits, config)
        others = None
        if config.ngrams:
            others = other_texts(
                self.usable, self.labels, encoder, config, multilabel=self.multilabel
            )
        stages = LabelStages(head, encoder, data, config, work, others)
        # With nothing held out there is nothing else to fit the gate on.
        folds = make_folds(split.train, max(int(config.folds or 1), 1 if split.held else 2))
        ticker = start(stages.steps(split, folds, self.baseline))
        parts = stages.fold_by_fold(split.train, folds, ticker)
        model, state = stages.train("main", split.train, split.held, ticker)
        unseen = stages.with_ngrams(model, split, folds, parts)
        try:
            k = self.choose_k(model.gate, unseen.fitting)
        except ArithmeticError as error:
            raise TrainingRefused(str(error)) from error
        none = None
        # Without a held-out part there is nothing to compare on: the folds were trained open.
        if self.baseline and split.held:
            none, _ = stages.train("none", split.train, split.held, ticker)
        head = replace(head, k=k, ngrams=unseen.features)
        measured = split.held or [i for fold in folds for i in fold]
        return LabelFitted(head, model, state, data, measured, unseen, none)

    def previous(self, base: Path) -> Reader | None:
        """See `HeadTraining`: by the code that serves it."""
        reader = Reader.load(base, self.encoder)
        return reader if self.config.field in reader.heads else None

    def evaluate(self, fitted: LabelFitted, split: Split, previous: Reader | None) -> Evaluated:
        """See `HeadTraining`."""
        data, unseen, gate = fitted.data, fitted.unseen, fitted.model.gate
        rows = [self.usable[i] for i in fitted.measured]
        evidence, closed = unseen.measured
        evidence = evidence.first(fitted.head.k)
        # The gate was fitted on the folds, or on these rows where they are too few for halves.
        apart = bool(unseen.folds) or len(evidence.logits) < 20
        probs, answers_on = self.by_gate(evidence, gate if apart else None)
        hits_alone = neighbours_alone(
            data, fitted.measured, self.labels, self.config.k, multilabel=self.multilabel
        )
        answers = {
            "on": answers_on,
            "off": self.closed_book(replace(evidence.first(0), logits=closed), gate),
            "neighbours": self.unfitted(hits_alone),
        }
        if fitted.baseline is not None:
            none = evidence_of(fitted.baseline, data, split.held, closed_only=True)[0]
            answers["none"] = self.closed_book(unseen.without_retrieval(none.first(0)), None)
        if previous is not None:
            answers["previous"] = answers_of(
                previous, self.config.field, self.labels, data, fitted.measured, rows
            )
        truth = [row.names for row in rows]
        decisions = self.decisions(probs, evidence.truth)
        diagnosis = diagnose(rows, answers, evidence, probs, decisions, multilabel=self.multilabel)
        if self.feedback:
            diagnosis["feedback"] = self.on_feedback(fitted, previous)
        return Evaluated(
            metrics={name: self.figures(truth, given) for name, given in answers.items()},
            calibration=self.calibration(evidence, probs, gate) | {"ngrams": unseen.share},
            diagnosis=diagnosis,
            extra={
                "labels": self.labels,
                "by_label": f1_by_label(truth, answers_on),
                "best_epoch": fitted.state.best_epoch,
            },
        )

    def on_feedback(self, fitted: LabelFitted, previous: Reader | None) -> dict[str, Any]:
        """The head and its baselines on feedback, which no weight, gate or temperature has seen."""
        data, rows = fitted.data, self.feedback
        places = [*range(len(self.usable), len(self.usable) + len(rows))]
        evidence = evidence_of(fitted.model, data, places)[0].first(fitted.head.k)
        with torch.no_grad():
            probs = fitted.model.gate(evidence.logits, evidence.neighbours(len(self.labels))).probs
        hits_alone = neighbours_alone(data, places, self.labels, self.config.k)
        answers = {
            "on": self.unfitted(probs),
            "neighbours": self.unfitted(hits_alone),
        }
        if previous is not None:
            answers["previous"] = answers_of(
                previous, self.config.field, self.labels, data, places, rows
            )
        truth = [row.names for row in rows]
        return {
            "rows": len(rows),
            "accuracy": {
                name: set_scores(truth, given)["accuracy"] for name, given in answers.items()
            },
            "paired": paired(truth, answers),
        }

    def by_gate(self, evidence: Evidence, gate: Gate | None) -> tuple[Tensor, Answers]:
        """Probabilities [n, L] and answers.

        No `gate`: one is fitted on one half and used on the other, both ways; with fewer than 20
        rows, on all of them.
        """
        probs = torch.zeros_like(evidence.logits)
        marks = torch.zeros_like(probs, dtype=torch.bool)
        everything = torch.ones(len(probs), dtype=torch.bool)
        whole = gate is not None or len(probs) < 20
        for fit_on, measure in [(everything, everything)] if whole else halves(len(probs)):
            trial, part = gate or self.fitted_gate(evidence.rows(fit_on)), evidence.rows(measure)
            with torch.no_grad():
                probs[measure] = trial(part.logits, part.neighbours(len(self.labels))).probs
                marks[measure] = self.answered(probs[measure], trial)
        return probs, self.named(marks)

    def named(self, marks: Tensor) -> Answers:
        """The labels of marks [n, L]."""
        return [[self.labels[j] for j in row.nonzero().flatten().tolist()] for row in marks]

    def unfitted(self, scores: Tensor) -> Answers:
        """Answers by scores [n, L] that nothing was fitted for."""
        return self.named(self.answered(scores, None))

    # What is different for independent labels: see `multilabel`.

    def choose_k(self, gate: Gate, evidence: Evidence) -> int:
        """Fit k, gate and temperatures on rows that were not trained on."""
        evidence = evidence if self.config.retrieval else evidence.first(0)
        return choose_k(gate, evidence, limit=max(self.config.k, 1), seed=self.config.seed)

    def fitted_gate(self, rows: Evidence) -> Gate:
        """A gate that is fitted on some rows."""
        gate = Gate()
        fit_gate(gate, rows)
        return gate

    def answered(self, probs: Tensor, gate: Gate | None) -> Tensor:
        """Which labels are answered, [n, L]; `gate`: it may hold a threshold."""
        return F.one_hot(probs.argmax(-1), len(self.labels)).bool()

    def closed_book(self, evidence: Evidence, gate: Gate | None) -> Answers:
        """Answers with nothing retrieved; `gate`: the head's, where it has one that fits."""
        return self.unfitted(evidence.logits)

    def figures(self, truth: Answers, answers: Answers) -> dict[str, float]:
        """The metrics of a condition."""
        scores = set_scores(truth, answers)
        return {name: scores[name] for name in ("accuracy", "macro_f1", "rows")}

    def decisions(self, probs: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """The confidence of each answer, and whether it is right."""
        return probs.amax(-1), probs.argmax(-1) == truth

    def raw(self, logits: Tensor) -> Tensor:
        """Logits [n, L] as probabilities, before any calibration."""
        return logits.softmax(-1)

    def calibration(self, evidence: Evidence, probs: Tensor, gate: Gate) -> dict[str, float]:
        """Calibration error before and after, and what was fitted."""

        def error(probs: Tensor) -> float:
            confidence, right = self.decisions(probs, evidence.truth)
            return calibration_error(confidence.tolist(), right.tolist())

        return {
            "ece_before": error(self.raw(evidence.logits)),
            "ece_after": error(probs),
            "temperature": float(gate.log_temperature.detach().exp()),
            "head_temperature": float(gate.log_head_temperature.detach().exp()),
        }
