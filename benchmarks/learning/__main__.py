"""Learning from corrections, over HTTP: ``python -m benchmarks.learning [--only PART...]``.

Real servers on Banking77. A head is trained over HTTP on 10 texts of each label; the test part then
comes in as a stream and is corrected as it errs. What that is worth is measured on 3,000 texts of
train that nothing has seen, beside a head that is trained anew on the same labels, and on all of
the stream. Of the corrections each way is kept in ``benchmarks/runs`` when it is measured, and is
not run again while it stands there. The gate is shown on TREC-6. New intents and the label audit:
`benchmarks.learning.labels`. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.classification import draw_rows
from benchmarks.data.classification import Example, read
from benchmarks.learning import labels as learning_labels
from benchmarks.learning.server import ask, job, parts, post, prepare, right, server, store
from benchmarks.tools.folders import RUNS
from benchmarks.tools.statistics import paired_interval
from model.metrics import auroc, calibration_error

BLOCKS = 5
CLIENTS = 3  # that ask while heads are trained
HOLDOUT = 0.3  # of the texts the gate judges on: a tenth of them would decide little
FIRST, GROWN = 30, 1_000  # questions of each label that the first head has, and of all in the end
Figures = dict[str, Any]
Teach = Callable[[int, Example], str | None]
"""The label that a person gives for the n-th error, or None."""


def stream(client: httpx.Client, rows: Sequence[Example], teach: Teach) -> Figures:
    """Ask one by one, correct as told, and look whether a corrected text is right at once."""
    good: list[bool] = []
    given: list[tuple[Example, str]] = []
    at_once = true_given = 0
    for row in rows:
        answer = post(client, "/classify", {"input": row.text})
        good.append(answer["data"][0]["label"] == row.label)
        label = None if good[-1] else teach(len(good) - sum(good), row)
        if label is None:
            continue
        feedback_item = {"prediction_id": answer["id"], "correct": False, "label": label}
        post(client, "/feedback", {**feedback_item, "apply": "index"})
        given.append((row, label))
        again = post(client, "/classify", {"input": row.text})["data"][0]["label"]
        at_once += again == label
        true_given += 1
    size = len(good) // BLOCKS
    return {
        "accuracy_by_block": [
            round(float(np.mean(good[i * size : (i + 1) * size])), 4) for i in range(BLOCKS)
        ],
        "corrections": len(given),
        "right_at_once": round(at_once / max(true_given, 1), 4),
        "given": given,
    }


def corrections(seed: int, limit: int | None) -> Figures:
    first, rows, held = parts(seed)
    rows, held = rows[:limit], held[:limit]
    template = prepare(RUNS / f"learning-{seed}", first)
    wrong = random.Random(seed)
    labels = sorted({row.label for row in first})

    def mistaken(number: int, row: Example) -> str:
        return wrong.choice(labels) if number % 10 == 0 else row.label

    ways: dict[str, Teach] = {
        "none": lambda number, row: None,
        "every error": lambda number, row: row.label,
        "one error in five": lambda number, row: row.label if number % 5 == 0 else None,
        "one correction in ten wrong": mistaken,
    }
    done = Done(RUNS / f"learning-corrections-{seed}-{limit or 'all'}.jsonl")
    for name, teach in ways.items():
        if name in done.rows:
            continue
        with server(template) as client:
            told = stream(client, rows, teach)
            given = [[row.text, label] for row, label in told.pop("given")]
            done.add({"name": name, **told, "given": given, "right": right(client, held)})
    every = done.rows["every error"]
    taught = [Example(f"c{i}", text, label) for i, (text, label) in enumerate(every["given"])]
    out: Figures = {}
    for name, seen in (("corrections", taught), ("all of the stream", rows)):
        key = f"trained anew on {name}"
        if key not in done.rows:
            with server() as client:
                store(client, [*first, *seen])
                job(client, "/admin/train", {"field": "label", "activate": "always"})
                done.add({"name": key, "right": right(client, held)})
        mean, low, high = paired_interval(
            np.array(every["right"], float), np.array(done.rows[key]["right"], float)
        )
        out[f"every error - {key}"] = {"mean": mean, "low": low, "high": high}
    return {name: told_of(row) for name, row in done.rows.items()} | out


def told_of(row: Figures) -> Figures:
    """What is printed of a way: its figures, without texts and single rows."""
    kept = {name: value for name, value in row.items() if name not in ("name", "given", "right")}
    return kept | {"held": round(float(np.mean(row["right"])), 4)}


class Done:
    """The ways that were measured, one a line: what stands there is not run again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows: dict[str, Figures] = {row["name"]: row for row in map(json.loads, lines)}

    def add(self, row: Figures) -> None:
        """Keep one, and print its figures."""
        self.rows[row["name"]] = row
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps({row["name"]: told_of(row)}), flush=True)


def influence(seed: int, limit: int | None) -> Figures:
    """What is said of each citation, against asking again without it (no refill: k - 1)."""
    first, rows, _ = parts(seed)
    template = prepare(RUNS / f"learning-{seed}", first)
    rows = rows[: limit or 1_000]
    with server(template, dtype="fp32") as client:  # in bf16 a batch of another size differs more
        retrieval = {"method": "bm25", "k": 10}
        worst, compared, flips = 0.0, 0, 0
        cost: dict[bool, list[float]] = {False: [], True: []}
        for row in rows:
            for explained in (False, True):
                body: Figures = {"input": row.text, "retrieval": retrieval}
                body["explain"] = ["citations", "influence"] if explained else ["citations"]
                began = time.perf_counter()
                answer = post(client, "/classify", body)["data"][0]
                cost[explained].append(1000 * (time.perf_counter() - began))
            before = {s["label"]: s["score"] for s in answer["scores"]}
            cited = answer["citations"]
            for citation in cited:
                less = {"method": "bm25", "k": max(len(cited) - 1, 1)}
                less["exclude_ids"] = [citation["doc_id"]]
                if len(cited) == 1:
                    less = {"mode": "off"}
                again = post(client, "/classify", {"input": row.text, "retrieval": less})
                without = again["data"][0]
                after = {s["label"]: s["score"] for s in without["scores"]}
                label = answer["label"]
                delta = before[label] - after.get(label, 0.0)
                worst = max(worst, abs(delta - citation["influence"]["delta"]))
                flips += (without["label"] != label) != citation["influence"]["flips"]
                compared += 1
    plain, with_it = (float(np.percentile(cost[e], 50)) for e in (False, True))
    return {
        "requests": len(rows),
        "compared": compared,
        "largest_difference": worst,
        "flips_that_differ": flips,
        "p50_ms": round(plain, 2),
        "p50_ms_with_influence": round(with_it, 2),
        "cost_ms": round(with_it - plain, 2),
    }


def abstention(seed: int, limit: int | None) -> Figures:
    """Confidence on the stream, and sentences from outside told from it."""
    first, rows, _ = parts(seed)
    template = prepare(RUNS / f"learning-{seed}", first)
    foreign = [row.text for row in read("sst2", "test")][:limit]
    rows = rows[:limit]
    with server(template) as client:
        own = ask(client, [row.text for row in rows])
        other = ask(client, foreign)
    good = [a["label"] == row.label for a, row in zip(own, rows, strict=True)]
    confidence = np.array([a["confidence"] for a in own])
    order = np.argsort(-confidence)
    return {
        "ece": calibration_error(list(confidence), good),
        "auroc_foreign_support": auroc(*([a["support"] for a in s] for s in (own, other))),
        "auroc_foreign_product": auroc(
            *([a["support"] * a["confidence"] for a in s] for s in (own, other))
        ),
        "accuracy_at_coverage": {
            str(share): round(float(np.mean(np.array(good)[order[: int(share * len(good))]])), 4)
            for share in (1.0, 0.9, 0.8, 0.7, 0.5)
        },
    }


def gate(seed: int, limit: int | None) -> Figures:
    """A worse candidate and a better one, under load: who serves, and did a request fail?

    On TREC-6, where new texts as neighbours are worth little until a head has learned from them. A
    proper head serves. One that hardly learned from the same texts must be refused; one that
    learned from several times as many must be let in.
    """
    train = read("trec6", "train")
    rows = [train[i] for i in random.Random(seed).sample(range(len(train)), len(train))]
    few = set(draw_rows(rows, FIRST, seed))
    first = [rows[i] for i in sorted(few)]
    rest = [row for i, row in enumerate(rows) if i not in few]
    more, rows = rest[: GROWN - len(first)], rest[GROWN:]
    figures = ("against", "accuracy", "rival_accuracy", "rows", "better", "worse", "lower_90")
    jobs: list[tuple[str, Sequence[Example], Figures]] = [
        ("proper", first, {"activate": "always"}),
        ("worse", [], {"lr": 1e-6, "epochs": 1}),
        ("better", more, {}),
    ]
    out: Figures = {}
    with server() as client:
        with asking(str(client.base_url), [row.text for row in rows[:limit]]) as answers:
            for name, texts, order in jobs:
                if texts:
                    store(client, texts)
                began, before = time.perf_counter(), len(answers)
                body = {"field": "label", "holdout": HOLDOUT, **order}
                done = job(client, "/admin/train", body)
                out[name] = {
                    "activated": done["activated"],
                    "reason": done["reason"],
                    "gate": {key: done["gate"][key] for key in figures},
                    "documents": done["data"]["rows"],
                    "seconds": round(time.perf_counter() - began, 1),
                    "asked_meanwhile": len(answers) - before,
                    "serves": client.get("/admin/models").json()["active"] == done["version"],
                }
                print(json.dumps({name: out[name]}), flush=True)
            time.sleep(1)  # requests that the last head answers
        out["asked"] = len(answers)
        out["failed"] = sum(status != 200 for status, _ in answers)
        out["models_that_answered"] = len({model for _, model in answers})
    out["shown"] = (
        not out["worse"]["activated"] and out["better"]["activated"] and not out["failed"]
    )
    return out


@contextmanager
def asking(address: str, texts: Sequence[str]) -> Iterator[list[tuple[int, str | None]]]:
    """Clients that ask without a pause; the status and the model's version of each answer."""
    answers: list[tuple[int, str | None]] = []
    stop = threading.Event()

    def ask_on(number: int) -> None:
        turn = number
        with httpx.Client(base_url=address, timeout=60) as own:
            while not stop.is_set():
                body = {"input": texts[turn * 7 % len(texts)]}
                turn += CLIENTS
                try:
                    answer = own.post("/classify", json=body)
                except httpx.TransportError:  # a connection that broke is a request that failed
                    answers.append((0, None))
                    continue
                good = answer.status_code == 200
                model = answer.json()["model_info"]["version"] if good else None
                answers.append((answer.status_code, model))

    clients = [threading.Thread(target=ask_on, args=(i,)) for i in range(CLIENTS)]
    for thread in clients:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in clients:
            thread.join()


PARTS: dict[str, Callable[[int, int | None], Figures]] = {
    "corrections": corrections,
    "influence": influence,
    "abstention": abstention,
    "gate": gate,
    "intents": learning_labels.intents,
    "audit": learning_labels.audit,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="only so many texts of each part: a quick look")
    given = parser.parse_args()
    RUNS.mkdir(exist_ok=True)
    found = {name: PARTS[name](given.seed, given.limit) for name in given.only}
    print(json.dumps(found))
    if not found.get("gate", {}).get("shown", True):
        raise SystemExit("the gate did not do what it is there for")


if __name__ == "__main__":
    main()
