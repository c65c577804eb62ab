"""Question answering on SQuAD: the paragraph given, to be found, and taken out.

    python -m benchmarks.qa [--questions N] [--checkpoint FOLDER]
    python -m benchmarks.qa --train FOLDER [--none] [--base FOLDER]

Measured with the code that serves: paragraphs of the development part in an index, published as
the server does it, searched by its default method, read by the checkpoint's head. `--questions`
takes a part of the 10,570 by hash; retrieval is measured on all of them. `--train` trains the head
on SQuAD's training rows (its own development rows, 5 % by hash of the paragraph, fit the mixture
and the judges); `--none` without retrieved passages, at equal compute.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.data import rows
from benchmarks.qa_data import share, training_rows
from benchmarks.retrieval import index_of
from benchmarks.retrieval_peers import temporary
from benchmarks.vector_cache import CachedEncoder
from index_data.documents import Document
from index_data.metrics import bootstrap
from index_data.searcher import Hit
from model.answers import PassageText, SpanAnswer, SpanReader
from model.encoder import Encoder
from model.reader import Reader
from model.span_calibration import ask_all, auroc
from model.span_metrics import exact_match, f1
from model.span_rows import SpanTrainConfig
from model.span_training import train_span

SHIPPED = Path(__file__).resolve().parent.parent / "model" / "shipped"
ALL = 10_570
AT_ONCE = 64


def answers(reader: SpanReader, asked: Sequence[tuple[str, list[PassageText]]]) -> list[SpanAnswer]:
    """Answers to questions over passages, in parts."""
    found: list[SpanAnswer] = []
    for start in range(0, len(asked), AT_ONCE):
        part = [reader.ask(question, texts) for question, texts in asked[start : start + AT_ONCE]]
        found += ask_all(reader, part)
    return found


def passages(hits: Sequence[Hit]) -> list[PassageText]:
    return [PassageText(hit.text, rank) for rank, hit in enumerate(hits, 1)]


def quality(said: Sequence[SpanAnswer], raw: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Exact match and F1 in percent, each with its 95 % interval."""
    texts = [answer.spans[0].text if answer.spans else "" for answer in said]
    truths = [[a["text"] for a in r["answers"]] for r in raw]
    out = {}
    for name, metric in (("exact_match", exact_match), ("f1", f1)):
        values = np.array([100 * metric(s, t) for s, t in zip(texts, truths, strict=True)])
        out[name] = [round(v, 2) for v in (float(values.mean()), *bootstrap(values))]
    return out


def right(said: Sequence[SpanAnswer], raw: Sequence[dict[str, Any]]) -> list[bool]:
    return [
        bool(a.spans) and f1(a.spans[0].text, [t["text"] for t in r["answers"]]) >= 0.5
        for a, r in zip(said, raw, strict=True)
    ]


def calibration_gap(confidence: Sequence[float], correct: Sequence[bool]) -> float:
    """Expected calibration error over 15 bins of equal width."""
    p, y = np.asarray(confidence), np.asarray(correct, dtype=float)
    bins = np.minimum((p * 15).astype(int), 14)
    gaps = [(bins == b).mean() * abs(p[bins == b].mean() - y[bins == b].mean()) for b in set(bins)]
    return float(sum(gaps))


def evaluate(checkpoint: Path, questions: int) -> dict[str, Any]:
    encoder = Encoder.load()
    reader = Reader.load(checkpoint, encoder).spans("qa")
    cached = CachedEncoder(encoder, "squad_dev")
    everything = list(rows("squad_v11/dev"))
    part = sorted(everything, key=lambda r: share(r["id"] + r["question"]))[:questions]
    contexts = list(dict.fromkeys(r["context"] for r in everything))
    number = {context: str(i) for i, context in enumerate(contexts)}
    documents = [Document(number[context], context) for context in contexts]
    result: dict[str, Any] = {"questions": len(part), "documents": len(documents)}
    with temporary() as folder:
        store, searcher = index_of(documents, Path(folder), cached)
        vectors = cached.encode([r["question"] for r in everything])
        vector = {r["id"]: v for r, v in zip(everything, vectors, strict=True)}

        def search(r: dict[str, Any], *, without: bool = False) -> list[Hit]:
            return searcher.search(
                r["question"],
                k=5,
                query_vector=vector[r["id"]],
                exclude_ids=[number[r["context"]]] if without else [],
            )

        ranks = [[hit.doc_id for hit in search(r)] for r in everything]
        own = [number[r["context"]] for r in everything]
        for k in (1, 5):
            hit = [o in found[:k] for o, found in zip(own, ranks, strict=True)]
            result[f"recall@{k}"] = round(100 * float(np.mean(hit)), 2)
        report("retrieval", result)
        given = answers(reader, [(r["question"], [PassageText(r["context"])]) for r in part])
        result["given"] = quality(given, part)
        report("given", result["given"])
        began = time.perf_counter()
        found = answers(reader, [(r["question"], passages(search(r))) for r in part])
        result["found"] = quality(found, part)
        result["seconds"] = round(time.perf_counter() - began, 1)
        report("found", result["found"])
        gone = answers(reader, [(r["question"], passages(search(r, without=True))) for r in part])
        store.close()
    closed = answers(reader, [(r["question"], []) for r in part])
    result["off"] = quality(closed, part)
    correct = right(found, part)
    result["unanswerable"] = {
        "auroc": round(
            auroc([a.support for a in (*found, *gone)], [True] * len(found) + [False] * len(gone)),
            4,
        ),
        "answerable_when_there": round(float(np.mean([a.answerable for a in found])), 4),
        "answerable_when_gone": round(float(np.mean([a.answerable for a in gone])), 4),
        "ece": round(calibration_gap([a.confidence for a in found], correct), 4),
    }
    return result


def report(name: str, figures: object) -> None:
    print(f"{name:12}", figures, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--questions", type=int, default=ALL)
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED)
    parser.add_argument("--train", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--none", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.train is None:
        print(json.dumps(evaluate(given.checkpoint, given.questions)))
        return
    config = SpanTrainConfig()
    if given.none:
        # Nothing is read beside a question's own paragraph: longer windows make the tokens equal.
        config = replace(config, retrieval=False, windows=(config.windows[0], (76, 140)))
    done = train_span(
        training_rows(),
        config,
        Encoder.load(),
        given.train,
        base=given.base,
        progress=lambda step, total, loss, left: (
            report(f"{step}/{total}", {"loss": loss, "left_s": left}) if step % 50 == 0 else None
        ),
    )
    print(json.dumps(done.to_json()))


if __name__ == "__main__":
    main()
