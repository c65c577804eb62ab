"""Train the head for named entities that ships: the sample's own sentences and WNUT-17's."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch

from benchmarks.data.ner import Labelled, read, share_of
from benchmarks.ner import answers, interval
from index_data.sample import helpdesk
from model.encoder.encoder import Encoder
from model.ner.evidence import Entities
from model.ner.metrics import span_scores
from model.ner.rows import TagRow, TagTrainConfig
from model.ner.tagger import Tagger
from model.reader import Reader
from model.training.driver import train_head
from model.training.ner import NerTraining

TYPES = {
    "person": "PERSON", "location": "PLACE", "product": "PRODUCT", "corporation": "COMPANY",
    "group": "GROUP", "creative-work": "WORK",
}  # fmt: skip
EMPTY_SHARE = 0.25
"""Of the tweets without entities, how many are read."""
COPIES = 3
"""Of each sample sentence: as it is, and twice with other mentions of the same types."""


def sample_rows() -> list[TagRow]:
    """The sample's labelled sentences."""
    return [
        TagRow(d.id, d.text, entities_of(d.metadata["entities"]))
        for d in helpdesk()
        if "entities" in d.metadata
    ]


def entities_of(raw: Sequence[dict[str, object]]) -> Entities:
    """The entities of a document's metadata."""
    found = sorted((int(str(e["start"])), int(str(e["end"])), str(e["type"])) for e in raw)
    return tuple(found)


def swapped(row: TagRow, number: int, mentions: dict[str, list[str]], rng: random.Random) -> TagRow:
    """The same sentence with other mentions (Dai and Adel 2020); order numbers in other forms."""
    text, last, spans = "", 0, []
    for start, end, kind in row.entities:
        mention = row.text[start:end]
        if rng.random() < 0.7:
            mention = rng.choice(mentions[kind])
        if kind in ("ORDER", "MONEY"):
            mention = "".join(rng.choice("0123456789") if c.isdigit() else c for c in mention)
        if kind == "ORDER" and rng.random() < 0.5:
            mention = mention.rpartition("-")[2]
        text += row.text[last:start]
        spans.append((len(text), len(text) + len(mention), kind))
        text, last = text + mention, end
    return TagRow(f"{row.id}~{number}", text + row.text[last:], tuple(spans))


def training_rows(seed: int) -> tuple[list[TagRow], list[TagRow]]:
    """All rows, and those that are indexed (the rows as they were written)."""
    rng = random.Random(seed)
    sample = sample_rows()
    mentions: dict[str, list[str]] = {}
    for row in sample:
        for start, end, kind in row.entities:
            if row.text.isascii() or not row.text[start:end].isascii():
                mentions.setdefault(kind, []).append(row.text[start:end])
    tweets = [
        TagRow(r.id, r.text, tuple((a, b, TYPES[t]) for a, b, t in r.entities))
        for r in read("wnut17", "train")
    ]
    full = [r for r in tweets if r.entities]
    full += share_of([r for r in tweets if not r.entities], EMPTY_SHARE, seed)
    copies = [swapped(r, i, mentions, rng) for r in sample for i in range(1, COPIES)]
    return [*sample, *copies, *full], [*sample, *full]


def evaluate(checkpoint: Path) -> dict[str, object]:
    """The head on the sample's held-out tickets (never trained on, never indexed): strict F1."""
    encoder = Encoder.load()
    lines = (files("index_data.sample") / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    raw = [one for one in map(json.loads, lines) if "entities" in one["metadata"]]
    rows = [TagRow(d["id"], d["text"], entities_of(d["metadata"]["entities"])) for d in raw]
    rows = Labelled.of(sample_rows()).retrieve(rows)
    head = Reader.load(checkpoint, encoder).tagger("ner")
    views = {
        "on": answers(head, rows),
        "off": answers(head, rows, closed=True),
        "neighbours alone": answers(Tagger(None, encoder), rows),
    }
    truth = [row.entities for row in rows]
    found: dict[str, object] = {
        n: round(100 * span_scores(truth, s).f1, 1) for n, s in views.items()
    }
    return found | {
        "rows": len(rows),
        "on - off, 95 %": interval(rows, [views["on"]], [views["off"]]),
    }


def main() -> None:
    """Write a checkpoint with the head added to those of a base; or measure the one that ships."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", help="none: measure the one that ships")
    parser.add_argument("--base", type=Path, default=Path("model/shipped"))
    parser.add_argument("--epochs", type=int, default=4)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.out is None:
        print(json.dumps(evaluate(given.base)))
        return
    rows, indexed = training_rows(0)
    index = Labelled.of(indexed)
    rows = index.retrieve(rows)
    print(len(rows), "rows,", index.dropped, "near-duplicates dropped", flush=True)
    report = train_head(
        NerTraining(
            rows,
            TagTrainConfig(epochs=given.epochs, batch_size=16, drop_retrieval=0.5, holdout=0.08),
            Encoder.load(),
            baseline=False,
        ),
        given.out,
        base=given.base,
        progress=lambda step, total, loss, left: (
            print(step, total, loss, left, flush=True) if step % 40 == 0 else None
        ),
    )
    print(
        json.dumps(
            {"metrics": report.metrics, "by_type": report.extra["by_type"]} | report.calibration
        )
    )


if __name__ == "__main__":
    main()
