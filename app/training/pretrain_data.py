"""Text to pre-train on: files, split by document, as tokens with what is retrieved for them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import orjson

from app.training.pretrain_retrieval import Reach, Setting, retrieve
from index_data.importing.importers import ImportRefused, decompressed, file_kind
from model.library import clean
from model.lm.corpus import LMCorpus, make_corpus
from model.lm.tokenizer import LMTokenizer

SAMPLE_CHARS: Final = 30_000_000
"""So much of the training text, spread over all of it, decides which tokens there are."""
SLICE: Final = 20_000


@dataclass(frozen=True, slots=True)
class Text:
    """A document to learn from (`train`), to watch (`dev`) or to measure on (`test`)."""

    id: str
    source: str
    split: str
    text: str


def read_texts(
    path: Path, source: str, split: Callable[[str], str], rejected: Callable[[int, str], None]
) -> Iterator[Text]:
    """The documents of a file: JSON lines with `text` (and `title`, `id`), or one plain text.

    `split` names the split of an id; `rejected` hears of each line that is no document, and why.

    Raises:
        ImportRefused: It is a file of another kind.
    """
    kind = file_kind(path)
    if kind == "text":
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        if text.strip():
            yield Text(path.name, source, split(path.name), clean(text))
        return
    if kind != "json":
        raise ImportRefused(f"{path}: JSON lines or plain text are needed")
    with path.open("rb") as raw, decompressed(path, raw) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = orjson.loads(line)
                text = row["text"]
                if not isinstance(text, str) or not text.strip():
                    raise ValueError("`text` is no text")
            except (ValueError, KeyError, TypeError) as error:
                why = "no field `text`" if isinstance(error, KeyError) else str(error)
                rejected(number, why)
                continue
            title = row.get("title")
            whole = f"{title}\n{text}" if isinstance(title, str) and title else text
            name = str(row.get("id", f"{path.name}:{number}"))
            yield Text(name, source, split(name), clean(whole))


def split_by_hash(held_out: float) -> Callable[[str], str]:
    """So large a share of ids is held out: half to watch progress on, half to measure on."""

    def split(name: str) -> str:
        place = int.from_bytes(hashlib.sha256(name.encode("utf-8", "replace")).digest()[:4]) / 2**32
        if place >= held_out:
            return "train"
        return "dev" if place < held_out / 2 else "test"

    return split


def train_tokenizer(texts: Sequence[Text], vocab: int) -> LMTokenizer:
    """Learn the tokens from slices that are spread over the training documents."""
    train = [text.text for text in texts if text.split == "train"]
    every = max(1, round(sum(map(len, train)) / SAMPLE_CHARS))
    slices = (text[at : at + SLICE] for text in train for at in range(0, len(text), SLICE))
    return LMTokenizer.train(islice(slices, every - 1, None, every), vocab)


def build_corpus(
    texts: Sequence[Text],
    tokenizer: LMTokenizer,
    settings: Mapping[str, Setting],
    reach: Reach,
    chunk: int,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> LMCorpus:
    """Tokenise, cut into chunks, and retrieve for each; `tick` hears for how many of how many."""
    ids = [one for start in range(0, len(texts), 64)
           for one in tokenizer.encode([t.text for t in texts[start : start + 64]])]  # fmt: skip
    listed = [(text.id, text.source, text.split) for text in texts]
    sizes: dict[str, dict[str, int]] = {}
    for text, numbers in zip(texts, ids, strict=True):
        size = sizes.setdefault(
            f"{text.source} {text.split}", {"documents": 0, "bytes": 0, "words": 0, "tokens": 0}
        )
        size["documents"] += 1
        size["bytes"] += len(text.text.encode())
        size["words"] += len(text.text.split())
        size["tokens"] += len(numbers)
    notes = {"sizes": sizes, "reach": asdict(reach), "settings": dict(settings)}
    corpus = make_corpus(listed, ids, chunk, reach.k, notes)
    done = retrieve(corpus, tokenizer.decode, settings, reach, tick)
    notes["retrieval"] = {source: asdict(counts) for source, counts in done.items()}
    return corpus
