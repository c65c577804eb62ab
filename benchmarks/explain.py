"""What each explanation costs, over HTTP: ``python -m benchmarks.explain [--texts 200]``.

A real server with the sample and the shipped checkpoint, one client. Each text (a ticket, itself
left out of the hits) is asked plainly and with every explanation, in turn, so that a busy moment
meets all alike; a cost is the median of the differences. Then corrections are previewed, with and
without the look at the recent predictions that they change. Last line: JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.serving.server import Server
from index_data.sample import helpdesk

KINDS: dict[str, list[str]] = {
    "plain": ["citations"],
    "influence": ["citations", "influence"],
    "ablation": ["citations", "ablation"],
}
FIELDS = {"label": 10, "sentiment": 10}
CORRECTED = 20  # corrections of which it is timed what they would change
WORDS = 20  # of each text: about 32 tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=200)
    args = parser.parse_args()
    documents = list(helpdesk())
    lines = b"\n".join(json.dumps(d.to_json()).encode() for d in documents)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "empty").mkdir()
        server = Server(folder / "empty", folder)
        server.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=300) as client:
                kind = {"Content-Type": "application/x-ndjson"}
                client.post("/documents", content=lines, headers=kind).raise_for_status()
                found = {
                    field: measured(client, documents, field, k, args.texts)
                    for field, k in FIELDS.items()
                }
                found["impact"] = impacts(client, documents)
        finally:
            server.stop()
    print(json.dumps(found))


def measured(
    client: httpx.Client, documents: list[Any], field: str, k: int, texts: int
) -> dict[str, Any]:
    """Medians over the texts, in ms."""
    tickets = [d for d in documents if isinstance(d.labels.get(field), str)]
    step = max(1, len(tickets) // texts)
    took: dict[str, list[float]] = {kind: [] for kind in [*KINDS, "replay"]}
    again = equal = flips = sets = 0
    tokens: list[int] = []
    for document in tickets[::step][:texts]:
        body = {
            "input": " ".join(document.text.split()[:WORDS]),
            "field": field,
            "retrieval": {"k": k, "exclude_ids": [document.id]},
        }
        for kind, explain in KINDS.items():
            answer, ms = timed(client, "/classify", {**body, "explain": explain})
            took[kind].append(ms)
            if kind == "influence":
                item = answer["data"][0]
                flips += any(c["influence"]["flips"] for c in item["citations"])
                sets += item["flip_set"] is not None
            if kind == "plain":
                name = answer["id"]
                tokens.append(answer["usage"]["prompt_tokens"])
        answer, ms = timed(client, f"/predictions/{name}/replay", None)
        took["replay"].append(ms)
        again += 1
        equal += answer["replay"]["equal"]
    plain = np.array(took["plain"])
    cost = {
        kind: {
            "p50_ms": round(float(np.median(np.array(ms) - plain)), 2),
            "p90_ms": round(float(np.percentile(np.array(ms) - plain, 90)), 2),
        }
        for kind, ms in took.items()
        if kind != "plain"
    }
    return {
        "texts": again,
        "k": k,
        "tokens_p50": float(np.median(tokens)),
        "plain_p50_ms": round(float(np.median(plain)), 2),
        "cost": cost,
        "flipped_by_one": flips,
        "flip_sets": sets,
        "replays_equal": equal,
    }


def impacts(client: httpx.Client, documents: list[Any]) -> dict[str, Any]:
    """Previews of corrections, in ms: plain, and with the look at recent predictions.

    These are the questions of :func:`measured`, which the server still holds. Nothing is written.
    """
    tickets = [d for d in documents if isinstance(d.labels.get("label"), str)]
    labels = sorted({d.labels["label"] for d in tickets})
    took: dict[bool, list[float]] = {False: [], True: []}
    checked, changed = [], 0
    of = 0
    for number, document in enumerate(tickets[:: max(1, len(tickets) // CORRECTED)][:CORRECTED]):
        body = {
            "input": " ".join(document.text.split()[:WORDS]),
            "label": labels[number % len(labels)],
            "apply": "index",
            "preview": True,
        }
        for impact in (False, True):
            answer, ms = timed(client, "/feedback", {**body, "impact": impact})
            took[impact].append(ms)
            if impact:
                checked.append(answer["impact"]["checked"])
                of = answer["impact"]["of"]
                changed += len(answer["impact"]["changed"])
    plain, whole = np.array(took[False]), np.array(took[True])
    return {
        "corrections": len(plain),
        "preview_p50_ms": round(float(np.median(plain)), 2),
        "blast_p50_ms": round(float(np.median(whole - plain)), 2),
        "blast_p90_ms": round(float(np.percentile(whole - plain, 90)), 2),
        "checked_p50": float(np.median(checked)),
        "of": of,
        "changed_each": round(changed / len(plain), 2),
    }


def timed(client: httpx.Client, path: str, body: Any) -> tuple[dict[str, Any], float]:
    """An answer, and how long it took in ms."""
    began = time.perf_counter()
    response = client.post(path, json=body)
    ms = 1000 * (time.perf_counter() - began)
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer, ms


if __name__ == "__main__":
    main()
