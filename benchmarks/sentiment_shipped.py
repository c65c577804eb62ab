"""Train the head for sentiment that ships: the sample's tickets and SST-2's sentences."""

from __future__ import annotations

import argparse
import json
import time
from importlib.resources import files
from pathlib import Path

import torch

from benchmarks.classification_data import Example, Split, neighbours, read, to_rows, with_vectors
from index_data.sample import helpdesk
from model.config import bf16_products
from model.encoder import Encoder
from model.memory import Retrieved
from model.metrics import accuracy, paired_interval
from model.provenance import digests
from model.reader import Reader
from model.training import Row, TrainConfig, train_head

FIELD = "sentiment"
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
    said = {
        "on": answers(reader, split, hits),
        "off": answers(reader, split, [[] for _ in hits]),
        "neighbours alone": answers(bare, split, hits),
    }
    right = {n: [a == b for a, b in zip(truth, s, strict=True)] for n, s in said.items()}
    found: dict[str, object] = {n: round(100 * accuracy(truth, s), 1) for n, s in said.items()}
    interval = [round(100 * v, 1) for v in paired_interval(right["on"], right["off"])]
    return found | {"rows": len(truth), "on - off": interval}


def answers(reader: Reader, split: Split, hits: Hits) -> list[str]:
    """What is answered, by the code that serves."""
    tokens = reader.encoder.tokenize([row.text for row in split.rows])
    out: list[str] = []
    with bf16_products(reader.encoder.device):
        for start in range(0, len(tokens), 64):
            part = tokens[start : start + 64]
            states = reader.read(part, [FIELD] * len(part))
            near = hits[start : start + 64]
            labels = sorted({str(h.label) for found in near for h in found if h.label})
            out += [str(p.label) for p in reader.predict(states, near, FIELD, index_labels=labels)]
    return out


def main() -> None:
    """Write a checkpoint with the head added to those of a base; or measure the one that ships."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", help="none: measure the one that ships")
    parser.add_argument("--base", type=Path, default=Path("model/shipped"))
    parser.add_argument("--none", action="store_true", help="train without retrieval")
    parser.add_argument("--epochs", type=int)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.out is None:
        print(json.dumps(evaluate(given.base)))
        return
    encoder = Encoder.load()
    rows = training_rows(encoder)
    shown = time.monotonic()

    def progress(step: int, total: int, loss: float | None, left: float | None) -> None:
        nonlocal shown
        if time.monotonic() - shown > 60:
            shown = time.monotonic()
            print(f"{step}/{total} loss {loss or 0:.3f}, {left or 0:.0f} s left", flush=True)

    config = TrainConfig(
        field=FIELD, task=FIELD, layers=6, epochs=given.epochs, retrieval=not given.none
    )
    documents = digests(row.id for row in rows if not row.id.startswith("train-"))
    report = train_head(
        rows, config, encoder, given.out, base=given.base, baseline=False, documents=documents,
        progress=progress,
    )  # fmt: skip
    print(json.dumps({"held out": report.metrics} | report.calibration | evaluate(given.out)))


if __name__ == "__main__":
    main()
