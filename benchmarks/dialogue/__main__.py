"""Dialogue without a generator: what the turns before are worth, and when nothing is to be said.

    python -m benchmarks.dialogue history      # KdConv (travel, dev) and CMU DoG (valid), BM25
    python -m benchmarks.dialogue relevance    # SQuAD's answer sentences, TREC-6, Banking77
    python -m benchmarks.dialogue answers [--part test] [--turns 600] [--plot FILE]  # the same two

history: for every turn that brings a new fact, is it among the 8 that its past retrieves; for every
third turn of a talk about a film, is the best passage of that film. relevance: the cosine of a
question to the best of 8 sentences, of questions whose sentence is there (1,600 sentences, 160
questions) against questions about other things (80 of each): AUROC, and what a threshold lets
through, with and without asking for a shared content word. answers: `benchmarks.dialogue.answers`.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.predict.extraction import RELEVANT, relevance
from app.predict.messages import BEFORE, LAST, TURNS
from app.predict.passages import Query
from benchmarks.data import rows
from benchmarks.dialogue import answers as dialogue_answers
from index_data.documents import Document
from index_data.search.searcher import Searcher
from index_data.segment.segment import segment_of
from index_data.segment.view import compiled, whole
from index_data.text.analysis import terms
from index_data.text.passages import passages
from model.encoder.encoder import Encoder
from model.metrics import auroc

WEIGHTS = {
    "the last turn alone": [1],
    "5 turns alike": [1] * 5,
    "10 turns alike": [1] * 10,
    "2, then 9 x 1": [2, *[1] * 9],
    "3, then 9 x 1": [3, *[1] * 9],
    "4, then 9 x 1": [4, *[1] * 9],
    "4, 2, 2, then 7 x 1": [4, 2, 2, *[1] * 7],
    "2, then 19 x 1": [2, *[1] * 19],
    "as served": [LAST, *[BEFORE] * (TURNS - 1)],
}
FILM_TURNS = 1_200
SENTENCES, QUESTIONS, STRANGERS = 1_600, 160, 80


def searcher(documents: Sequence[Document], words: float) -> Searcher:
    segment = segment_of(documents, passage_words=0, average_length=words)
    return Searcher([whole(segment, compiled(segment, words))], generation=0, sequence=0)


def asked(turns: Sequence[str], weights: Sequence[int]) -> str:
    """The query of a dialogue, as `app.predict.passages.Query` makes it."""
    return Query(tuple(zip(turns[::-1], weights, strict=False))).text


def travel() -> tuple[Searcher, list[tuple[list[str], set[str]]]]:
    """Facts as documents; for each turn with new ones its past and their ids."""
    places: dict[tuple[str, ...], str] = {}
    documents: list[Document] = []
    for row in rows("kdconv/knowledge_travel"):
        for name, value in row["facts"]:
            key = (row["title"], name, value)
            if key not in places:
                places[key] = str(len(documents))
                documents.append(Document(places[key], f"{name}：{value}", row["title"]))
    cases = []
    for row in rows("kdconv/dev"):
        if row["domain"] != "travel":
            continue
        known: set[str] = set()
        for i, turn in enumerate(row["turns"]):
            told = {places[tuple(f)] for f in turn.get("knowledge") or () if tuple(f) in places}
            if i and told - known:
                cases.append(([t["text"] for t in row["turns"][:i]], told - known))
            known |= told
    return searcher(documents, 30.0), cases


def films() -> tuple[Searcher, list[tuple[list[str], str]]]:
    """Passages of the articles; for every third turn its past and its article."""
    documents = [
        Document(f"{row['id']}/{i}/{n}", section[start:end], row["title"])
        for row in rows("cmu_dog/documents")
        for i, section in enumerate(row["sections"])
        for n, (start, end) in enumerate(passages(section, words=60))
    ]
    cases = []
    for row in rows("cmu_dog/valid"):
        texts = [turn["text"] for turn in row["turns"]]
        cases += [(texts[:i], f"{row['doc']}/") for i in range(3, len(texts), 3)]
    random.Random(1).shuffle(cases)
    return searcher(documents, 40.0), cases[:FILM_TURNS]


def history() -> dict[str, Any]:
    facts, turns = travel()
    articles, talks = films()
    found: dict[str, Any] = {"travel_turns": len(turns), "film_turns": len(talks)}
    for name, weights in WEIGHTS.items():
        told = sum(
            any(h.doc_id in ids for h in facts.search(asked(past, weights), k=8, method="bm25"))
            for past, ids in turns
        )
        right = sum(
            any(
                h.doc_id.startswith(article)
                for h in articles.search(asked(past, weights), k=1, method="bm25")
            )
            for past, article in talks
        )
        found[name] = {
            "travel_recall_at_8": round(told / len(turns), 3),
            "film_at_1": round(right / len(talks), 3),
        }
    return found


def relevances() -> dict[str, Any]:
    rng = random.Random(0)
    gold: dict[str, set[str]] = {}
    for row in rows("squad_sentences/qrels"):
        gold.setdefault(row["query"], set()).add(row["doc"])
    documents = list(rows("squad_sentences/documents"))
    rng.shuffle(documents)
    documents = documents[:SENTENCES]
    there = {d["id"] for d in documents}
    known = [q["text"] for q in rows("squad_sentences/queries") if gold.get(q["id"], set()) & there]
    sets = {
        "squad": rng.sample(known, QUESTIONS),
        "trec6": rng.sample([r["text"] for r in rows("trec6/test")], STRANGERS),
        "banking77": rng.sample([r["text"] for r in rows("banking77/test")], STRANGERS),
    }
    encoder = Encoder.load(None)
    vectors = encoder.encode([d["text"] for d in documents])
    plain: dict[str, NDArray[np.float64]] = {}
    worded: dict[str, NDArray[np.float64]] = {}
    for name, texts in sets.items():
        cosines, shared = [], []
        for text, vector in zip(texts, encoder.encode(texts), strict=True):
            near = vectors @ vector
            top = np.argsort(-near)[:8]
            words = frozenset(terms(text))
            cosines.append(float(near[top[0]]))
            shared.append(
                max(relevance(words, vector, documents[i]["text"], vectors[i], None) for i in top)
            )
        plain[name], worded[name] = np.array(cosines), np.array(shared)
    return {
        "threshold": RELEVANT,
        **{
            way: {
                "answered": {n: round(float((v >= RELEVANT).mean()), 3) for n, v in found.items()},
                "auroc": {
                    n: round(auroc(found["squad"], found[n]), 3) for n in ("trec6", "banking77")
                },
            }
            for way, found in (("cosine", plain), ("cosine and a shared word", worded))
        },
    }


def answers(part: str, turns: int) -> dict[str, Any]:
    found: dict[str, Any] = {"part": part}
    for name, read in (("cmu_dog", dialogue_answers.films), ("kdconv", dialogue_answers.travel)):
        documents, cases = read(part)
        chosen = dialogue_answers.sample(cases, turns)
        found[name] = dialogue_answers.compare(documents, chosen)
    return found


def plot(figures: dict[str, Any], path: Path) -> None:
    """Of `answers`: knowledge F1 against each baseline, with its interval."""
    from benchmarks.tools.plots import Row, forest, save  # matplotlib: for plots alone

    drawn: list[Row] = []
    for name, title in (("cmu_dog", "CMU DoG"), ("kdconv", "KdConv, travel")):
        for way, against in figures[name]["served_minus"].items():
            value, low, high = (100 * x for x in against)
            drawn.append(
                (f"{title}: as served - the {way} sentence of the best hit", value, low, high)
            )
    turns = figures["cmu_dog"]["turns"]
    figure = forest(
        f"Dialogue without a generator: knowledge F1 ({figures['part']}, {turns} turns of each)",
        drawn,
        "points, 95 % interval over turns; above 0: better",
        higher_is_better=True,
    )
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Dialogue without a generator.")
    parser.add_argument("what", choices=("history", "relevance", "answers"))
    parser.add_argument("--part", choices=("dev", "test"), default="dev", help="Of answers.")
    parser.add_argument("--turns", type=int, default=600, help="Of answers, of each set.")
    parser.add_argument("--plot", type=Path, help="Of answers: an SVG file to write.")
    given = parser.parse_args()
    if given.what == "answers":
        figures = answers(given.part, given.turns)
        if given.plot is not None:
            plot(figures, given.plot)
    else:
        figures = history() if given.what == "history" else relevances()
    print(json.dumps(figures, ensure_ascii=False))


if __name__ == "__main__":
    main()
