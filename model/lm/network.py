"""A decoder-only language model with retrieved passages in view, from the embedding to the loss.

    tokens ids [b, n, c] ── embedding ── blocks (window, passages) ── norm ──┬─ vocabulary (tied)
    passages ids [u, p] ─┴─ encoder, or the blocks themselves ─ keys, values └─ copy head

n chunks of c tokens, each with passages of its own that were found by what stands before it. A
position's state predicts the next token, so inputs are the targets moved by one: the tokens that
are predicted in a chunk, its first included, all see the chunk's passages.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.encoder.rotary import rotations
from model.lm.config import PAD, SPECIAL, LMConfig
from model.lm.copy_head import CopyHead, Targets, full_mixture, target_mixture
from model.lm.layers import (
    NEVER,
    Block,
    CrossAttention,
    KeyValues,
    Norm,
    ShortConvolution,
)


@dataclass(slots=True)
class LMBatch:
    """Rows of n chunks. Where nothing is to be predicted, the target is PAD."""

    inputs: Tensor  # [b, n, c]
    targets: Tensor  # [b, n, c]
    document: Tensor  # [b, n], -1: an empty chunk
    passages: Tensor  # [u, p], distinct, at least one; PAD fills them
    places: Tensor  # [b, n, k], rows of `passages`, -1: none

    def to(self, device: torch.device) -> LMBatch:
        """The batch on a device."""
        parts = (self.inputs, self.targets, self.document, self.passages, self.places)
        return LMBatch(*(part.to(device, non_blocking=True) for part in parts))


@dataclass(slots=True)
class LMMemory:
    """Passages as the decoder reads them, by group."""

    layers: dict[int, KeyValues]  # [b, n, h, m, e]
    hidden: Tensor  # [b, n, 1, 1, m], 0 or NEVER
    ids: Tensor  # [b, n, m]
    copy_keys: Tensor | None = None  # [b, n, m, q]


@dataclass(slots=True)
class Past:
    """What a model keeps of tokens that it has read, so that the next costs one position."""

    layers: list[KeyValues] = field(default_factory=list)
    ids: Tensor | None = None  # [b, s]
    copy_keys: Tensor | None = None  # [b, s, q]
    last: Tensor | None = None  # [b, 1, d], the newest state that keys are made of

    @property
    def length(self) -> int:
        """Tokens kept."""
        return 0 if self.ids is None else self.ids.shape[1]


class RetrievalLM(nn.Module):
    """The network; see the module."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab, config.dim)
        self.embedding_norm = Norm(config.dim)
        crossed = set(config.cross_layers) if config.memory == "cross" else set()
        self.blocks = nn.ModuleList(Block(config, cross=i in crossed) for i in range(config.layers))
        self.norm = Norm(config.dim)
        encoder = config.encoder_layers if config.encodes else 0
        self.convolution = ShortConvolution(config.dim) if config.encodes else None
        self.encoder = nn.ModuleList(Block(config) for _ in range(encoder))
        self.encoder_norm = Norm(config.dim) if config.encodes else None
        self.copy = CopyHead(config) if config.copy else None
        self.apply(_start)
        for name, parameter in self.named_parameters():
            if name.endswith(("out.weight", "down.weight")):  # blocks begin as the identity
                nn.init.zeros_(parameter)

    def forward(self, batch: LMBatch) -> Tensor:
        """Log-probabilities [b, n, c] of the targets, in nats; 0 where the target is PAD."""
        memory = self.read(batch.passages, batch.places)
        near = window_bias(batch.document, batch.inputs.shape[-1])
        x, targets, _ = self.decode(batch.inputs, near, memory)
        said = batch.targets >= SPECIAL
        # The vocabulary is the dearest part: nothing is computed for the padding.
        wanted = batch.targets[said]
        logits = self._logits(x[said])
        # PAD and START are never predicted: they are left out of the sum.
        log_probs = -F.cross_entropy(logits[:, SPECIAL:], wanted - SPECIAL, reduction="none")
        out = x.new_zeros(batch.targets.shape, dtype=torch.float32).masked_scatter(said, log_probs)
        if self.copy is None or targets is None:
            return out
        mixed = target_mixture(self.copy(x, targets), out, batch.targets, targets)
        return mixed.masked_fill(~said, 0.0)

    def read(self, passages: Tensor, places: Tensor) -> LMMemory:
        """Encode distinct passages [u, p] and lay them before the groups [b, n, k] that see them.

        Groups without a passage are normal: what is hidden of them is all of it.
        """
        there = (passages != PAD)[places.clamp(min=0)] & (places >= 0)[..., None]
        hidden = _bias(there.flatten(2))  # [b, n, m]
        memory = LMMemory({}, hidden[:, :, None, None], passages[places.clamp(min=0)].flatten(2))
        if self.config.memory == "none" or not places.shape[-1]:
            return memory
        x = self.embedding_norm(self.embedding(passages))
        kept: dict[int, KeyValues] = {}
        if self.encoder_norm is not None and self.convolution is not None:
            x = self.convolution(x)
            for block in self.encoder:
                x = self._within(block, x, passages)[0]
            x = self.encoder_norm(x)
            kept = {i: cross.keep(x) for i, cross in self._crossed()}
            states = x
        else:
            states = x
            for i, block in enumerate(self.blocks):
                x, kept[i] = self._within(block, x, passages)
                if i + 1 == self.config.copy_layer:
                    states = x
        memory.layers = {i: _placed(kv, places) for i, kv in kept.items()}
        keys = self.copy.far_keys(states) if self.copy is not None else None
        if keys is not None:
            memory.copy_keys = keys[places.clamp(min=0)].flatten(2, 3)
        return memory

    def _crossed(self) -> Iterator[tuple[int, CrossAttention]]:
        for i, block in enumerate(self.blocks):
            if isinstance(block, Block) and block.cross is not None:
                yield i, block.cross

    def _within(self, block: nn.Module, x: Tensor, ids: Tensor) -> tuple[Tensor, KeyValues]:
        """One block over passages, each of which sees itself whole."""
        assert isinstance(block, Block)
        length = ids.shape[1]
        turn = rotations(torch.arange(-length, 0, device=ids.device), block.attention.size)
        y = block.attention_norm(x)[:, None]
        y, kept = block.attention(y, _bias(ids != PAD)[:, None, None], turn)
        x = x + y[:, 0]
        return x + block.mlp(x), kept

    def decode(
        self, inputs: Tensor, near: Tensor, memory: LMMemory, past: Past | None = None
    ) -> tuple[Tensor, Targets | None, Past]:
        """States [b, n, c, d] of inputs [b, n, c], what can be copied, and the past with them.

        `near` [b, t, s]: 0 where a new token sees one of past and new, NEVER where it does not.
        """
        config, past = self.config, past or Past()
        _, n, c = inputs.shape
        at = torch.arange(past.length, past.length + n * c, device=inputs.device)
        size = config.dim // config.heads
        turn, turn_far = rotations(at, size), rotations(at % config.chunk, size)
        x = self.embedding_norm(self.embedding(inputs))
        states, layers = x, []
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            there = memory.layers.get(i)
            far = None
            if there is not None and block.cross is None:
                far = (there, memory.hidden, turn_far)
            y, kept = block.attention(
                block.attention_norm(x), near[:, None], turn,
                past.layers[i] if past.layers else None, far,
            )  # fmt: skip
            layers.append(kept)
            x = x + y
            if block.cross is not None and block.cross_norm is not None and there is not None:
                x = x + block.cross(block.cross_norm(x), there, memory.hidden)
            x = x + block.mlp(x)
            if i + 1 == config.copy_layer:
                states = x
        x = self.norm(x)
        ids = inputs.flatten(1)
        whole = ids if past.ids is None else torch.cat([past.ids, ids], 1)
        if self.copy is None:
            return x, None, Past(layers, whole)
        flat = states.flatten(1, 2)
        keys = self.copy.near_keys(flat, past.last)
        if past.copy_keys is not None:
            keys = torch.cat([past.copy_keys, keys], 1)
        targets = Targets(
            keys, whole, near.masked_fill((whole < SPECIAL)[:, None], NEVER).float(),
            memory.copy_keys, memory.ids, memory.hidden[:, :, 0, 0].float(),
        )  # fmt: skip
        return x, targets, Past(layers, whole, keys, flat[:, -1:])

    def _logits(self, x: Tensor) -> Tensor:
        if self.training:
            return F.linear(x, self.embedding.weight).float()
        # Half precision would blur what is measured.
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.embedding.weight.float())

    def log_probs(self, x: Tensor, targets: Targets | None) -> Tensor:
        """Log-probabilities [b, n, c, v] of every token after the states x."""
        logits = self._logits(x)
        logits[..., :SPECIAL] = NEVER
        said = logits.log_softmax(-1)
        if self.copy is None or targets is None:
            return said
        return full_mixture(self.copy(x, targets), said, targets)


def window_bias(document: Tensor, size: int) -> Tensor:
    """[b, t, t] for rows of chunks [b, n] of `size`: what is before, of the same document."""
    of = document.repeat_interleave(size, 1)
    t = of.shape[1]
    before = torch.ones(t, t, dtype=torch.bool, device=of.device).tril()
    return _bias(before & (of[:, :, None] == of[:, None, :]))


def _bias(seen: Tensor) -> Tensor:
    return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, NEVER)


def _placed(kept: KeyValues, places: Tensor) -> KeyValues:
    """Of passages [u, h, p, e] those of each group [b, n, k], laid end to end: [b, n, h, m, e]."""
    rows = places.clamp(min=0)

    def lay(x: Tensor) -> Tensor:
        return x[rows].transpose(2, 3).flatten(3, 4)

    return KeyValues(lay(kept.keys), lay(kept.values))


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.weight.shape[1] ** -0.5)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
