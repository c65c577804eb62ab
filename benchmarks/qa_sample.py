"""Questions over the sample: ``python -m benchmarks.qa_sample [--articles] [--show]``.

60 questions that an article of the help desk answers and 20 that none does
(`sample_questions.jsonl`, written from the articles before any was asked), each asked of a real
server over HTTP, by its defaults. Right: it holds an accepted answer, or is most of one.
Every other question is of the part that may be looked at while working on it (`dev`); the others
are counted only (`test`). The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.learning_server import post
from benchmarks.serving import running
from model.metrics import auroc
from model.qa.metrics import answer_words

QUESTIONS = Path(__file__).with_name("sample_questions.jsonl")


def asked(client: httpx.Client, question: str, retrieval: dict[str, Any]) -> dict[str, Any]:
    """The answer to one question."""
    given = {"question": question}
    body = {"task": "qa", "input": given, "params": {"top_n": 1}, "retrieval": retrieval}
    found: dict[str, Any] = post(client, "/predict", body)["data"][0]
    return found


def best(said: dict[str, Any]) -> dict[str, Any]:
    """The likeliest span, whether it was claimed or not."""
    output = said["output"]
    if output["answerable"]:
        return dict(output)
    return dict(next(iter(output["alternatives"]), {"answer": "", "doc_id": None}))


def is_right(said: str, truths: Sequence[str]) -> bool:
    """Whether an answer holds one of the accepted ones, or stands in it with half of its words.

    F1 is no measure of answers this short: "24 months" has half of "12 months".
    """
    words = answer_words(said)
    for truth in map(answer_words, truths):
        if holds(words, truth) or (2 * len(words) >= len(truth) and holds(truth, words)):
            return True
    return False


def holds(words: Sequence[str], run: Sequence[str]) -> bool:
    """Whether words stand in others, in order and next to each other."""
    last = len(words) - len(run)
    return bool(run) and any(words[i : i + len(run)] == run for i in range(last + 1))


def figures(rows: Sequence[dict[str, Any]], said: Sequence[dict[str, Any]]) -> dict[str, object]:
    """Percent, over the questions that have an answer and those that have none."""
    there = [bool(row["answers"]) for row in rows]
    spans = [best(one) for one in said]
    claimed = np.array([one["output"]["answerable"] for one in said])
    right = np.array(
        [is_right(span["answer"], row["answers"]) for row, span in zip(rows, spans, strict=True)]
    )
    cited = [s["doc_id"] in r["documents"] for r, s in zip(rows, spans, strict=True)]
    flags = np.array(there)
    support = np.array([one["support"] for one in said])
    return {
        "questions": [int(flags.sum()), int((~flags).sum())],
        "the likeliest span is right": round(100 * float(right[flags].mean()), 1),
        "in an article that answers": round(100 * float(np.array(cited)[flags].mean()), 1),
        "answered, and right": round(100 * float((right & claimed)[flags].mean()), 1),
        "answered, and wrong": round(100 * float((~right & claimed)[flags].mean()), 1),
        "refused where none answers": round(100 * float((~claimed)[~flags].mean()), 1),
        "AUROC of support": round(auroc(support[flags].tolist(), support[~flags].tolist()), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--show", action="store_true", help="the answers of the part `dev`")
    parser.add_argument("--articles", action="store_true", help="tickets are not asked")
    given = parser.parse_args()
    retrieval = {"filter": {"metadata.kind": "article"}} if given.articles else {}
    rows = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    with (
        running(None) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as client,
    ):
        said = [asked(client, row["question"], retrieval) for row in rows]
    parts = {name: slice(first, None, 2) for first, name in enumerate(("dev", "test"))}
    if given.show:
        for row, one in list(zip(rows, said, strict=True))[parts["dev"]]:
            span = best(one)
            mark = f"{'+' if one['output']['answerable'] else '-'} {one['support']:.2f}"
            said_of = (row["question"], span["answer"], span["doc_id"], row["answers"][:1])
            print(mark, *said_of, sep=" | ")
    print(json.dumps({name: figures(rows[part], said[part]) for name, part in parts.items()}))


if __name__ == "__main__":
    main()
