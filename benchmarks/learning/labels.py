"""Labels over HTTP for ``benchmarks.learning``: new ones without training, wrong ones found."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.audit import CLEANLAB, flipped, run
from benchmarks.classification import draw_rows
from benchmarks.data.classification import Example, load, read
from benchmarks.learning.server import ask, job, right, server, store
from model.encoder.encoder import Encoder
from model.metrics import auroc

NEW = 20
SHOWN = (1, 3, 10)
LISTED = 5_000
Figures = dict[str, Any]


def intents(seed: int, limit: int | None) -> Figures:
    """20 of Banking77's intents held out of training, then posted with a few examples each."""
    train, test = read("banking77", "train"), read("banking77", "test")[:limit]
    names = sorted({row.label for row in train})
    fresh = set(random.Random(seed).sample(names, NEW))
    inside = [row for row in test if row.label not in fresh]
    outside = [row for row in test if row.label in fresh]
    out: Figures = {}
    with server() as client:
        store(client, [row for row in train if row.label not in fresh])
        job(client, "/admin/reindex", {})
        job(client, "/admin/train", {"field": "label", "activate": "always"})

        def share(rows: Sequence[Example]) -> float:
            return round(100 * float(np.mean(right(client, rows))), 2)

        out["others before"] = share(inside)
        sides = [ask(client, [row.text for row in rows]) for rows in (inside, outside)]
        for name in ("support", "confidence"):
            out[f"auroc_{name}"] = round(auroc(*([a[name] for a in side] for side in sides)), 4)
        posted: set[str] = set()
        for each in SHOWN:
            drawn = [train[i] for i in draw_rows(train, each, seed) if train[i].label in fresh]
            for gone in posted - {row.id for row in drawn}:
                client.delete(f"/documents/{gone}").raise_for_status()
            posted = {row.id for row in drawn}
            store(client, drawn)
            out[f"{each} examples"] = {"new": share(outside), "others": share(inside)}
    return out


def audit(seed: int, limit: int | None) -> Figures:
    """5 % of the labels replaced: how many the job lists, and how many of those it lists are.

    It lists what it holds wrong, so the ranking of all rows is `benchmarks.audit`'s to measure, by
    the same code on the same rows.
    """
    split, _ = load("banking77", Encoder.load())
    if limit is not None:
        split = split.take(range(limit))
    names, truth, wrong, labels = flipped(split, "uniform", seed)
    rows = [
        Example(row.id, row.text, names[label])
        for row, label in zip(split.rows, labels, strict=True)
    ]
    place = {row.id: i for i, row in enumerate(rows)}
    with server() as client:
        store(client, rows)
        done = job(client, "/admin/audit-labels", {"limit": LISTED, "seed": seed})
        found: list[Figures] = []
        more: int | None = 0
        while more is not None:
            page = client.get(f"/admin/audit-labels/{done['id']}", params={"offset": more})
            page.raise_for_status()
            found += page.json()["findings"]
            more = page.json()["next_offset"]
    listed = [place[one["doc_id"]] for one in found]
    ranked = run(split, "uniform", seed)
    best = max(ranked[f"cleanlab {method}"]["auroc"] for method in CLEANLAB)
    return {
        "replaced": int(wrong.sum()),
        "listed": len(listed),
        "of the replaced listed": round(float(wrong[listed].sum() / wrong.sum()), 4),
        "of the first as many replaced": round(float(wrong[listed[: int(wrong.sum())]].mean()), 4),
        "suggestion right": round(
            float(
                np.mean(
                    [
                        one["suggested"] == names[truth[i]]
                        for one, i in zip(found, listed, strict=True)
                        if wrong[i]
                    ]
                )
            ),
            4,
        ),
        "auroc of all rows": ranked["footnote"]["auroc"],
        "the same, cleanlab": best,
    }
