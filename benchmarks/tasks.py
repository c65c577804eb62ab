"""How long each reading task takes, through the engine that serves; one request at a time.

    python -m benchmarks.tasks [--threads 2] [--rounds 60]

Question answering: 8 passages of 128 tokens, question and marks included, retrieval left out.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from app.engine import Engine
from benchmarks.data import rows
from model.answers import PassageText
from model.encoder import Encoder
from model.reader import Reader

SHIPPED = Path(__file__).resolve().parent.parent / "model" / "shipped"
PASSAGES, TOKENS = 8, 128


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds."""
    return {f"p{q}": round(1000 * float(np.percentile(seconds, q)), 2) for q in (50, 99)}


def question_answering(rounds: int, threads: int) -> dict[str, float]:
    encoder = Encoder.load()
    cut = encoder.fork()

    def load() -> Reader:
        torch.set_num_threads(threads)
        return Reader.load(SHIPPED, encoder)

    engine = Engine(load, max_tokens=256, batch_tokens=4096)
    engine.start().result()
    texts = [row["context"] for row in rows("squad_v11/dev")]
    long = [t for t in dict.fromkeys(texts) if len(t) > 900][:PASSAGES]
    question = "When was the first one of them built, and by whom?"
    ((asked, _),) = cut.spans([question])
    room = TOKENS - len(asked) - 3
    passages = [
        PassageText(text[: spans[room - 1][1]], rank)
        for rank, (text, (_, spans)) in enumerate(zip(long, cut.spans(long), strict=True), 1)
    ]
    taken = []
    with engine.use():
        for i in range(rounds + 5):
            began = time.perf_counter()
            said = engine.answer(question, passages, "qa").result()
            if i >= 5:
                taken.append(time.perf_counter() - began)
    engine.retire()
    return {"tokens": float(said.tokens), **percentiles(taken)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=60)
    given = parser.parse_args()
    print(json.dumps({"qa, 8 x 128": question_answering(given.rounds, given.threads)}))


if __name__ == "__main__":
    main()
