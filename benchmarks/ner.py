"""Named entities: strict F1 on CoNLL-2003 (all labels, a tenth) and WNUT-17: on, off and none."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.data.ner import Labelled, read, share_of
from benchmarks.tools.folders import RUNS
from model.checkpoint import build, load_heads
from model.config import bf16_products
from model.encoder.encoder import Encoder
from model.ner.metrics import span_scores
from model.ner.network import TagNetwork
from model.ner.rows import TagRow, TagTrainConfig
from model.ner.tagger import Tagger
from model.ner.words import split_words
from model.training.driver import train_head
from model.training.ner import NerTraining

HEADS = RUNS / "ner"
CASES = {
    "conll2003": ("conll2003", 1.0),
    "conll2003-10": ("conll2003", 0.1),
    "wnut17": ("wnut17", 1.0),
}
CHINESE = {"resume_ner": ("resume_ner", 1.0), "msra_ner": ("msra_ner", 1.0)}
"""Asked by `benchmarks.scratch`, over an encoder of their own."""
Said = list[list[tuple[int, int, str, float]]]


def trained(
    case: str,
    seed: int,
    view: str,
    rows: Sequence[TagRow],
    encoder: Encoder,
    options: dict[str, Any],
) -> Tagger:
    """The head of a case: trained now, or found from an earlier run with the same settings."""
    tail = "-".join(f"{k}{v}" for k, v in sorted(options.items()))
    out = HEADS / f"{case}-{encoder.sha256[:8]}-{seed}-{view}{'-' if tail else ''}{tail}"
    config = TagTrainConfig(seed=seed, retrieval=view == "on", **options)
    if not out.exists():
        began = time.monotonic()

        def progress(step: int, total: int, loss: float | None, left: float | None) -> None:
            if step % 50 == 0:
                print(
                    f"{out.name} {step}/{total} loss {loss:.3f} left {left or 0:.0f} s", flush=True
                )

        report = train_head(
            NerTraining(rows, config, encoder, baseline=False), out, progress=progress
        )
        print(
            f"{out.name}: {time.monotonic() - began:.0f} s",
            json.dumps(report.metrics),
            json.dumps(report.calibration),
            flush=True,
        )
    network = build(load_heads(out)[1]["ner"], encoder)
    assert isinstance(network, TagNetwork)
    return Tagger(network.requires_grad_(False), network.encoder)


def answers(tagger: Tagger, rows: Sequence[TagRow], *, closed: bool = False) -> Said:
    """What is answered for each row, by the code that serves."""
    out: Said = []
    for start in range(0, len(rows), 64):
        part = rows[start : start + 64]
        hits = [[] if closed else row.hits for row in part]
        with bf16_products(tagger.encoder.device):  # what is served where the processor has it
            said = tagger.answer([row.text for row in part], hits)
        out += [[(e.start, e.end, e.type, e.score) for e in answer.entities] for answer in said]
    return out


def iob(row: TagRow, spans: Sequence[tuple[int, int, str]]) -> list[str]:
    """IOB2 tags over the row's words: every border of a span is one of words."""
    words = split_words(row.text)
    tags = ["O"] * len(words)
    for start, end, kind in spans:
        inside = [i for i, w in enumerate(words) if w.start < end and w.end > start]
        for i in inside:
            tags[i] = f"{'B' if i == inside[0] else 'I'}-{kind}"
    return tags


def f1(rows: Sequence[TagRow], said: Said) -> float:
    """Strict span F1 (percent) by seqeval, held equal to our own."""
    from seqeval.metrics import f1_score
    from seqeval.scheme import IOB2

    truth = [iob(row, row.entities) for row in rows]
    tags = [iob(row, [(a, b, t) for a, b, t, _ in s]) for row, s in zip(rows, said, strict=True)]
    theirs = float(f1_score(truth, tags, mode="strict", scheme=IOB2))
    ours = span_scores([row.entities for row in rows], said).f1
    if abs(theirs - ours) > 1e-9:
        raise SystemExit(f"seqeval says {theirs}, this code {ours}")
    return 100 * theirs


def interval(
    rows: Sequence[TagRow], one: Sequence[Said], other: Sequence[Said], draws: int = 2000
) -> list[float]:
    """The paired 95 % bootstrap interval of the difference of F1, over sentences and seeds."""
    counts = [
        np.array([[_counts(row, s) for row, s in zip(rows, said, strict=True)] for said in side])
        for side in (one, other)
    ]
    rng = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        picks = rng.integers(0, len(rows), len(rows))
        seeds = rng.integers(0, len(one), len(one))
        a, b = (_f1(side[seeds][:, picks].sum(1)).mean() for side in counts)
        found.append(100 * (a - b))
    return [round(float(v), 2) for v in np.percentile(found, [2.5, 97.5])]


def _counts(row: TagRow, said: Sequence[tuple[int, int, str, float]]) -> tuple[int, int, int]:
    spans = {(a, b, t) for a, b, t, _ in said}
    return len(spans & set(row.entities)), len(spans), len(row.entities)


def _f1(counts: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    right, found, there = counts.T
    scores: np.ndarray[Any, Any] = 2 * right / np.maximum(found + there, 1)
    return scores


def run(
    case: str,
    encoders: Mapping[int, Encoder],
    split: str,
    options: dict[str, Any],
    most: int | None = None,
    learned: float = 1.0,
) -> dict[str, Any]:
    """One case on one split: `on`, `off` and `none`, and the index grown after training.

    `encoders`: of each seed. `most`: so many sentences of each part, for a try. `learned`: the
    share of the index's sentences that heads learn from.
    """
    name, share = (CASES | CHINESE)[case]
    everything, judged = read(name, "train")[:most], read(name, split)[:most]
    said: dict[str, list[Said]] = {}
    figures: dict[str, list[float]] = {}

    def add(view: str, rows: Sequence[TagRow], found: Said) -> None:
        said.setdefault(view, []).append(found)
        figures.setdefault(view, []).append(f1(rows, found))

    for seed, encoder in encoders.items():
        train = share_of(everything, share, seed)
        index = Labelled.of(train)
        rows, test = index.retrieve(share_of(train, learned, seed)), index.retrieve(judged)
        on = trained(case, seed, "on", rows, encoder, options)
        add("on", test, answers(on, test))
        add("off", test, answers(on, test, closed=True))
        none = trained(case, seed, "none", rows, encoder, options)
        add("none", test, answers(none, test, closed=True))
        if share < 1:
            grown = Labelled.of(everything).retrieve(judged)
            add("on, index grown to all labels", grown, answers(on, grown))
        print(case, seed, {view: round(v[-1], 2) for view, v in figures.items()}, flush=True)
    result: dict[str, Any] = {view: round(float(np.mean(v)), 2) for view, v in figures.items()}
    result["per seed"] = {view: [round(x, 2) for x in v] for view, v in figures.items()}
    result["on - none, 95 %"] = interval(judged, said["on"], said["none"])
    result["on - off, 95 %"] = interval(judged, said["on"], said["off"])
    result["rows"] = len(judged)
    return result


def main() -> None:
    """Train what is not there yet, and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--rank", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--epochs", type=int)
    given = vars(parser.parse_args())
    torch.set_num_threads(1)
    names = ("layers", "rank", "lr", "epochs")
    options = {n: given[n] for n in names if given[n] is not None}
    encoder = Encoder.load()
    encoders = dict.fromkeys(given["seed"], encoder)
    out = {case: run(case, encoders, given["split"], options) for case in given["cases"]}
    print(json.dumps({"split": given["split"], **out}))


if __name__ == "__main__":
    main()
