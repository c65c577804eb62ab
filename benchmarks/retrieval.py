"""Retrieval: quality on judged sets, and speed on short passages, with the peers in the same run.

    python -m benchmarks.retrieval [--large] [--only quality|speed|weight|hybrid]

Quality: nDCG@10, recall@10 and MRR@10 of bm25, dense and hybrid on Cranfield, CACM and all queries
of squad_sentences, over a published generation. Weight: the hybrid's weight, chosen on training
pairs of squad_sentences, SQuAD and its Reddit part. Speed: text in, ten passages out, one thread.
`FOOTNOTE_DATA` names the folder of the sets. Vectors are kept in benchmarks/runs between runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.inference.loading import rest_from_collection
from app.jobs.inputs import INDEX
from benchmarks.data import Retrieval, retrieval, rows, short_passages
from benchmarks.peers.retrieval import (
    Search,
    bm25s_search,
    tantivy_search,
    temporary,
    whoosh_search,
)
from benchmarks.serving.server import ASKED, build
from benchmarks.tools.reciprocal import ReciprocalRanks
from benchmarks.tools.statistics import interval, ndcg, recall, reciprocal_rank
from benchmarks.tools.vector_cache import CachedEncoder
from index_data.documents import Document
from index_data.generations.build import build_generation
from index_data.generations.index import Index
from index_data.generations.warmup import warm_up
from index_data.search.fusion import Fusion
from index_data.search.searcher import METHODS, Searcher
from index_data.segment.postings import average_length
from index_data.storage.store import DocumentStore
from model.config import pick_dtype
from model.encoder.encoder import Encoder
from model.training.qa_calibration import sentence_at

K = 10
DRAWS = 2_000
SETS = ("cranfield", "cacm", "squad_sentences")
STOCK_WHOOSH_QUERIES = 1_500
TRAIN_PAIRS = 2_000
ROUND = 50
BATCH = 32
Ranked = dict[str, list[str]]


def index_of(
    documents: Sequence[Document],
    folder: Path,
    encoder: CachedEncoder | None,
    *,
    passage_words: int = 200,
) -> tuple[DocumentStore, Searcher]:
    """The documents in a store, built and published as the server does it."""
    store = DocumentStore(folder / "store")
    for start in range(0, len(documents), 2_000):
        store.upsert(documents[start : start + 2_000]).result()
    path = build_generation(
        store.folder,
        folder / "generations",
        encode=encoder.encode if encoder else None,
        encoder_sha=encoder.sha256 if encoder else None,
        passage_words=passage_words,
    )
    index = Index(store, folder / "generations", passage_words=passage_words)
    index.publish(path)
    return store, index.searcher


def scores(found: Ranked, judged: Mapping[str, Mapping[str, float]]) -> dict[str, np.ndarray]:
    """Each metric for each query, in the order of the queries."""
    metrics: dict[str, Callable[..., float]] = {
        "ndcg@10": ndcg,
        "recall@10": recall,
        "mrr@10": reciprocal_rank,
    }
    return {
        name: np.array([metric(ranked, judged[query], K) for query, ranked in found.items()])
        for name, metric in metrics.items()
    }


def ask(search: Search, queries: Mapping[str, str]) -> Ranked:
    return {name: search(text) for name, text in queries.items()}


def quality(name: str, encoder: Encoder) -> dict[str, Any]:
    """One set: every method and peer, and the paired differences that are of interest."""
    data = retrieval(name)
    cached = CachedEncoder(encoder, name)
    documents = [Document(i, text, title) for i, title, text in data.documents]
    systems: dict[str, Ranked] = {}
    with temporary() as folder:
        store, searcher = index_of(documents, Path(folder) / "passages", cached)
        vectors = dict(zip(data.queries, cached.encode(list(data.queries.values())), strict=True))
        for method in METHODS:
            systems[method] = {
                query: [
                    hit.doc_id
                    for hit in searcher.search(
                        text, k=K, method=method, query_vector=vectors[query]
                    )
                ]
                for query, text in data.queries.items()
            }
        store.close()
        store, searcher = index_of(documents, Path(folder) / "whole", None, passage_words=0)
        systems["bm25 whole"] = ask(
            lambda query: [hit.doc_id for hit in searcher.search(query, k=K)], data.queries
        )
        store.close()
        systems |= peers(data, Path(folder))
    by_query = {system: scores(found, data.judged) for system, found in systems.items()}
    result: dict[str, Any] = {"queries": len(data.queries), "documents": len(documents)}
    for system, metrics in by_query.items():
        result[system] = {
            metric: [round(float(values.mean()), 4), *rounded(interval(values, draws=DRAWS))]
            for metric, values in metrics.items()
        }
        print(f"{name:16} {system:12}", result[system], flush=True)
    gains = {system: metrics["ndcg@10"] for system, metrics in by_query.items()}
    for one, other in (("hybrid", "bm25"), ("hybrid", "dense"), ("bm25 whole", "bm25s")):
        values = gains[one] - gains[other]
        result[f"{one} - {other}"] = [
            round(float(values.mean()), 4),
            *rounded(interval(values, draws=DRAWS)),
        ]
    return result


def peers(data: Retrieval, folder: Path) -> dict[str, Ranked]:
    ids = [name for name, _, _ in data.documents]
    texts = [f"{title}\n{text}" if title else text for _, title, text in data.documents]
    (folder / "stock").mkdir()
    first = dict(list(data.queries.items())[:STOCK_WHOOSH_QUERIES])
    return {
        "bm25s": ask(bm25s_search(ids, texts), data.queries),
        "tantivy": ask(tantivy_search(ids, texts), data.queries),
        "stock whoosh": ask(whoosh_search(ids, texts, folder / "stock"), first),
    }


def rounded(interval: tuple[float, float]) -> list[float]:
    return [round(end, 4) for end in interval]


def weight(encoder: Encoder) -> dict[str, Any]:
    """The best dense share of hybrid search on training pairs: sentences, and whole paragraphs.

    The encoder's makers trained on SQuAD's questions, which flatters the dense part there, and not
    on those over Reddit's texts.
    """
    pairs = list(rows("squad_sentences/train_pairs"))[:TRAIN_PAIRS]
    found = {
        "SQuAD, sentences": by_weight(
            [(pair["query"], pair["answer_sentence"]) for pair in pairs], encoder, "train_pairs"
        )
    }
    for name, source in (("SQuAD", "squad_v11/train_subset"), ("Reddit", "squadshifts/reddit")):
        asked = list(rows(source))
        texts = by_hash({r["context"] for r in asked})[:TRAIN_PAIRS]
        kept = set(texts)
        questions = {r["question"]: r for r in asked if r["context"] in kept and r["answers"]}
        part = [questions[question] for question in by_hash(questions)[:TRAIN_PAIRS]]
        whole = [(r["question"], r["context"]) for r in part]
        found[f"{name}, paragraphs"] = by_weight(whole, encoder, f"{name}-paragraphs", texts)
        if name == "Reddit":
            alone = [(r["question"], answer_sentence(r)) for r in part]
            found["Reddit, sentences"] = by_weight(alone, encoder, f"{name}-sentences")
    return found


def answer_sentence(row: Mapping[str, Any]) -> str:
    answer = row["answers"][0]
    return sentence_at(row["context"], answer["start"], answer["start"] + len(answer["text"]))


def by_hash(texts: Iterable[str]) -> list[str]:
    return sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest())


def by_weight(
    pairs: Sequence[tuple[str, str]], encoder: Encoder, name: str, beside: Sequence[str] = ()
) -> dict[str, Any]:
    """nDCG@10 and recall@1 of (query, text) by the dense part's weight, and of reciprocal ranks."""
    cached = CachedEncoder(encoder, name)
    texts = list(dict.fromkeys([text for _, text in pairs] + list(beside)))
    number = {text: f"s{i}" for i, text in enumerate(texts)}
    vectors = cached.encode([query for query, _ in pairs])
    found: dict[str, Any] = {}
    with temporary() as folder:
        documents = [Document(number[text], text) for text in texts]
        store, base = index_of(documents, Path(folder), cached)
        found["texts"], found["queries"] = len(texts), len(pairs)
        found["average_length"] = round(average_length(base.views[0].segment.postings.lengths), 1)
        fusions = {f"{w / 20:.2f}": Fusion(weight=w / 20) for w in range(21)}
        for kind, fusion in {**fusions, "rrf": ReciprocalRanks()}.items():
            searcher = Searcher(base.views, generation=1, sequence=1, fusion=fusion)
            ranked = [
                [h.doc_id for h in searcher.search(query, k=K, query_vector=vector)]
                for (query, _), vector in zip(pairs, vectors, strict=True)
            ]
            own = [number[text] for _, text in pairs]
            ndcgs = [ndcg(ids, {right: 1.0}) for ids, right in zip(ranked, own, strict=True)]
            first = [ids[:1] == [right] for ids, right in zip(ranked, own, strict=True)]
            found[kind] = [round(float(np.mean(ndcgs)), 4), round(float(np.mean(first)), 4)]
            print(f"{name}, weight {kind}: {found[kind]}", flush=True)
        store.close()
    return found


def speed(passages: int, *, stock: bool) -> dict[str, Any]:
    """Milliseconds a query over `passages` passages of 20 words; queries are held out."""
    held_out = 500
    texts = list(short_passages(passages + held_out))
    random = np.random.default_rng(0)
    chosen = set(random.choice(len(texts), held_out, replace=False).tolist())
    asked = [texts[i] for i in sorted(chosen)]
    kept = [text for i, text in enumerate(texts) if i not in chosen]
    shapes = {"8 words": [" ".join(text.split()[6:14]) for text in asked], "20 words": asked}
    ids = [f"p{i}" for i in range(len(kept))]
    result: dict[str, Any] = {"passages": len(kept)}
    with temporary() as folder:
        started = time.perf_counter()
        documents = [Document(name, text) for name, text in zip(ids, kept, strict=True)]
        store, searcher = index_of(documents, Path(folder), None)
        result["store and build s"] = round(time.perf_counter() - started, 1)
        del documents
        engines: dict[str, Callable[[str], object]] = {
            "footnote": lambda query: searcher.ranker(None, query)(K, None),
            "footnote, documents": lambda query: searcher.search(query, k=K),
            "bm25s": bm25s_search(ids, kept),
            "tantivy": tantivy_search(ids, kept),
        }
        if stock:
            (Path(folder) / "stock").mkdir()
            engines["stock whoosh"] = whoosh_search(ids, kept, Path(folder) / "stock")
        for shape, queries in shapes.items():
            result[shape] = timed(engines, queries)
            print(f"{passages} passages, {shape}:", result[shape], flush=True)
        store.close()
    return result


def hybrid(passages: int) -> dict[str, Any]:
    """Hybrid retrieval with the query's encoding, over the store of `benchmarks.serving`.

    Milliseconds a query: one at a time [p50, p99], and 32 encoded together and searched one by one.
    The encoder runs in the server's own arithmetic.
    """
    encoder = Encoder.load(dtype=pick_dtype("auto", "cpu"))
    texts = list(islice(short_passages(passages + ASKED), passages + ASKED))
    asked = texts[-ASKED:]
    result: dict[str, Any] = {"passages": passages, "dtype": str(encoder.dtype)}
    with temporary() as name:
        folder = Path(name) / "store"
        shutil.copytree(build(texts[:-ASKED], encoder), folder)
        store = DocumentStore(folder)
        index = Index(store, folder / INDEX, encoder_sha=encoder.sha256)
        index.open()
        searcher = index.searcher

        def alone(query: str) -> object:
            return searcher.ranker("hybrid", query, vector=encoder.encode([query])[0])(K, None)

        result["alone"] = timed({"hybrid": alone}, asked)["hybrid"]
        spent = []
        for start in range(0, len(asked) - BATCH + 1, BATCH):
            part = asked[start : start + BATCH]
            started = time.perf_counter()
            for query, vector in zip(part, encoder.encode(part), strict=True):
                searcher.ranker("hybrid", query, vector=vector)(K, None)
            spent.append((time.perf_counter() - started) * 1e3 / BATCH)
        result["in batches of 32"] = np.quantile(spent, (0.5, 0.99)).round(3).tolist()
        store.close()
    return result


def timed(
    engines: Mapping[str, Callable[[str], object]], queries: Sequence[str]
) -> dict[str, list[float]]:
    """[p50, p99] in ms. Engines take turns every few queries, so that a busy machine is so for all.

    Every engine has asked once before, so that nothing is compiled or loaded in what is timed.
    """
    times: dict[str, list[float]] = {name: [] for name in engines}
    rest_from_collection()  # as the server does when it is ready
    for start in range(0, len(queries), ROUND):
        for name, search in engines.items():
            if name == "stock whoosh" and start >= ROUND:
                continue
            search(queries[0])
            for query in queries[start : start + ROUND]:
                started = time.perf_counter()
                search(query)
                times[name].append((time.perf_counter() - started) * 1e3)
    return {
        name: np.quantile(spent, (0.5, 0.99)).round(3).tolist() for name, spent in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="a million passages as well")
    parser.add_argument("--only", choices=("quality", "speed", "weight", "hybrid"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warm_up()
    figures: dict[str, Any] = {"benchmark": "retrieval", "machine": platform.machine()}
    if arguments.only in (None, "weight"):
        figures["weight"] = weight(Encoder.load())
    if arguments.only in (None, "quality"):
        encoder = Encoder.load()
        figures["quality"] = {name: quality(name, encoder) for name in SETS}
    if arguments.only in (None, "speed"):
        figures["speed"] = [speed(100_000, stock=True)]
        if arguments.large:
            figures["speed"].append(speed(1_000_000, stock=False))
    if arguments.only in (None, "hybrid"):
        figures["hybrid"] = hybrid(100_000)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
