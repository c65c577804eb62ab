"""Fields with several labels at once, by the code that serves: ``python -m benchmarks.several``.

Two sets are made from what is in the repository and in the running Python: the help desk's tickets
with their label and, where they have one, their sentiment (measured on its held-out part), and
docstrings with their chapter, their kind and their package, where it has enough of them (a fifth by
hash is held out and is in no index). Each is trained with retrieval and without (*none*). Every
threshold is fitted on training rows: the neighbours' too (as the server does it on the index's
documents), beside the 0.5 that they have while nothing is fitted.

The last line printed is one JSON object. `--rows` takes only so many docstrings, by hash.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.tools.progress import Line
from benchmarks.tools.statistics import paired_interval
from index_data.documents import Document, near_duplicate
from index_data.sample import helpdesk, helpdesk_heldout, python_docs
from model.config import TrainConfig
from model.encoder.encoder import Encoder
from model.labels.memory import Retrieved
from model.labels.multilabel import best_threshold, marks_of
from model.metrics import row_f1, set_scores
from model.reader import Reader
from model.training.driver import train_head
from model.training.multilabel import MultilabelTraining
from model.training.split import Row, bucket

K = 48
HELD_OUT = 0.2
GROUP = 15  # docstrings that a package has for its name to be a label
Vectors = NDArray[np.float32]
Answers = list[list[str]]


def tickets(documents: Sequence[Document]) -> list[tuple[str, list[str]]]:
    """Texts with their label and sentiment, as one list."""
    fields = ("label", "sentiment")
    return [
        (d.text, [str(d.labels[f]) for f in fields if f in d.labels])
        for d in documents
        if "label" in d.labels
    ]


def docstrings(most: int) -> list[tuple[str, list[str]]]:
    """Texts with their chapter, kind and package; so many of the lowest hash."""
    found = sorted(python_docs(), key=lambda d: bucket("rows " + d.text))[:most]
    packages = [str(d.metadata["module"]).split(".")[0] for d in found]
    often = Counter(packages)
    return [
        (d.text, [str(d.labels["label"]), kind_of(d), *([name] if often[name] >= GROUP else [])])
        for d, name in zip(found, packages, strict=True)
    ]


def kind_of(document: Document) -> str:
    """module, class, exception, function, method, or topic; from the qualified name."""
    name, module = str(document.title), str(document.metadata["module"])
    if module == "pydoc_data.topics":
        return "topic"
    rest = name.removeprefix(module).strip(".").split(".") if name != module else []
    if not rest:
        return "module"
    if len(rest) > 1:
        return "method"
    if rest[0].endswith(("Error", "Exception", "Warning")):
        return "exception"
    return "class" if rest[0][:1].isupper() else "function"


def hits(
    texts: Sequence[str], vectors: Vectors, index: Sequence[tuple[str, list[str]]], known: Vectors
) -> list[list[Retrieved]]:
    """The nearest by exact product for each text, never a near-duplicate."""
    found: list[list[Retrieved]] = []
    for text, vector in zip(texts, vectors, strict=True):
        scores = known @ vector
        row: list[Retrieved] = []
        for j in np.argsort(-scores, kind="stable")[: 2 * K]:
            other, labels = index[j]
            if scores[j] > 0.8 and near_duplicate(text, other):
                continue
            row.append(Retrieved(None, other, labels, float(scores[j]), known[j]))
        found.append(row[:K])
    return found


def answer(reader: Reader, rows: Sequence[Row], labels: Sequence[str]) -> NDArray[np.float32]:
    """Independent scores [n, L] of the labels, by the code that serves."""
    out = np.zeros((len(rows), len(labels)), dtype=np.float32)
    for start in range(0, len(rows), 32):
        part = rows[start : start + 32]
        states = reader.read([reader.tokenize(row.text) for row in part], ["label"] * len(part))
        said = reader.predict(states, [r.hits for r in part], "label", index_labels=labels)
        for i, one in enumerate(said, start):
            scores = dict(zip(one.labels, one.probs, strict=True))
            out[i] = [scores.get(label, 0.0) for label in labels]
    return out


def over(scores: NDArray[np.float32], labels: Sequence[str], threshold: float) -> Answers:
    return [[labels[j] for j in np.flatnonzero(row >= threshold).tolist()] for row in scores]


def measure(
    name: str,
    train: list[tuple[str, list[str]]],
    test: list[tuple[str, list[str]]],
    encoder: Encoder,
    **settings: Any,
) -> dict[str, Any]:
    """Train with retrieval and without, answer the held-out part, compare row by row."""
    began = time.monotonic()
    texts = [text for text, _ in train]
    known = encoder.encode(texts)
    asked = [text for text, _ in test]
    own = hits(texts, known, train, known)
    found = hits(asked, encoder.encode(asked), train, known)
    rows = [Row(f"{i}", t, names, h) for i, ((t, names), h) in enumerate(zip(train, own))]  # noqa: B905
    held = [Row(f"t{i}", t, names, h) for i, ((t, names), h) in enumerate(zip(test, found))]  # noqa: B905
    shut = [Row(row.id, row.text, row.label) for row in held]
    labels = sorted({label for _, names in train for label in names})
    print(f"{name}: {len(rows)} rows, {len(held)} held out, {len(labels)} labels", flush=True)
    work = Path(tempfile.mkdtemp(prefix="several-"))
    said: dict[str, Answers] = {}
    try:
        for view, retrieval in (("on", True), ("none", False)):
            config = TrainConfig(k=K, retrieval=retrieval, **settings)
            given = rows if retrieval else [Row(r.id, r.text, r.label) for r in rows]
            report = train_head(
                MultilabelTraining(given, config, encoder, baseline=False),
                work / view,
                progress=Line(f"{name} {view}"),
            )
            print(view, "n-grams weigh", round(report.calibration["ngrams"], 3), flush=True)
            reader, threshold = Reader.load(work / view, encoder), report.calibration["threshold"]
            said[view] = over(
                answer(reader, held if retrieval else shut, labels), labels, threshold
            )
            if retrieval:
                said["off"] = over(answer(reader, shut, labels), labels, threshold)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    alone = Reader.load(None, encoder)
    scores = answer(alone, held, labels)
    said["neighbours"] = over(scores, labels, 0.5)
    votes = torch.from_numpy(answer(alone, rows, labels))
    fitted, _ = best_threshold(votes, marks_of(labels, [row.names for row in rows]))
    said["neighbours, fitted"] = over(scores, labels, fitted)
    truth = [row.names for row in held]
    out: dict[str, Any] = {view: set_scores(truth, given) for view, given in said.items()}
    for rival in ("off", "none", "neighbours", "neighbours, fitted"):
        ours, theirs = ([row_f1(t, s) for t, s in zip(truth, said[view], strict=True)]
                        for view in ("on", rival))  # fmt: skip
        mean, low, high = paired_interval(ours, theirs)
        out[f"on - {rival}, row F1"] = {"mean": mean, "low": low, "high": high}
    for view, figures in out.items():
        print(view, {key: round(value, 4) for key, value in figures.items()}, flush=True)
    out["seconds"] = time.monotonic() - began
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("helpdesk", "python"), default=None)
    parser.add_argument("--rows", type=int, default=1500, help="docstrings")
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--folds", type=int, default=None, help="1: the gate's rows are held out")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    encoder = Encoder.load()
    given = {name: getattr(arguments, name) for name in ("epochs", "folds", "seed")}
    out: dict[str, Any] = {}
    if arguments.only != "python":
        english = [d for d in helpdesk() if d.lang == "en"]
        apart = [d for d in helpdesk_heldout() if d.lang == "en"]
        out["helpdesk"] = measure("helpdesk", tickets(english), tickets(apart), encoder, **given)
    if arguments.only != "helpdesk":
        rows = docstrings(arguments.rows)
        # Not the hash by which training holds rows out: it would find none among the others.
        test = [row for row in rows if bucket("test " + row[0]) < HELD_OUT]
        train = [row for row in rows if bucket("test " + row[0]) >= HELD_OUT]
        out["python"] = measure("python", train, test, encoder, **given)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
