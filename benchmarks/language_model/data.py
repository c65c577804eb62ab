"""The text of `benchmarks.language_model`: what is held out, and what is retrieved for it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

from app.training.pretrain_data import Text, build_corpus, train_tokenizer
from app.training.pretrain_retrieval import Reach, Setting
from benchmarks.data import rows
from model.library import clean
from model.lm.corpus import LMCorpus
from model.lm.tokenizer import LMTokenizer

SETTINGS: dict[str, Setting] = {
    "novels_en": "own", "britannica_1810": "others", "medquad": "others",
}  # fmt: skip
VOCAB = 8192
REACH = Reach(k=4, window_chunks=4, passage_chunks=2)
CHUNK = 64
# Books that nothing is trained on; the others' splits go by hash of the article or the question.
DEV_BOOKS, TEST_BOOKS = 4, 16
HELD_OUT = 0.05


def place(name: str) -> float:
    """A number from 0 to 1 that follows from a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32


def texts(share: float) -> Iterator[Text]:
    """All documents, or so large a share of them by hash, and always those held out."""
    books = [row for part in ("part1", "part2") for row in rows(f"novels_en/{part}")]
    order = sorted(range(len(books)), key=lambda i: place("book " + books[i]["id"]))
    rank = {i: r for r, i in enumerate(order)}
    for i, row in enumerate(books):
        split = "dev" if rank[i] < TEST_BOOKS + DEV_BOOKS else "train"
        split = "test" if rank[i] < TEST_BOOKS else split
        if split != "train" or place("share " + row["id"]) < share:
            yield Text(row["id"], "novels_en", split, clean(row["text"]))
    for row in rows("britannica_1810/articles"):
        text = f"{row['title']}\n{row['text']}"
        yield from _one("britannica_1810", row["id"], row["id"], text, share)
    for row in rows("medquad/faq"):
        # A question that stands twice falls on one side.
        text = f"{row['question']}\n{row['answer']}"
        yield from _one("medquad", row["id"], row["question"], text, share)


def _one(source: str, name: str, key: str, text: str, share: float) -> Iterator[Text]:
    at = place(f"{source} {key}")
    split = "test" if at < HELD_OUT * 0.8 else "dev" if at < HELD_OUT else "train"
    if split != "train" or place("share " + key) < share:
        yield Text(name, source, split, clean(text))


def corpus_at(folder: Path, share: float = 1.0) -> tuple[LMCorpus, LMTokenizer]:
    """The corpus in a folder; made where it is not there yet."""
    if not (folder / "documents.json").exists():
        began = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        given = list(texts(share))
        print(f"{len(given)} documents read, {time.monotonic() - began:.0f} s", flush=True)
        path = folder / "tokenizer.json"
        if not path.exists():
            path.write_text(train_tokenizer(given, VOCAB).to_json(), encoding="utf-8")
        tokenizer = LMTokenizer.load(path)
        print(f"tokenizer, {time.monotonic() - began:.0f} s", flush=True)

        def tick(done: int, total: int) -> None:
            if done % 20_000 == 0:
                took = time.monotonic() - began
                print(f"{done} of {total} chunks retrieved for, {took:.0f} s", flush=True)

        corpus = build_corpus(given, tokenizer, SETTINGS, REACH, CHUNK, tick)
        corpus.save(folder)
        print(corpus.notes, flush=True)
    return LMCorpus.load(folder), LMTokenizer.load(folder / "tokenizer.json")
