"""The language model with retrieval in the loop: ``python -m benchmarks.language_model``.

Models of the same size are pre-trained on novels (a document's own past is retrieved from),
an encyclopaedia and medical questions (other documents are), each with the compute that a longer
local window needs for `--tokens`, and measured on held-out books, articles and questions. Retrieval
on is compared with off, with random passages, with the longer window, with a unigram cache.

    python -m benchmarks.language_model --stage prepare
    python -m benchmarks.language_model --stage speed
    python -m benchmarks.language_model --stage train [--models long window copy] [--tokens 8000000]
    python -m benchmarks.language_model --stage report
    python -m benchmarks.language_model --stage train --models copy --start FOLDER  # on from it
    python -m benchmarks.language_model --stage ship --models copy --out model/shipped-language

Every stage goes on where it was stopped. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.training.pretrain_retrieval import Reach
from benchmarks.language_model.data import SETTINGS, corpus_at
from benchmarks.language_model.report import Case, compare, figures
from benchmarks.language_model.runs import REFERENCE, SHAPES, ship, speed, trained
from benchmarks.language_model.text import (
    cache_probabilities,
    evidence_of,
    random_neighbours,
    scored_chunks,
    word_counts,
    words_of,
)
from benchmarks.tools.folders import RUNS
from model.lm.config import PretrainConfig
from model.lm.corpus import LMCorpus, Numbers
from model.lm.evaluation import token_nats
from model.lm.network import RetrievalLM
from model.lm.tokenizer import LMTokenizer

FOLDER = RUNS / "language_model"
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
REACHES = (512, 2048, 8192, None)


def nats_of(
    name: str,
    condition: str,
    model: RetrievalLM,
    corpus: LMCorpus,
    chunks: Numbers,
    place: Path,
    seed: int,
) -> Any:
    """Nats of a model's tokens under a condition; kept in a file, since measuring takes minutes."""
    path = place / f"{name}-{condition}.npy"
    if path.exists():
        nats = np.load(path, allow_pickle=False)
        if len(nats) == len(chunks):
            return nats
    neighbours = None
    if condition == "random":
        reach = Reach(**corpus.notes["reach"])
        neighbours = random_neighbours(corpus, chunks, reach.gap, seed)
    closed_book = condition == "off"
    nats = token_nats(model, corpus, chunks, closed_book=closed_book, neighbours=neighbours)
    place.mkdir(parents=True, exist_ok=True)
    np.save(path, nats, allow_pickle=False)
    return nats


def with_cache(
    dev: tuple[Any, Numbers], test: tuple[Any, Numbers], corpus: LMCorpus
) -> tuple[Any, dict[str, Any]]:
    """A model's nats mixed with a unigram cache whose reach and share are fitted on dev chunks."""
    best: tuple[float, float, int | None] = (np.inf, 0.0, None)
    for reach in REACHES:
        cached = cache_probabilities(corpus, dev[1], reach)
        for share in SHARES:
            total = float(mixed(dev[0], cached, share).sum())
            if total < best[0]:
                best = (total, share, reach)
    cached = cache_probabilities(corpus, test[1], best[2])
    return mixed(test[0], cached, best[1]), {"share": best[1], "reach": best[2]}


def mixed(nats: Any, cached: tuple[Any, Any], share: float) -> Any:
    """Nats of the mixture; a cache of few tokens has less of a share, padding stays 0."""
    probs, sizes = cached
    share = share * sizes / (sizes + 200.0)
    return np.where(nats == 0, 0.0, -np.log((1 - share) * np.exp(-nats) + share * probs + 1e-12))


def evaluate(
    models: dict[str, RetrievalLM],
    corpus: LMCorpus,
    tokenizer: LMTokenizer,
    folder: Path,
    most: int,
    seed: int,
) -> dict[str, Any]:
    """Every model under every condition on every source, and the comparisons."""
    counts = word_counts(corpus, tokenizer, folder / "words.json")
    out: dict[str, Any] = {}
    for source in SETTINGS:
        test = scored_chunks(corpus, source, "test", most)
        dev = scored_chunks(corpus, source, "dev", most // 4)
        evidence = evidence_of(corpus, tokenizer, test, 2)
        case = Case(corpus, tokenizer, test, evidence, words_of(corpus, tokenizer, test, counts))
        place = folder / "nats" / source
        nats: dict[str, Any] = {}
        fitted: dict[str, Any] = {}
        for name, model in models.items():
            for condition in ("on", "off", "random") if model.config.k else ("off",):
                key = f"{name}, {condition}"
                nats[key] = nats_of(name, condition, model, corpus, test, place, seed)
                print(source, name, condition, flush=True)
            held = nats_of(name, "off", model, corpus, dev, place / "dev", seed)
            key = f"{name}, cache"
            nats[key], fitted[key] = with_cache((held, dev), (nats[f"{name}, off"], test), corpus)
        out[source] = {
            "sizes": case.sizes(),
            "cache": fitted,
            "figures": {key: figures(case, one) for key, one in nats.items()},
            "comparisons": compare(case, nats),
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--stage", choices=("prepare", "speed", "train", "report", "ship", "all"), default="all"
    )
    parser.add_argument("--models", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--tokens", type=int, default=8_000_000, help=f"of the model {REFERENCE}")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--share", type=float, default=1.0, help="of the training documents")
    parser.add_argument("--chunks", type=int, default=2048, help="scored of each source")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--start", type=Path, help="a trained model to go on from")
    parser.add_argument("--out", type=Path, help="of what ships")
    given = parser.parse_args()
    if given.stage == "ship" and (given.out is None or len(given.models) != 1):
        parser.error("--stage ship takes one of --models, and --out")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not torch.cuda.is_available():
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    corpus, tokenizer = corpus_at(given.folder / "corpus", given.share)
    if given.stage == "prepare":
        print(json.dumps(corpus.notes))
        return
    run = PretrainConfig(
        tokens=given.tokens, batch_tokens=given.batch_tokens, lr=given.lr, seed=given.seed
    )
    size = {"dim": given.dim, "layers": given.layers, "heads": max(1, given.dim // 64)}
    if given.stage == "speed":
        speeds = {n: speed(n, corpus, tokenizer.vocab, size, run, 3) for n in given.models}
        print(json.dumps(speeds))
        return
    folder = given.folder / f"d{given.dim}-l{given.layers}-t{given.tokens}-s{given.seed}"
    if given.start is not None:
        folder = folder.with_name(f"{folder.name}-from-{given.start.name}")
    if given.stage == "ship":
        ship(given.models[0], folder, given.out, corpus.notes)
        return
    models, reports = {}, {}
    for name in given.models:
        if given.stage == "report" and not (folder / name).exists():
            print(f"{name}: not trained yet", flush=True)
            continue
        models[name], reports[name] = trained(
            name, corpus, tokenizer, size, run, folder, given.device, given.start
        )
    shown = ("parameters", "flops_a_token", "step", "tokens", "seconds", "cpu_seconds", "held_out")
    out: dict[str, Any] = {"models": {n: {k: r[k] for k in shown} for n, r in reports.items()}}
    if given.stage != "train":
        out |= evaluate(models, corpus, tokenizer, folder, given.chunks, given.seed)
        (folder / "report.json").write_text(json.dumps(out, indent=1), encoding="utf-8")
    print(json.dumps(out))


if __name__ == "__main__":
    main()
