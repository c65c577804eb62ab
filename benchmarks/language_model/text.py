"""What is known of each scored token: its word, how rare, how far back; its chunk's evidence."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index_data.text.similarity import Grams, Shingler, alike
from model.lm.corpus import LMCorpus, Numbers
from model.lm.tokenizer import LMTokenizer

_WORD = re.compile(r"[^\W\d_]+")
RARE = 5e-6  # of the words of the training text: about once in a book or two
Floats = NDArray[np.float64]


def scored_chunks(corpus: LMCorpus, source: str, split: str, most: int, run: int = 8) -> Numbers:
    """Chunks in runs, spread evenly over each document and over the documents.

    Every document has the same share of them, as far as it has so many; first chunks are left
    out, since nothing was there yet to ask with.
    """
    documents = [d for d in corpus.documents if (d.split, d.source) == (split, source)]
    documents = [d for d in documents if d.end - d.first > 1]
    each = max(1, most // max(1, len(documents)))
    picked = []
    for document in documents:
        inside = np.arange(document.first + 1, document.end)
        if len(inside) > each:
            runs = max(1, each // run)
            length = min(run, each)
            starts = np.linspace(0, len(inside) - length, runs + 2)[1:-1].astype(np.int64)
            inside = inside[np.unique(starts[:, None] + np.arange(length))]
        picked.append(inside)
    chosen = np.concatenate(picked) if picked else np.zeros(0, dtype=np.int64)
    if len(chosen) <= 2 * most:
        return chosen
    # More short documents than chunks: every so many of them.
    step = -(-len(picked) // most)
    return np.concatenate(picked[::step])


def word_counts(corpus: LMCorpus, tokenizer: LMTokenizer, path: Path) -> Counter[str]:
    """How often each word stands in the training text; kept in a file."""
    if path.exists():
        return Counter(json.loads(path.read_text(encoding="utf-8")))
    counts: Counter[str] = Counter()
    for document in corpus.documents:
        if document.split == "train":
            text = tokenizer.decode(corpus.tokens[document.first : document.end].ravel().tolist())
            counts.update(_WORD.findall(text.lower()))
    path.write_text(json.dumps(counts), encoding="utf-8")
    return counts


@dataclass(frozen=True, slots=True)
class Words:
    """By token of some chunks [m, c]: is its word rare, and how many tokens back it last stood.

    0: never before in the document.
    """

    rare: NDArray[np.bool_]
    back: Numbers


def words_of(
    corpus: LMCorpus, tokenizer: LMTokenizer, chunks: Numbers, counts: Counter[str]
) -> Words:
    """Look each token's word up; a word is a run of letters, and all its tokens are of it."""
    total = sum(counts.values())
    rare = np.zeros((len(chunks), corpus.chunk), dtype=np.bool_)
    back = np.zeros((len(chunks), corpus.chunk), dtype=np.int64)
    place = {int(chunk): i for i, chunk in enumerate(chunks)}
    pieces = [tokenizer.decode([i]) for i in range(tokenizer.vocab)]
    starts = [not piece or not piece[0].isalpha() for piece in pieces]
    for number in sorted({int(n) for n in corpus.document[chunks]}):
        document = corpus.documents[number]
        last = max(c for c in place if document.first <= c < document.end)
        ids = corpus.tokens[document.first : last + 2].ravel()
        ids = ids[: (document.end - document.first) * corpus.chunk]
        seen: dict[str, int] = {}
        at = 0
        while at < len(ids):
            end = at + 1
            while end < len(ids) and not starts[ids[end]]:
                end += 1
            match = _WORD.search("".join(pieces[i] for i in ids[at:end]).lower())
            word = match[0] if match else ""
            if word:
                unusual = counts[word] < RARE * total and len(word) > 2
                for token in range(at, end):
                    row = place.get(document.first + token // corpus.chunk)
                    if row is not None:
                        rare[row, token % corpus.chunk] = unusual
                        back[row, token % corpus.chunk] = at - seen[word] if word in seen else 0
                seen[word] = at
            at = end
    return Words(rare, back)


@dataclass(frozen=True, slots=True)
class Evidence:
    """By chunk: how far back the best passage lies, and how much of the chunk passages hold."""

    distance: Numbers  # tokens, 0: nothing was retrieved, or it is another document's
    held: Floats  # share of the chunk's word 3-grams
    leak: NDArray[np.bool_]  # near-duplicate of a retrieved chunk, or four fifths of it held


def contained(part: Grams, whole: Grams) -> float:
    """The share of the grams of `part` that `whole` has; 0 for no gram."""
    if not len(part):
        return 0.0
    return len(np.intersect1d(part, whole, assume_unique=True)) / len(part)


def evidence_of(corpus: LMCorpus, tokenizer: LMTokenizer, chunks: Numbers, k: int) -> Evidence:
    """Look at what was retrieved for some chunks with the chunks themselves at hand."""
    shingler = Shingler()
    distance = np.zeros(len(chunks), dtype=np.int64)
    held = np.zeros(len(chunks))
    leak = np.zeros(len(chunks), dtype=np.bool_)
    for i, chunk in enumerate(chunks.tolist()):
        target = shingler.grams(tokenizer.decode(corpus.tokens[chunk].tolist()))
        hits = [int(n) for n in corpus.neighbours[chunk, :k] if n >= 0]
        if hits and corpus.document[hits[0]] == corpus.document[chunk]:
            distance[i] = (chunk - hits[0]) * corpus.chunk
        for passage in corpus.passages(np.array(hits, dtype=np.int64), 2) if hits else []:
            halves = passage.reshape(2, -1)
            held[i] = max(held[i], contained(target, shingler.grams(tokenizer.decode(passage))))
            leak[i] |= any(alike(target, shingler.grams(tokenizer.decode(h))) for h in halves)
    return Evidence(distance, held, leak | (held >= 0.8))


def random_neighbours(corpus: LMCorpus, chunks: Numbers, gap: int, seed: int) -> Numbers:
    """As many passages as were retrieved, drawn from where they might have come from. [N, k]

    Those of the document itself from its past, those of others from the training part.
    """
    random = np.random.default_rng(seed)
    out = np.array(corpus.neighbours, dtype=np.int64)
    pools = {s: corpus.chunks_of("train", s) for s in {d.source for d in corpus.documents}}
    near = np.unique(np.concatenate([chunks + i for i in range(-16, 17)]))
    for chunk in near[(near >= 0) & (near < len(out))].tolist():
        hits = out[chunk]
        document = corpus.documents[int(corpus.document[chunk])]
        own = bool((corpus.document[hits[hits >= 0]] == corpus.document[chunk]).any())
        pool = np.arange(document.first, chunk - gap + 1) if own else pools[document.source]
        outside = pool if own else pool[(pool < document.first) | (pool >= document.end)]
        if len(outside):
            drawn = random.choice(outside, len(hits))
            out[chunk] = np.where(hits >= 0, drawn, -1)
    return out


def cache_probabilities(
    corpus: LMCorpus, chunks: Numbers, reach: int | None
) -> tuple[Floats, Floats]:
    """A unigram cache over a document's tokens before each (Kuhn and De Mori 1990).

    The share of each token of `chunks` [m, c] among the `reach` tokens before it (None: all), and
    how many tokens that were.
    """
    probs = np.zeros((len(chunks), corpus.chunk))
    sizes = np.zeros((len(chunks), corpus.chunk))
    vocab = int(corpus.tokens.max()) + 1
    last, counts, ids, at = -2, np.zeros(0), np.zeros(0, dtype=np.uint16), 0
    for i, chunk in enumerate(chunks.tolist()):
        document = corpus.documents[int(corpus.document[chunk])]
        if chunk != last + 1 or chunk == document.first:
            ids = corpus.tokens[document.first : document.end].ravel()
            at = (chunk - document.first) * corpus.chunk
            start = 0 if reach is None else max(0, at - reach)
            counts = np.bincount(ids[start:at], minlength=vocab).astype(np.float64)
        for j in range(corpus.chunk):
            start = 0 if reach is None else max(0, at - reach)
            size = at - start
            probs[i, j] = counts[ids[at]] / size if size else 0.0
            sizes[i, j] = size
            counts[ids[at]] += 1
            if reach is not None and at >= reach:
                counts[ids[at - reach]] -= 1
            at += 1
        last = chunk
    return probs, sizes
