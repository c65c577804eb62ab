"""What a language model and its pre-training are made of, as plain data that goes into JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

PAD = 0
"""Fills a chunk; is never predicted."""
START = 1
"""Stands before the first token of a document; is never predicted."""
SPECIAL = 2
"""The first number of a token that stands for text."""


@dataclass(frozen=True, slots=True)
class LMConfig:
    """The shape of a language model: everything that its tensors' shapes follow from.

    `memory`: how retrieved passages are read. `none`: not at all; `cross`: encoded apart and
    attended to by cross-attention, chunk by chunk (RETRO, Borgeaud et al. 2022); `prefix`: by the
    decoder's own layers, visible as a whole before the chunk, whose tokens see what is before them
    (the sequence-to-sequence mask of UniLM, Dong et al. 2019). `copy` adds a pointer to the tokens
    of passages and window.
    """

    vocab: int
    memory: Literal["none", "cross", "prefix"] = "cross"
    copy: bool = True
    dim: int = 256
    layers: int = 4
    heads: int = 4
    window: int = 256  # tokens that a position sees at most, itself included
    chunk: int = 64  # tokens between two retrievals
    k: int = 2  # passages a chunk
    passage_chunks: int = 2  # chunks a passage: the one that was found and what follows it
    encoder_layers: int = 0  # of the passages' encoder (`cross`), after its short convolution
    cross_layers: tuple[int, ...] = (1, 3)  # decoder layers with cross-attention
    copy_dim: int = 128
    copy_layer: int = 2  # after so many layers the window's states are the keys of its tokens

    def __post_init__(self) -> None:
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(f"{self.dim} wide does not divide into {self.heads} even heads")
        if self.window % self.chunk:
            raise ValueError(f"a window of {self.window} is no whole number of {self.chunk}")
        if self.memory == "none" and self.k:
            raise ValueError("a model without memory reads no passages: k is 0")
        if not 0 <= self.copy_layer <= self.layers:
            raise ValueError(f"copy_layer {self.copy_layer} of {self.layers} layers")
        if any(not 0 <= layer < self.layers for layer in self.cross_layers):
            raise ValueError(f"cross_layers {self.cross_layers} of {self.layers} layers")

    @property
    def chunks(self) -> int:
        """Chunks a window."""
        return self.window // self.chunk

    @property
    def passage(self) -> int:
        """Tokens a passage."""
        return self.passage_chunks * self.chunk

    @property
    def encodes(self) -> bool:
        """Whether passages have an encoder of their own."""
        return self.memory == "cross"

    def to_json(self) -> dict[str, Any]:
        """Plain data; the inverse of `from_json`."""
        return dataclasses.asdict(self) | {"cross_layers": list(self.cross_layers)}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> LMConfig:
        """Rebuild from `to_json`.

        Raises:
            TypeError: A field is unknown or missing.
            ValueError: The sizes do not fit together.
        """
        return cls(**{**raw, "cross_layers": tuple(raw["cross_layers"])})


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """One pre-training run."""

    tokens: int = 8_000_000  # tokens to predict, all in all
    batch_tokens: int = 4096  # tokens a step
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float | None = 2e-3  # the highest; for SGD take 0.1 and more
    weight_decay: float = 0.1
    warmup: float = 0.03  # share of the steps
    max_grad_norm: float = 1.0
    drop_retrieval: float = 0.2  # share of the rows that are read without passages
    save_every: int = 200  # steps between two saved states
    evaluate_every: int = 1000  # steps between two looks at held-out text
    evaluate_chunks: int = 512  # held-out chunks of such a look
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)
