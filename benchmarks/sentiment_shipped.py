"""Train the head for sentiment that ships: the sample's tickets and SST-2's sentences."""

from __future__ import annotations

import argparse
import json
from importlib.resources import files
from pathlib import Path

import torch

from benchmarks.classification import answer
from benchmarks.data.classification import Example, Split, neighbours, read, to_rows, with_vectors
from benchmarks.tools.progress import Line
from benchmarks.tools.statistics import paired_interval
from index_data.sample import helpdesk
from model.config import TrainConfig
from model.encoder.encoder import Encoder
from model.labels.memory import Retrieved
from model.metrics import accuracy
from model.provenance import digests
from model.reader import Reader
from model.training.driver import train_head
from model.training.labels import LabelTraining
from model.training.split import Row

FIELD = "sentiment"
LABELS = ("negative", "positive")
K = 48
Hits = list[list[Retrieved]]


def sample(encoder: Encoder) -> Split:
    """The sample's tickets with a sentiment."""
    rows = [Example(d.id, d.text, str(d.labels[FIELD])) for d in helpdesk() if d.labels.get(FIELD)]
    return with_vectors(rows, encoder, "helpdesk-sentiment")


def training_rows(encoder: Encoder) -> list[Row]:
    """Each set's rows with hits of their own set, never the row or a near-duplicate."""
    sentences = with_vectors(read("sst2", "train"), encoder, "sst2-train")
    rows: list[Row] = []
    for split in (sample(encoder), sentences):
        hits, dropped = neighbours(split, split, K)
        print(len(hits), "rows,", dropped, "near-duplicates dropped", flush=True)
        rows += to_rows(split, hits)
    return rows


def evaluate(checkpoint: Path) -> dict[str, object]:
    """Accuracy on the sample's held-out tickets, which no index holds, and on SST-2's dev part."""
    encoder = Encoder.load()
    reader = Reader.load(checkpoint, encoder)
    index = sample(encoder)
    lines = (files("index_data.sample") / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    held = [d for d in map(json.loads, lines) if d["labels"].get(FIELD)]
    found: dict[str, object] = {}
    for part, some in (
        ("tickets", [d for d in held if d["lang"] == "en"]),
        ("tickets in Chinese", [d for d in held if d["lang"] == "zh"]),
    ):
        rows = [Example(d["id"], d["text"], d["labels"][FIELD]) for d in some]
        split = with_vectors(rows, encoder, "helpdesk-heldout")
        hits, _ = neighbours(split, index, K)
        found[part] = views(reader, split, hits)
    dev = with_vectors(read("sst2", "dev"), encoder, "sst2-dev")
    found["SST-2 dev"] = views(reader, dev, neighbours(dev, index, K)[0])
    return found


def views(reader: Reader, split: Split, hits: Hits) -> dict[str, object]:
    """On, off and the neighbours alone, in percent; on - off with its interval."""
    truth = [row.label for row in split.rows]
    bare = Reader.load(None, reader.encoder)
    nothing: Hits = [[] for _ in hits]
    said = {
        view: [str(p.label) for p in answer(by, split, found, LABELS, FIELD)]
        for view, by, found in (
            ("on", reader, hits), ("off", reader, nothing), ("neighbours alone", bare, hits)
        )
    }  # fmt: skip
    right = {n: [a == b for a, b in zip(truth, s, strict=True)] for n, s in said.items()}
    found: dict[str, object] = {n: round(100 * accuracy(truth, s), 1) for n, s in said.items()}
    interval = [round(100 * v, 1) for v in paired_interval(right["on"], right["off"])]
    return found | {"rows": len(truth), "on - off": interval}


def main() -> None:
    """Write a checkpoint with the head added to those of a base; or measure the one that ships."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", help="none: measure the one that ships")
    parser.add_argument("--base", type=Path, default=Path("model/shipped"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.out is None:
        print(json.dumps(evaluate(given.base)))
        return
    encoder = Encoder.load()
    rows = training_rows(encoder)

    config = TrainConfig(field=FIELD, task=FIELD, layers=6)
    documents = digests(row.id for row in rows if not row.id.startswith("train-"))
    report = train_head(
        LabelTraining(rows, config, encoder, baseline=False),
        given.out,
        base=given.base,
        documents=documents,
        progress=Line(FIELD),
    )
    print(json.dumps({"held out": report.metrics} | report.calibration | evaluate(given.out)))


if __name__ == "__main__":
    main()
