"""Train the head for named entities that ships: the sample's own sentences and WNUT-17's."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.ner_data import Labelled, read, share_of
from index_data.sample import helpdesk
from model.encoder import Encoder
from model.tag_evidence import Entities
from model.tag_training import TagRow, TagTrainConfig, train_tagger

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


def main() -> None:
    """Write a checkpoint with the head added to those of a base."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--base", type=Path, default=Path("model/shipped"))
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows, indexed = training_rows(0)
    index = Labelled.of(indexed)
    rows = index.retrieve(rows)
    print(len(rows), "rows,", index.dropped, "near-duplicates dropped", flush=True)
    report = train_tagger(
        rows,
        TagTrainConfig(epochs=given.epochs, batch_size=16, drop_retrieval=0.5, holdout=0.08),
        Encoder.load(),
        given.out,
        base=given.base,
        baseline=False,
        progress=lambda step, total, loss, left: (
            print(step, total, loss, left, flush=True) if step % 40 == 0 else None
        ),
    )
    print(json.dumps({"metrics": report.metrics, "by_type": report.by_type} | report.calibration))


if __name__ == "__main__":
    main()
