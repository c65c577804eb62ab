"""What an encoder from nothing is trained on and by: settings, texts, tokenizer, tags of tokens."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from model.library import clean

MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNKNOWN, START, END, MASK = range(5)
IGNORED = -100
"""Stands where a token has nothing to be guessed."""


@dataclass(frozen=True, slots=True)
class ScratchConfig:
    """One encoder: what differs between sets of texts.

    `tokenizer`: one token a CJK character, or pieces of several, learned (unigram).
    `position_encoding`: queries and keys are turned (a RoFormer, Su et al. 2021), or each position
    has a learned vector (a BERT). The sizes are those of a network that learns on a processor.
    """

    tokenizer: Literal["unigram", "characters"] = "unigram"
    vocabulary: int = 16_000  # at most: what a small corpus does not fill stays empty
    # Learned from few texts, rotary has 72.1 F1 of MSRA's entities where learned has 53.4.
    position_encoding: Literal["rotary", "learned"] = "rotary"
    layers: int = 4
    dim: int = 256
    heads: int = 4
    max_tokens: int = 128  # of a text; 256 brought nothing on reviews
    epochs: int = 10
    batch_size: int = 64
    lr: float = 5e-4  # 1e-3 is worse: 54.3 F1 for 59.0 after two epochs of MSRA
    pairs: bool = True  # texts without labels learn vectors; without it half the work, and none
    loosened: float = 0.0  # share of the pieces read as their characters (Provilkov et al. 2020)
    seed: int = 0
    optimizer: ClassVar[Literal["adamw"]] = "adamw"
    weight_decay: ClassVar[float] = 0.01


@dataclass(frozen=True, slots=True)
class ScratchText:
    """A text; its label and its entities (start, end, type in code points) where they are known.

    No entities at all are something else (`()`) than that nobody looked (`None`).
    """

    text: str
    label: str | None = None
    entities: Sequence[tuple[int, int, str]] | None = None


def train_tokenizer(texts: Iterable[str], config: ScratchConfig) -> Tokenizer:
    """A tokenizer over a corpus: lower case, NFKC; `[CLS]` and `[SEP]` around a text.

    WordPiece with each CJK character by itself, or a unigram model (Kudo 2018) whose pieces may be
    several characters long, which suits a corpus too small to learn what characters mean together.

    Raises:
        ValueError: `tokenizer` is unknown, or the vocabulary too small for the corpus.
    """
    if config.tokenizer == "characters":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), normalizers.BertNormalizer()]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer: Any = trainers.WordPieceTrainer(
            vocab_size=config.vocabulary, special_tokens=list(MARKS), show_progress=False
        )
    elif config.tokenizer == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits()]
        )
        trainer = trainers.UnigramTrainer(
            vocab_size=config.vocabulary,
            special_tokens=list(MARKS),
            unk_token="[UNK]",
            max_piece_length=6,
            show_progress=False,
        )
    else:
        raise ValueError(f"tokenizer is unigram or characters, not {config.tokenizer!r}")
    try:
        tokenizer.train_from_iterator(map(clean, texts), trainer)
    except Exception as error:  # `tokenizers` has no narrower type
        raise ValueError(f"a vocabulary of {config.vocabulary}: {error}") from error
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", START), ("[SEP]", END)],
    )
    return tokenizer


def spelled(tokenizer: Tokenizer) -> dict[int, list[int]]:
    """The pieces of several characters that are all tokens themselves, each as those."""
    known = tokenizer.get_vocab()
    return {
        number: [known[letter] for letter in piece]
        for piece, number in known.items()
        if piece not in MARKS and len(piece) > 1 and all(letter in known for letter in piece)
    }


def loosen(
    ids: Sequence[int],
    letters: Mapping[int, Sequence[int]],
    config: ScratchConfig,
    chance: random.Random,
) -> list[int]:
    """Ids with a share of the pieces as their characters: a piece dropout, so that words share what
    their characters mean. Not longer than the encoder reads; the last mark stays.
    """
    if not letters:
        return [*ids]
    out: list[int] = []
    for number in ids:
        apart = letters.get(number)
        out += apart if apart and chance.random() < config.loosened else [number]
    return [*out[: config.max_tokens - 1], out[-1]] if len(out) > config.max_tokens else out


def token_tags(
    spans: Sequence[tuple[int, int]],
    entities: Sequence[tuple[int, int, str]] | None,
    place: Mapping[str, int],
) -> list[int]:
    """The tag of each token by its span: 0 outside, odd where an entity begins, even inside of one.

    `place`: a number for each type. IGNORED for marks (spans without width), and everywhere where
    nobody looked.
    """
    tags = [IGNORED if entities is None or start == end else 0 for start, end in spans]
    for first, last, kind in entities or ():
        inside = [i for i, (start, end) in enumerate(spans) if start < last and end > first]
        for i in inside:
            tags[i] = 2 * place[kind] + (1 if i == inside[0] else 2)
    return tags
