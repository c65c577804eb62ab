"""How long each reading task takes, through the engine that serves; one request at a time.

    python -m benchmarks.tasks [--threads 2] [--rounds 60] [--dtype auto|bf16|fp32]

The shipped checkpoint, retrieval left out (its hits are given). Question answering: 8 passages of
128 tokens, question and marks included. Named entities: a text of 32 tokens with its labelled
sentences. A review of 2,000 words, read as it is served (4 windows), with no hits.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from itertools import islice

import numpy as np
import torch

from app.inference.engine import Engine
from benchmarks.data import rows
from benchmarks.data.ner import Labelled
from benchmarks.ner_shipped import sample_rows
from benchmarks.tools.folders import SHIPPED
from model.config import pick_dtype
from model.encoder.encoder import Encoder
from model.ner.rows import TagRow
from model.qa.evidence import PassageText
from model.reader import Reader

PASSAGES, TOKENS = 8, 128


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds."""
    return {f"p{q}": round(1000 * float(np.percentile(seconds, q)), 2) for q in (50, 99)}


def question_answering(engine: Engine, cut: Encoder, rounds: int) -> dict[str, float]:
    texts = [row["context"] for row in rows("squad_v11/dev")]
    long = [t for t in dict.fromkeys(texts) if len(t) > 900][:PASSAGES]
    question = "When was the first one of them built, and by whom?"
    ((asked, _),) = cut.spans([question])
    room = TOKENS - len(asked) - 3
    passages = [
        PassageText(text[: spans[room - 1][1]], rank)
        for rank, (text, (_, spans)) in enumerate(zip(long, cut.spans(long), strict=True), 1)
    ]
    said = engine.answer(question, passages, "qa").result()
    taken = timed(lambda: engine.answer(question, passages, "qa").result(), rounds)
    return {"tokens": float(said.tokens), **taken}


def entities(engine: Engine, cut: Encoder, rounds: int) -> dict[str, float]:
    words = " ".join(row.text for row in sample_rows()[:5])
    (_, spans), *_ = cut.spans([words])
    text = words[: spans[29][1]]  # and two marks
    (row,) = Labelled.of(sample_rows()).retrieve([TagRow("asked", text, ())])

    def tag(reader: Reader) -> object:
        return reader.tagger("ner").answer([text], [row.hits])

    taken = timed(lambda: engine.call(tag).result(), rounds)
    return {"tokens": float(len(cut.tokenize([text])[0])), "hits": len(row.hits), **taken}


def review(engine: Engine, rounds: int) -> dict[str, float]:
    text = " ".join(
        " ".join(r["text"] for r in islice(rows("imdb/test_subset"), 20)).split()[:2000]
    )

    def read() -> float:
        state = engine.read(text, "sentiment").result().state
        engine.predict(state, [], "sentiment", index_labels=()).result()
        return float(state.tokens)

    return {"tokens": read(), **timed(read, rounds)}


def timed(work: Callable[[], object], rounds: int) -> dict[str, float]:
    """p50 and p99 of so many calls, in milliseconds, after five that do not count."""
    seconds = []
    for i in range(rounds + 5):
        began = time.perf_counter()
        work()
        if i >= 5:
            seconds.append(time.perf_counter() - began)
    return percentiles(seconds)


def measure(rounds: int, threads: int, dtype: str) -> dict[str, dict[str, float]]:
    """All figures, one engine."""
    torch.set_num_threads(1)  # of this thread: idle teams of other threads slow the engine's down
    encoder = Encoder.load(dtype=pick_dtype(dtype, "cpu"))
    cut = encoder.fork()

    def load() -> Reader:
        torch.set_num_threads(threads)
        return Reader.load(SHIPPED, encoder)

    engine = Engine(load, max_tokens=256, windows=4, batch_tokens=4096)
    engine.start().result()
    with engine.use():
        done = {
            "qa, 8 x 128": question_answering(engine, cut, rounds),
            "ner, 32": entities(engine, cut, rounds),
            "review, 2,000 words": review(engine, rounds),
        }
    engine.retire()
    engine.join(10)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--dtype", choices=("auto", "bf16", "fp32"), default="auto")
    given = parser.parse_args()
    print(json.dumps(measure(given.rounds, given.threads, given.dtype)))


if __name__ == "__main__":
    main()
