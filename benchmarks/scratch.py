"""Chinese with nothing pretrained: an encoder from scratch, and heads over it with retrieval.

    python -m benchmarks.scratch [chnsenticorp thucnews_titles resume_ner msra_ner drcd cmrc2018]
    python -m benchmarks.scratch msra_ner --seed 0 1 2
    python -m benchmarks.scratch --no-labels resume_ner
    python -m benchmarks.scratch --peers [SET...]

Tokenizer and encoder (`model.scratch.train`) see the training rows alone; where texts carry labels
or entities the encoder learns from those of three quarters of them (`--no-labels`: from the texts),
and a head over it from the last quarter, with hits from all, found as the server does. *on* and
*off* are one network, *none* never saw a hit, `no training` is the vote of the neighbours.
`--peers`: TF-IDF of characters on the same rows. Test texts that stand in train are left out of the
test part. Of the two sets of questions one is learned from (its paragraphs, then its answers) and
the other is asked, as `benchmarks.qa` asks it. What is trained is kept in benchmarks/runs,
what a seed's labels were too: further seeds are pooled with those that were run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import ner, qa
from benchmarks.classification import K, answer, figures, fit, plain
from benchmarks.data import qa as qa_data
from benchmarks.data import rows
from benchmarks.data.classification import Example, Split, by_hash, read
from benchmarks.data.ner import read as read_sentences
from benchmarks.data.ner import share_of
from benchmarks.peers.classification import characters
from benchmarks.peers.retrieval import temporary
from benchmarks.retrieval import index_of
from benchmarks.tools.folders import RUNS
from benchmarks.tools.progress import Line
from benchmarks.tools.statistics import paired_interval
from benchmarks.tools.vector_cache import CachedEncoder
from index_data.documents import Document, near_duplicate, normalise
from index_data.search.searcher import Searcher
from model.encoder.encoder import Encoder
from model.labels.memory import Retrieved
from model.reader import Reader
from model.scratch.train import ScratchConfig, ScratchText, train_encoder

FOLDER = RUNS / "scratch"
CLASSIFIED = {"chnsenticorp": "train", "thucnews_titles": "train_subset"}
CONFIGS = {
    # What texts are about hardly depends on the order of their words.
    "chnsenticorp": ScratchConfig(position_encoding="learned", loosened=0.1),
    "thucnews_titles": ScratchConfig(position_encoding="learned", max_tokens=48, loosened=0.1),
    # An entity's borders are between characters, so a token is one.
    # What is found are labelled sentences, by their words: vectors need not be learned.
    "resume_ner": ScratchConfig(tokenizer="characters", epochs=20, batch_size=32, pairs=False),
    "msra_ner": ScratchConfig(tokenizer="characters", epochs=6, batch_size=32, pairs=False),
    "drcd": ScratchConfig(tokenizer="characters", max_tokens=256, batch_size=32),
    "cmrc2018": ScratchConfig(tokenizer="characters", max_tokens=256, batch_size=32),
}
HEAD_SHARE = 0.25
"""Of the rows, whose labels the encoder does not see and a head learns from. Rows whose labels it
saw stand beside their like as no new text does: a head would learn to trust hits too far."""
OTHER = {"drcd": "cmrc2018", "cmrc2018": "drcd"}
"""Learned from, and asked."""
PIECE = 200
"""Characters of a paragraph that the encoder learns from at once."""
TAG_OPTIONS: dict[str, Any] = {"layers": 4, "rank": 32}


def parts(name: str, most: int | None, split: str = "test") -> tuple[list[Example], list[Example]]:
    """Training rows, and the rows of a split whose text is not among them; at most so many each."""
    train, test = read(name, CLASSIFIED[name]), read(name, split)
    seen = {normalise(row.text) for row in train}
    test = [row for row in test if normalise(row.text) not in seen]
    if most is not None:
        train, test = (
            [side[i] for i in by_hash(side, min(1.0, most / len(side)))[1]]
            for side in (train, test)
        )
    return train, test


def changed(name: str, config: ScratchConfig) -> str:
    """What tells an encoder of other positions or longer texts than by default, in a name."""
    own = CONFIGS[name]
    positions = (
        "" if config.position_encoding == own.position_encoding else f"-{config.position_encoding}"
    )
    return positions + ("" if config.max_tokens == own.max_tokens else f"-{config.max_tokens}")


def encoder_for(
    name: str, rows: Sequence[ScratchText], config: ScratchConfig
) -> tuple[Encoder, dict[str, Any]]:
    """The encoder of these texts, trained now or found from an earlier run; and its report."""
    known = any(row.label is not None or row.entities is not None for row in rows)
    kind = "" if known or name in OTHER else "-texts"
    out = FOLDER / f"{name}{kind}{changed(name, config)}-{len(rows)}-{config.epochs}-{config.seed}"

    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        train_encoder(rows, config, out, progress=Line(out.name))
    report = json.loads((out / "report.json").read_text())
    names = ("vocabulary", "parameters", "epochs", "losses", "seconds")
    return Encoder.load(str(out)), {n: report[n] for n in names}


def classified(
    name: str,
    split: str,
    seeds: Sequence[int],
    most: int | None,
    config: ScratchConfig,
    taught: bool,
) -> dict[str, Any]:
    """A set of labelled texts; the encoder is taught by labels too. Means over the seeds."""
    train, test = parts(name, most, split)
    known, fresh = by_hash(train, HEAD_SHARE)
    texts = [ScratchText(row.text) for row in train]
    for i in known if taught else ():
        texts[i] = ScratchText(train[i].text, train[i].label)
    done: dict[str, dict[str, Any]] = {}
    for seed in seeds:
        encoder, about = encoder_for(name, texts, dataclasses.replace(config, seed=seed))
        saved = FOLDER / f"{name}-{encoder.sha256[:8]}-{split}-{len(test)}-{seed}.json"
        if not saved.exists():
            saved.write_text(json.dumps(conditions(name, seed, encoder, train, test, fresh)))
        done[str(seed)] = {"encoder": about, **json.loads(saved.read_text())}
    result: dict[str, Any] = {"rows": len(train), "test": len(test), "head rows": len(fresh)}
    right: dict[str, NDArray[np.float64]] = {}
    for condition in ("on", "off", "none", "no training"):
        per_seed = [[c == "1" for c in one[condition]["right"]] for one in done.values()]
        right[condition] = np.mean(per_seed, axis=0)
        result[condition] = float(right[condition].mean())
    for baseline in ("off", "none", "no training"):
        mean, low, high = paired_interval(right["on"], right[baseline])
        result[f"on - {baseline}"] = {"mean": mean, "low": low, "high": high}
    return {**result, "per seed": done}


def conditions(
    name: str, seed: int, encoder: Encoder,
    train: list[Example], test: list[Example], fresh: Sequence[int],
) -> dict[str, Any]:  # fmt: skip
    """The figures of one seed: `no training`, `on`, `off` and `none`. `fresh`: a head's rows."""
    labels = sorted({row.label for row in train})
    cached = CachedEncoder(encoder, f"{name}-scratch")
    index, queries = (
        Split(side, cached.encode([row.text for row in side])) for side in (train, test)
    )
    learned = index.take(fresh)
    (own, hits), dropped = hybrid(index, [learned, queries], cached)
    nothing: list[Any] = [[] for _ in test]
    result: dict[str, Any] = {"dropped": dropped}
    untrained = Reader.load(None, encoder)
    result["no training"] = figures(queries, answer(untrained, queries, hits, labels))
    for condition in ("on", "none"):
        reader, trained = fit(
            f"{name}-scratch-{condition}-{encoder.sha256[:8]}-{seed}", learned, own, encoder,
            seed=seed, retrieval=condition == "on", layers=encoder.depth,
        )  # fmt: skip
        result[f"training, {condition}"] = trained
        if condition == "on":
            result["on"] = figures(queries, answer(reader, queries, hits, labels))
        closed_book = figures(queries, answer(reader, queries, nothing, labels))
        result["off" if condition == "on" else "none"] = closed_book
    for condition in ("no training", "on", "off", "none"):
        accuracy = result[condition]["accuracy"]
        print(f"{name:16} {seed} {condition:12} accuracy {accuracy:.4f}", flush=True)
    return result


def hybrid(
    index: Split, queries: Sequence[Split], encoder: CachedEncoder
) -> tuple[list[list[list[Retrieved]]], int]:
    """The hits of each part by the server's default method, never the text or a near-duplicate."""
    place = {row.id: i for i, row in enumerate(index.rows)}
    dropped = 0

    def hits_of(row: Example, vector: NDArray[np.float32], searcher: Searcher) -> list[Retrieved]:
        def same(other: Document) -> bool:
            nonlocal dropped
            if other.id == row.id:
                return True
            near = near_duplicate(row.text, other.text)
            dropped += near
            return near

        hits = searcher.search(
            row.text, k=K, method="hybrid", lang="zh", query_vector=vector, exclude=same
        )
        numbers = [place[hit.doc_id] for hit in hits]
        near = [
            (index.rows[i], index.vectors[i], hit.score)
            for i, hit in zip(numbers, hits, strict=True)
        ]
        return [Retrieved(None, r.text, r.label, score, v, doc_id=r.id) for r, v, score in near]

    with temporary() as folder:
        documents = [Document(row.id, row.text, lang="zh") for row in index.rows]
        store, searcher = index_of(documents, Path(folder), encoder)
        hits = [
            [hits_of(r, v, searcher) for r, v in zip(part.rows, part.vectors, strict=True)]
            for part in queries
        ]
        store.close()
    return hits, dropped


def tagged(
    name: str,
    split: str,
    seeds: Sequence[int],
    most: int | None,
    config: ScratchConfig,
    taught: bool,
) -> dict[str, Any]:
    """A set of sentences with entities; the encoder is taught by entities too."""
    sentences = read_sentences(name, "train")[:most]
    share = HEAD_SHARE if taught else 1.0
    encoders: dict[int, Encoder] = {}
    about: dict[str, Any] = {}
    for seed in seeds:
        fresh = {row.id for row in share_of(sentences, share, seed)}
        texts = [
            ScratchText(r.text, None, None if r.id in fresh else r.entities) for r in sentences
        ]
        encoders[seed], report = encoder_for(name, texts, dataclasses.replace(config, seed=seed))
        about[str(seed)] = {"head rows": len(fresh), "encoder": report}
    scores = ner.run(name, encoders, split, TAG_OPTIONS, most=most, learned=share)
    return {"learned from": len(sentences), **scores, "encoders": about}


def answered(
    name: str, _: str, seeds: Sequence[int], most: int | None, config: ScratchConfig, __: bool
) -> dict[str, Any]:
    """Questions of one set learned, those of the other asked; `most`: so many are asked."""
    raw = [row for part in qa_data.TRAINED_ON[name] for row in rows(part)]
    contexts = list(dict.fromkeys(row["context"] for row in raw))
    texts = [c[at : at + PIECE] for c in contexts for at in range(0, len(c), PIECE)]
    everything = [ScratchText(text) for text in (*texts, *(row["question"] for row in raw))]
    done: dict[str, Any] = {}
    for seed in seeds:
        encoder, about = encoder_for(name, everything, dataclasses.replace(config, seed=seed))
        head = FOLDER / f"{name}{changed(name, config)}-answers-{config.epochs}-{seed}"
        if not head.exists():
            given = argparse.Namespace(train=head, base=None, none=False, seed=seed)
            trained = qa.train(name, given, encoder)
            print(head.name, json.dumps(trained["metrics"]), flush=True)
        given = argparse.Namespace(
            questions=most, gone=most, retrieval=False, checkpoint=head, against=None
        )
        done[str(seed)] = {"encoder": about, **qa.evaluate(OTHER[name], given, encoder)}
    return {"learned from": len(raw), "per seed": done}


def peers(name: str, split: str, most: int | None) -> dict[str, Any]:
    """TF-IDF of characters on the same rows."""
    train, test = parts(name, most, split)
    return {"rows": len(train), "test": len(test), **characters(train, test)}


def main() -> None:
    """Train what is not there yet, and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument(
        "sets", nargs="*", default=["chnsenticorp", "thucnews_titles", "resume_ner"]
    )
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--max-tokens", type=int, help="that the encoder reads of a text")
    parser.add_argument("--position-encoding", choices=("rotary", "learned"))
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", type=int, help="at most so many rows of each part")
    parser.add_argument("--epochs", type=int, help="of the encoder")
    parser.add_argument(
        "--no-labels", action="store_true", help="encoder of the texts alone; a head of all rows"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    out: dict[str, Any] = {}
    for name in given.sets:
        if given.peers:
            out[name] = peers(name, given.split, given.rows)
        else:
            options = {n: getattr(given, n) for n in ("epochs", "max_tokens", "position_encoding")}
            options = {n: value for n, value in options.items() if value}
            config = dataclasses.replace(CONFIGS[name], **options)
            run = classified if name in CLASSIFIED else answered if name in OTHER else tagged
            taught = not given.no_labels
            out[name] = run(name, given.split, given.seed, given.rows, config, taught)
        print(name, json.dumps(plain(out[name])), flush=True)
    print(json.dumps(plain(out)))


if __name__ == "__main__":
    main()
