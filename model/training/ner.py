"""Training a head for named entities, on rows that arrive with their labelled hits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.config import bf16_products
from model.encoder.encoder import Encoder, batches_by_length
from model.ner.crf import nll
from model.ner.evidence import TagHit
from model.ner.metrics import ScoredSpan, calibration_of, row_counts, span_scores
from model.ner.network import Batch, TagConfig, TagNetwork, collate
from model.ner.rows import TagRow, TagTrainConfig
from model.ner.tagger import Tagger
from model.training.driver import Evaluated, Fitted, StartTicker, base_network, head_settings
from model.training.evaluation import compare
from model.training.ner_examples import Prepared, padded, prepare
from model.training.split import TOO_FEW, Split, bucket
from model.training.trainer import Draws, LoopState, Ticker, run_epochs
from model.training.workspace import TrainingRefused

MAX_HELD_OUT = 1000
ANSWERED_AT_ONCE = 64


@dataclass(slots=True)
class NerFitted(Fitted[TagNetwork]):
    """A head for entities after its training; `baseline`: the one trained without retrieval."""

    baseline: TagNetwork | None


@dataclass
class NerTraining:
    """`feedback_items`: rows that are only measured on. `baseline`: also train *none*.

    Figures are precision, recall and f1 of whole spans, 0 to 1.
    """

    rows: Sequence[TagRow]
    config: TagTrainConfig
    encoder: Encoder
    feedback_items: Sequence[TagRow] = ()
    baseline: bool = True

    @cached_property
    def types(self) -> list[str]:
        """Of all rows, sorted."""
        return sorted({kind for row in self.rows for _, _, kind in row.entities})

    def split(self) -> Split:
        """See `HeadTraining`: by hash of the normalised text."""
        self._check()
        rows, holdout = self.rows, self.config.holdout
        order = sorted(range(len(rows)), key=lambda i: (bucket(rows[i].text), i))
        limit = min(int(len(rows) * holdout), MAX_HELD_OUT)
        held = [i for i in order[:limit] if bucket(rows[i].text) < holdout]
        apart = set(held)
        train = [i for i in range(len(rows)) if i not in apart]
        self.config = self.config.resolved(len(train))
        return Split(train, held, [] if held else [TOO_FEW], len(rows), "training")

    def _check(self) -> None:
        for row in self.rows:
            end = 0
            for first, stop, _ in row.entities:
                if not end <= first < stop <= len(row.text):
                    raise TrainingRefused(
                        f"row {row.id[:80]!r}: entities overlap, are out of order or lie outside it"
                    )
                end = stop
        if not self.types:
            raise TrainingRefused(f"none of the {len(self.rows)} rows carries an entity")

    def plain_rows(self) -> Iterator[object]:
        """See `HeadTraining`."""
        for row in self.rows:
            yield [row.id, row.text, row.entities]
            yield from ([hit.text[:64], hit.entities, round(hit.score, 4)] for hit in row.hits)

    def fit(self, split: Split, work: Path, start: StartTicker) -> NerFitted:
        """See `HeadTraining`: *main* and *none*."""
        config, encoder = self.config, self.encoder
        head = TagConfig(
            types=tuple(self.types),
            max_tokens=min(config.max_tokens, encoder.max_tokens),
            **head_settings(config, encoder),
        )
        data = prepare(encoder, head, [self.rows[i] for i in split.train])
        both = self.baseline and config.retrieval
        steps = int(config.epochs or 1) * -(-len(data.windows) // int(config.batch_size or 1))
        ticker = start(steps * (1 + both))

        def train(name: str, config: TagTrainConfig) -> tuple[TagNetwork, LoopState]:
            torch.manual_seed(config.seed)
            model = TagNetwork(head, encoder).to(encoder.device)
            return model, fit(model, data, config, work / name, ticker)

        model, state = train("main", config)
        none = train("none", replace(config, retrieval=False))[0] if both else None
        return NerFitted(head, model, state, none)

    def previous(self, base: Path) -> Tagger | None:
        """See `HeadTraining`."""
        network = base_network(base, self.config.field, self.encoder, TagNetwork)
        return None if network is None else Tagger(network, self.encoder)

    def evaluate(self, fitted: NerFitted, split: Split, previous: Tagger | None) -> Evaluated:
        """See `HeadTraining`."""
        judged = [self.rows[i] for i in split.held or split.train[:MAX_HELD_OUT]]
        calibration = calibrate(fitted.model, judged) if split.held else {}
        rows, n = [*judged, *self.feedback_items], len(judged)
        tagger, warnings = Tagger(fitted.model, self.encoder), []
        answers = {
            "on": answers_of(tagger, rows, closed=not self.config.retrieval),
            "off": answers_of(tagger, rows, closed=True),
        }
        if self.config.retrieval:
            answers["neighbours"] = answers_of(Tagger(None, self.encoder), rows)
        if fitted.baseline is not None:
            answers["none"] = answers_of(Tagger(fitted.baseline, self.encoder), rows, closed=True)
        if previous is not None:
            answers["previous"] = answers_of(previous, rows)
            if lost := sorted({*previous.types} - {*self.types}):
                warnings.append(
                    f"the head that serves knows types that no row carries: {_few(lost)}"
                )
        truth = [row.entities for row in rows]
        if split.held:
            calibration |= calibration_of(truth[:n], answers["on"][:n])
        scores = {name: span_scores(truth[:n], given[:n]) for name, given in answers.items()}
        counts = {name: row_counts(truth, given) for name, given in answers.items()}
        by_label = {name: one.by_type for name, one in scores.items()}
        return Evaluated(
            metrics={name: one.to_json() for name, one in scores.items()},
            calibration=calibration,
            diagnosis={"by_label": by_label} | compare("f1", counts, "on", len(rows) - n),
            extra={"types": self.types, "by_type": scores["on"].by_type},
            warnings=warnings,
        )


def _few(names: Sequence[str], most: int = 10) -> str:
    """Some names in a warning."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name[:80] for name in names[:most]) + rest


def fit(
    model: TagNetwork, data: Prepared, config: TagTrainConfig, folder: Path, ticker: Ticker
) -> LoopState:
    """Train on all windows."""
    lengths = [len(window.ids) for window in data.windows]

    def loss_of(part: Sequence[int], draws: Draws) -> tuple[Tensor, int]:
        return _loss(model, data, part, config, draws.generator), sum(lengths[i] for i in part)

    return run_epochs(model, config, lengths, loss_of, folder, ticker)


def _loss(
    model: TagNetwork,
    data: Prepared,
    part: Sequence[int],
    config: TagTrainConfig,
    generator: torch.Generator,
) -> Tensor:
    encoder = model.encoder
    batch, truth = _batch(encoder, data, part)
    closed = torch.rand(len(part), generator=generator) < config.drop_retrieval
    if not config.retrieval:
        closed = torch.ones(len(part), dtype=torch.bool)
    keep = (~closed).to(batch.evidence)[:, None, None]
    batch = batch._replace(evidence=batch.evidence * keep)
    lower = None
    if data.lower is not None:
        lower = torch.zeros(*batch.ids.shape, encoder.dim, device=encoder.device)
        for out, i in zip(lower, part, strict=True):
            out[: len(data.lower[i])] = data.lower[i].to(lower)
    with bf16_products(batch.ids.device):
        emissions = model(batch, lower)
    return model.crf.loss(emissions.float(), truth, batch.words).mean()


@torch.no_grad()
def calibrate(model: TagNetwork, rows: Sequence[TagRow]) -> dict[str, float]:
    """Fit the temperature on rows that were not trained on, by the likelihood of their tags."""
    model.eval()
    data = prepare(model.encoder, model.config, rows)
    parts = []
    for some in batches_by_length([len(w.ids) for w in data.windows], budget=4096):
        batch, truth = _batch(model.encoder, data, some)
        parts.append((model(batch), truth, batch.words))
    start, transitions = model.crf.tables()
    best, least = 1.0, float("inf")
    for temperature in np.geomspace(0.5, 4.0, 25).tolist():
        scaled = (start / temperature, transitions / temperature)
        loss = sum(float(nll(e / temperature, t, m, *scaled).sum()) for e, t, m in parts)
        if loss < least:
            best, least = temperature, loss
    model.log_temperature.fill_(float(np.log(best)))
    return {"temperature": best}


def _batch(encoder: Encoder, data: Prepared, some: Sequence[int]) -> tuple[Batch, Tensor]:
    """Some windows, padded, and their tags [b, words]."""
    batch = collate(encoder, [data.windows[i] for i in some], [data.evidence[i] for i in some])
    return batch, padded([data.tags[i] for i in some], batch)


def answers_of(
    tagger: Tagger, rows: Sequence[TagRow], *, closed: bool = False
) -> list[list[ScoredSpan]]:
    """The entities of each row; `closed`: with nothing retrieved."""
    out: list[list[ScoredSpan]] = []
    for start in range(0, len(rows), ANSWERED_AT_ONCE):
        part = rows[start : start + ANSWERED_AT_ONCE]
        hits: list[Sequence[TagHit]] = [[] if closed else row.hits for row in part]
        with bf16_products(tagger.encoder.device):  # as it is served
            answers = tagger.answer([row.text for row in part], hits)
        out += [[(e.start, e.end, e.type, e.score) for e in answer.entities] for answer in answers]
    return out
