"""How a dialogue is answered, beside quoting the best hit: for `python -m benchmarks.dialogue`.

Turns of people who had an article (CMU DoG: the section in view) or facts (KdConv, travel) before
them. A real server answers the turns before each, from an index of all sections or of all places.
Knowledge F1 (Shuster et al. 2021): unigrams of the answer against what the person had before them.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from benchmarks.data import rows
from benchmarks.learning.server import post, server, store_documents
from index_data.text.analysis import terms
from index_data.text.passages import sentences

DRAWS = 2_000
FIRST = 2  # turns of a talk about a film before one is to be answered
_PUNCTUATION = re.compile(r"[^\w\s]")
_HAN = re.compile(r"[\u3400-\u9fff]")
_ARTICLES = frozenset({"a", "an", "the"})
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Case:
    """A turn to be answered. ``right``: documents of the place or film that is talked about."""

    key: str
    messages: list[dict[str, str]]
    answer: str
    knowledge: str
    right: frozenset[str]


def films(part: str) -> tuple[list[dict[str, Any]], list[Case]]:
    """Sections of the articles; the turns of those who had the article (`valid` or `test`)."""
    articles = {row["id"]: row["sections"] for row in rows("cmu_dog/documents")}
    documents = [
        {"id": f"{name}-{i}", "text": section}
        for name, sections in articles.items()
        for i, section in enumerate(sections)
    ]
    cases = []
    for row in rows(f"cmu_dog/{'valid' if part == 'dev' else part}"):
        turns = joined(row["turns"])
        sections = articles[row["doc"]]
        right = frozenset(f"{row['doc']}-{i}" for i in range(len(sections)))
        cases += [
            Case(
                f"{row['id']}/{i}",
                messages(turns[:i], turn["speaker"]),
                turn["text"],
                sections[turn["section"]],
                right,
            )
            for i, turn in enumerate(turns)
            if i >= FIRST and turn["speaker"] in row["who_saw_doc"]
        ]
    return documents, cases


def joined(turns: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What one person said in a row as one turn, with the section that was in view at its end."""
    found: list[dict[str, Any]] = []
    for turn in turns:
        text = turn["text"].strip()
        if found and found[-1]["speaker"] == turn["speaker"]:
            text = f"{found.pop()['text']} {text}".strip()
        if text:
            found.append({**turn, "text": text})
    return found


def travel(part: str) -> tuple[list[dict[str, Any]], list[Case]]:
    """Places with a line for each fact; the turns that tell facts."""
    places: dict[str, tuple[str, set[tuple[str, str]]]] = {}
    documents = []
    for row in rows("kdconv/knowledge_travel"):
        facts = dict.fromkeys((name, value) for name, value in row["facts"])
        places[row["title"]] = row["id"], set(facts)
        text = "\n".join(f"{name}：{value}" for name, value in facts)
        documents.append({"id": row["id"], "title": row["title"], "text": text})
    cases = []
    for row in rows(f"kdconv/{part}"):
        turns = [{"speaker": i % 2, "text": t["text"]} for i, t in enumerate(row["turns"])]
        for i, turn in enumerate(row["turns"]):
            told = [tuple(f) for f in turn.get("knowledge") or ()]
            known = [f for f in told if f[0] in places and f[1:] in places[f[0]][1]]
            if row["domain"] == "travel" and i and known:
                knowledge = " ".join(" ".join(f) for f in dict.fromkeys(known))
                right = frozenset(places[f[0]][0] for f in known)
                said = messages(turns[:i], i % 2)
                cases.append(Case(f"{row['id']}/{i}", said, turn["text"], knowledge, right))
    return documents, cases


def messages(turns: Sequence[dict[str, Any]], speaker: Any) -> list[dict[str, str]]:
    """Turns as a dialogue that is to be answered by one of its speakers."""
    roles = {True: "assistant", False: "user"}
    return [{"role": roles[t["speaker"] == speaker], "content": t["text"]} for t in turns]


def sample(cases: Sequence[Case], count: int) -> list[Case]:
    """So many of them, by a hash of their ids."""
    return sorted(cases, key=lambda case: hashlib.sha256(case.key.encode()).digest())[:count]


def unigrams(text: str) -> Counter[str]:
    """Words in lower case without punctuation and articles; each Han character is one."""
    words = _HAN.sub(r" \g<0> ", _PUNCTUATION.sub(" ", text.lower())).split()
    return Counter(word for word in words if word not in _ARTICLES)


def f1(said: str, wanted: str) -> float:
    """Unigram F1 of a text."""
    mine, theirs = unigrams(said), unigrams(wanted)
    shared = (mine & theirs).total()
    return 2 * shared / (mine.total() + theirs.total()) if shared else 0.0


def served(client: httpx.Client, cases: Sequence[Case], **more: Any) -> list[dict[str, Any]]:
    """The next turns as the server gives them, 16 dialogues a request."""
    found: list[dict[str, Any]] = []
    for start in range(0, len(cases), 16):
        given = [{"messages": case.messages} for case in cases[start : start + 16]]
        found += post(client, "/predict", {"task": "dialogue", "input": given, **more})["data"]
    return found


def quoted(client: httpx.Client, case: Case) -> tuple[str, str, bool]:
    """The baseline: first and best sentence of the best hit for the last turn; whether it fits.

    The best sentence has most content words of the turn.
    """
    query = case.messages[-1]["content"]
    hits = post(client, "/search", {"query": query, "k": 1})["hits"]
    if not hits:
        return "", "", False
    text, asked = hits[0]["text"], set(terms(query))
    parts = [text[start:end] for start, end in sentences(text)]
    best = max(parts, key=lambda part: len(asked & set(terms(part))))
    return parts[0], best, hits[0]["doc_id"] in case.right


def compare(documents: list[dict[str, Any]], cases: Sequence[Case]) -> dict[str, Any]:
    """All figures of one set."""
    texts = {document["id"]: document["text"] for document in documents}
    with server() as client:
        store_documents(client, documents)
        print(f"{len(documents)} documents", flush=True)
        answers = served(client, cases)
        print(f"{len(cases)} turns answered", flush=True)
        closed = served(client, cases[:32], retrieval={"mode": "off"})
        quotes = [quoted(client, case) for case in cases]
    said, holds, fits = [], [], []
    for case, answer in zip(cases, answers, strict=True):
        content = answer["output"]["message"]["content"]
        parts = answer["output"]["sentences"]
        cited = {c["rank"]: c["doc_id"] for c in answer["citations"]}
        said.append(" ".join(content[p["start"] : p["end"]] for p in parts))
        for part in parts:
            for rank in part["citations"]:
                holds.append(content[part["start"] : part["end"]] in texts[cited[rank]])
                fits.append(cited[rank] in case.right)
    ways = {"served": said, "first": [q[0] for q in quotes], "best": [q[1] for q in quotes]}
    knowledge = {w: np.array([f1(t, c.knowledge) for t, c in zip(texts_, cases, strict=True)])
                 for w, texts_ in ways.items()}  # fmt: skip
    human = {w: np.array([f1(t, c.answer) for t, c in zip(texts_, cases, strict=True)])
             for w, texts_ in ways.items()}  # fmt: skip
    return {
        "documents": len(documents),
        "turns": len(cases),
        "abstained": share([answer["abstained"] for answer in answers]),
        "off_abstained": share([answer["abstained"] for answer in closed]),
        "knowledge_f1": {way: round(float(v.mean()), 4) for way, v in knowledge.items()},
        "served_minus": {
            way: interval(knowledge["served"] - knowledge[way]) for way in ("first", "best")
        },
        "f1_with_human": {way: round(float(v.mean()), 4) for way, v in human.items()},
        "words": {
            way: round(float(np.mean([unigrams(t).total() for t in texts_])), 1)
            for way, texts_ in ways.items()
        },
        "citations": len(fits),
        "citation_holds_sentence": share(holds),
        "citation_of_what_is_talked_about": share(fits),
        "baseline_of_what_is_talked_about": share([q[2] for q in quotes]),
    }


def share(found: Sequence[bool]) -> float:
    """How many are true."""
    return round(float(np.mean(found)), 4) if len(found) else 0.0


def interval(differences: Floats) -> list[float]:
    """The mean with its 95 % interval: turns drawn with replacement, in pairs."""
    rng = np.random.default_rng(0)
    draws = rng.integers(len(differences), size=(DRAWS, len(differences)))
    low, high = np.quantile(differences[draws].mean(1), [0.025, 0.975])
    return [round(float(x), 4) for x in (differences.mean(), low, high)]
