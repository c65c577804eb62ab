"""The data sets that the benchmarks and some tests read, from the folder FOOTNOTE_DATA."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.tools.folders import data_folder

WORDS_A_PASSAGE = 20


def rows(name: str) -> Iterator[dict[str, Any]]:
    """The rows of `<set>/<split>`; raises FileNotFoundError naming the folder that was tried."""
    for suffix, opener in ((".jsonl.gz", gzip.open), (".jsonl.xz", lzma.open)):
        path = data_folder() / f"{name}{suffix}"
        if path.exists():
            with opener(path, "rt", encoding="utf-8") as file:
                for line in file:
                    yield json.loads(line)
            return
    raise FileNotFoundError(f"{name} is not in {data_folder()} (FOOTNOTE_DATA names the folder)")


@dataclass(frozen=True, slots=True)
class Retrieval:
    """A retrieval set: (id, title, text) of documents, queries and judgements."""

    documents: list[tuple[str, str | None, str]]
    queries: dict[str, str]
    judged: dict[str, dict[str, float]]


def retrieval(name: str) -> Retrieval:
    """Cranfield, CACM or squad_sentences; only queries with something relevant are kept.

    A title that the text begins with is not given twice.
    """
    documents = []
    for row in rows(f"{name}/documents"):
        title, text = row.get("title") or None, row.get("text") or ""
        if title and text.startswith(title):
            title = None
        documents.append((row["id"], title if text else None, text or title or ""))
    judged: dict[str, dict[str, float]] = {}
    for row in rows(f"{name}/qrels"):
        if row["rel"] > 0:
            judged.setdefault(row["query"], {})[row["doc"]] = float(row["rel"])
    queries = {row["id"]: row["text"] for row in rows(f"{name}/queries")}
    return Retrieval(documents, {q: t for q, t in queries.items() if q in judged}, judged)


def short_passages(count: int) -> Iterator[str]:
    """Passages of 20 words of English novels and an encyclopaedia (1810), `count` at most."""
    left = count
    for name in ("novels_en/part1", "britannica_1810/articles", "novels_en/part2"):
        for row in rows(name):
            words = row["text"].split()
            for start in range(0, len(words) - WORDS_A_PASSAGE + 1, WORDS_A_PASSAGE):
                if left == 0:
                    return
                yield " ".join(words[start : start + WORDS_A_PASSAGE])
                left -= 1
