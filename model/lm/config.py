"""What a language model and its pre-training are made of, as plain data that goes into JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

PAD = 0
"""Fills a chunk; is never predicted."""
START = 1
"""Stands before the first token of a document; is never predicted."""
SPECIAL = 2
"""The first number of a token that stands for text."""


REMOVED: Final[Mapping[str, tuple[object, ...]]] = {
    "memory": ("cross", "none"), "copy": (True,), "cross_layers": ([],), "encoder_layers": (0,),
}  # fmt: skip
"""Fields of checkpoints up to commit 397991a, with the values that mean today's network.

Other values are forms of reading passages that were compared and removed.
"""


@dataclass(frozen=True, slots=True)
class LMConfig:
    """The shape of a language model: everything that its tensors' shapes follow from.

    `k` 0 is a model that reads no passages; its copy head points into the window alone.
    """

    vocab: int
    dim: int = 256
    layers: int = 4
    heads: int = 4
    window: int = 256  # tokens that a position sees at most, itself included
    chunk: int = 64  # tokens between two retrievals
    k: int = 2  # passages a chunk
    passage_chunks: int = 2  # chunks a passage: the one that was found and what follows it
    copy_dim: int = 128
    copy_layer: int = 2  # after so many layers the window's states are the keys of its tokens

    def __post_init__(self) -> None:
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(f"{self.dim} wide does not divide into {self.heads} even heads")
        if self.window % self.chunk:
            raise ValueError(f"a window of {self.window} is no whole number of {self.chunk}")
        if not 0 <= self.copy_layer <= self.layers:
            raise ValueError(f"copy_layer {self.copy_layer} of {self.layers} layers")

    @property
    def chunks(self) -> int:
        """Chunks a window."""
        return self.window // self.chunk

    @property
    def passage(self) -> int:
        """Tokens a passage."""
        return self.passage_chunks * self.chunk

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> LMConfig:
        """Rebuild from `dataclasses.asdict`, of this version or an earlier one.

        Raises:
            TypeError: A field is unknown or missing.
            ValueError: The sizes do not fit together, or the form was removed.
        """
        shape = dict(raw)
        for name, values in REMOVED.items():
            if name in shape and (value := shape.pop(name)) not in values:
                raise ValueError(
                    f"{name} is {value!r}: this form of reading passages was removed, "
                    "commit 397991a is the last that reads it; pre-train the model again"
                )
        return cls(**shape)


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
    evaluate_every: int = 1000  # steps between two measurements on held-out text
    evaluate_chunks: int = 512  # held-out chunks of such a measurement
    seed: int = 0
