"""Figures and comparisons of `benchmarks.language_model`, with intervals over documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.language_model.text import Evidence, Words
from model.lm.config import PAD
from model.lm.corpus import LMCorpus, Numbers
from model.lm.tokenizer import LMTokenizer

DRAWS = 5000
WINDOW = 256
LEAST = 8  # documents that an interval is drawn from
DISTANCES = (0, 1_024, 4_096, 16_384, 65_536, 1 << 40)
HELD = (0.0, 0.02, 0.1, 0.3, 0.8, 1.01)
SAME_WEIGHTS = ("off", "random", "cache")
Nats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Case:
    """The scored chunks of a source, and what is known of them."""

    corpus: LMCorpus
    tokenizer: LMTokenizer
    chunks: Numbers
    evidence: Evidence
    words: Words

    def tokens(self) -> Mask:
        """Which places hold text. [m, c]"""
        real: Mask = self.corpus.tokens[self.chunks] != PAD
        return real

    def bytes(self) -> NDArray[np.int64]:
        """Bytes of each token. [m, c]"""
        lengths: NDArray[np.int64] = self.tokenizer.byte_lengths()[self.corpus.tokens[self.chunks]]
        return lengths

    def word_starts(self) -> Mask:
        """Tokens in which a word between white space begins: their number is that of the words.

        A word that began before the first chunk of a run is not counted.
        """
        pieces = [self.tokenizer.decode([i]) for i in range(self.tokenizer.vocab)]
        begins = np.array([bool(p) and p[0].isspace() and bool(p.strip()) for p in pieces])
        ends = np.array([bool(p) and p[-1].isspace() for p in pieces])
        plain = np.array([bool(p.strip()) for p in pieces])
        ids = self.corpus.tokens[self.chunks]
        before = self.corpus.tokens[self.chunks - 1, -1][:, None]
        previous = np.concatenate([before, ids[:, :-1]], 1)
        starts: Mask = begins[ids] | (plain[ids] & ends[previous])
        return starts

    def sizes(self) -> dict[str, Any]:
        """How much text is scored, and how much of it is a leak."""
        return {
            "documents": len(np.unique(self.corpus.document[self.chunks])),
            "chunks": len(self.chunks),
            "tokens": int(self.tokens().sum()),
            "bytes": int(self.bytes().sum()),
            "words": int(self.word_starts().sum()),
            "leaks": int(self.evidence.leak.sum()),
            "rare_and_repeated_beyond_the_window": int(self.rare_beyond().sum()),
        }

    def rare_beyond(self) -> Mask:
        """Tokens of rare words that stood in the document before, but not in the window. [m, c]"""
        return self.words.rare & (self.words.back > WINDOW)

    def classes(self) -> dict[str, Mask]:
        """Tokens by what is known of them. [m, c] each"""
        everywhere = np.ones_like(self.words.rare)
        out: dict[str, Mask] = {
            "all": everywhere,
            "without leaks": everywhere & ~self.evidence.leak[:, None],
            "rare, repeated within the window": (
                self.words.rare & (self.words.back > 0) & (self.words.back <= WINDOW)
            ),
            "rare, repeated beyond the window": self.rare_beyond(),
            "rare, new in the document": self.words.rare & (self.words.back == 0),
        }
        distance = self.evidence.distance
        for low, high in pairwise(DISTANCES):
            if (inside := (distance > low) & (distance <= high)).any():
                name = f"best passage {low} to {high} tokens back" if high < 1 << 40 else (
                    f"best passage more than {low} tokens back"
                )  # fmt: skip
                out[name] = everywhere & inside[:, None]
        held = self.evidence.held
        for least, most in pairwise(HELD):
            if (inside := (held >= least) & (held < most)).any():
                name = f"passages hold {least:.0%} to {min(most, 1):.0%} of the chunk's 3-grams"
                out[name] = everywhere & inside[:, None]
        return out


def figures(case: Case, nats: Nats) -> dict[str, float]:
    """Bits per byte and perplexity of words, of all that is scored and without leaks."""
    out = {}
    for name in ("all", "without leaks"):
        mask = case.classes()[name]
        total = float((nats * mask).sum(dtype=np.float64))
        size, words = float((case.bytes() * mask).sum()), float((case.word_starts() & mask).sum())
        out[f"bits_per_byte, {name}"] = total / np.log(2) / max(size, 1.0)
        out[f"word_perplexity, {name}"] = float(np.exp(total / max(words, 1.0)))
        out[f"token_perplexity, {name}"] = float(
            np.exp(total / max(float((case.tokens() & mask).sum()), 1.0))
        )
    return out


def compare(case: Case, nats: Mapping[str, Nats]) -> dict[str, Any]:
    """Each model with retrieval on against its baselines, by class of token."""
    out: dict[str, Any] = {}
    whose, real = case.corpus.document[case.chunks], case.tokens()
    for key, ours in nats.items():
        name, condition = key.split(", ")
        if condition != "on":
            continue
        baselines = {f"{name}, {other}": nats[f"{name}, {other}"] for other in SAME_WEIGHTS}
        baselines |= {k: n for k, n in nats.items() if k.split(", ")[0] in ("window", "long")}
        for baseline, theirs in baselines.items():
            out[f"{key} - {baseline}"] = {
                kind: difference(case, ours, theirs, mask)
                for kind, mask in case.classes().items()
                if len(np.unique(whose[(mask & real).any(axis=1)])) >= LEAST
            }
    return out


def difference(case: Case, ours: Nats, theirs: Nats, mask: Mask) -> dict[str, float]:
    """Bits per byte, and word or token perplexity in per cent, with 95 % intervals.

    Documents are drawn with replacement, and all chunks of one go together. Of words the class
    covers in part, perplexity is of its tokens.
    """
    touched = np.asarray((mask & case.tokens()).any(axis=1))
    whole = bool((mask | ~case.tokens())[touched].all())
    mask = mask & case.tokens()
    documents = np.unique(case.corpus.document[case.chunks[touched]])
    count = len(documents)
    # What lies in other documents has no part in the class, and is counted as of the first.
    place = np.searchsorted(documents, case.corpus.document[case.chunks]).clip(0, count - 1)

    def by_document(values: Any) -> NDArray[np.float64]:
        sums = np.bincount(place, (values * mask).sum(1).astype(np.float64), minlength=count)
        return sums.astype(np.float64)

    gain = by_document(ours.astype(np.float64) - theirs)
    size, words = by_document(case.bytes()), by_document(case.word_starts())
    tokens = by_document(case.tokens())
    picks = np.random.default_rng(0).integers(0, count, (DRAWS, count))
    drawn = gain[picks].sum(1)
    unit = words if whole else tokens
    bits = drawn / np.log(2) / np.maximum(size[picks].sum(1), 1)
    ratio = 100 * (np.exp(drawn / np.maximum(unit[picks].sum(1), 1)) - 1)
    low, high = np.quantile(bits, [0.025, 0.975])
    ratio_low, ratio_high = np.quantile(ratio, [0.025, 0.975])
    return {
        "tokens": float(tokens.sum()),
        "bits_per_byte": float(gain.sum() / np.log(2) / max(size.sum(), 1)),
        "low": float(low),
        "high": float(high),
        "perplexity_percent": float(100 * (np.exp(gain.sum() / max(unit.sum(), 1)) - 1)),
        "percent_low": float(ratio_low),
        "percent_high": float(ratio_high),
    }
