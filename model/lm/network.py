"""A decoder-only language model with retrieved passages in view, from the embedding to the loss.

    tokens ids [b, n, c] ── embedding ── blocks over the window ── norm ──┬─ vocabulary (tied)
    passages ids [u, p] ─── embedding ── short convolution ─── norm ──────┴─ copy head

n chunks of c tokens, each with passages of its own that were found by what stands before it. A
position's state predicts the next token, so inputs are the targets moved by one: the tokens that
are predicted in a chunk, its first included, all see the chunk's passages. Passages are read by
the copy head alone: the form that won at equal compute (docs/language-model.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.encoder.rotary import rotations
from model.lm.config import PAD, SPECIAL, LMConfig
from model.lm.copy_head import CopyHead, Targets, full_mixture, target_mixture
from model.lm.layers import NEVER, Block, KeyValues, Norm, ShortConvolution


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
    """Each group's passages as the copy head reads them; m is 0 where none are ever read."""

    keys: Tensor  # [b, n, m, q]
    ids: Tensor  # [b, n, m]
    hidden: Tensor  # [b, n, m], 0 or NEVER


@dataclass(slots=True)
class Past:
    """What a model keeps of tokens that it has read, so that the next costs one position."""

    layers: list[KeyValues]
    ids: Tensor  # [b, s]
    copy_keys: Tensor  # [b, s, q]
    last: Tensor  # [b, 1, d], the newest state that keys are made of


class RetrievalLM(nn.Module):
    """The network; see the module."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab, config.dim)
        self.embedding_norm = Norm(config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = Norm(config.dim)
        # The names are those in a checkpoint.
        self.convolution = ShortConvolution(config.dim) if config.k else None
        self.encoder_norm = Norm(config.dim) if config.k else None
        self.copy = CopyHead(config)
        self.apply(_start)
        for name, parameter in self.named_parameters():
            if name.endswith(("out.weight", "down.weight")):  # blocks begin as the identity
                nn.init.zeros_(parameter)

    def forward(self, batch: LMBatch) -> Tensor:
        """Log-probabilities [b, n, c] of the targets, in nats; 0 where the target is PAD."""
        memory = self.read(batch.passages, batch.places)
        near = window_bias(batch.document, batch.inputs.shape[-1])
        x, targets, _ = self.decode(batch.inputs.flatten(1), near, memory)
        ids = batch.targets.flatten(1)  # [b, t]
        predicted = ids >= SPECIAL
        # The vocabulary is the dearest part: nothing is computed for the padding.
        logits = self._logits(x[predicted])
        # PAD and START are never predicted: they are left out of the sum.
        log_probs = -F.cross_entropy(
            logits[:, SPECIAL:], ids[predicted] - SPECIAL, reduction="none"
        )
        out = x.new_zeros(ids.shape, dtype=torch.float32).masked_scatter(predicted, log_probs)
        mixed = target_mixture(self.copy(x, targets), out, ids, targets)
        return mixed.masked_fill(~predicted, 0.0).view_as(batch.targets)

    def read(self, passages: Tensor, places: Tensor) -> LMMemory:
        """Encode distinct passages [u, p] and lay them before the groups [b, n, k] that see them.

        Groups without a passage are normal: what is hidden of them is all of it.
        """
        if self.convolution is None or self.encoder_norm is None:
            none = places[..., :0]
            keys = torch.zeros(*none.shape, self.config.copy_dim, device=places.device)
            return LMMemory(keys, none, _bias(none >= 0))
        x = self.convolution(self.embedding_norm(self.embedding(passages)))
        rows = places.clamp(min=0)
        keys = self.copy.far_keys(self.encoder_norm(x))[rows]  # [b, n, k, p, q]
        seen = (passages != PAD)[rows] & (places >= 0)[..., None]
        return LMMemory(keys.flatten(2, 3), passages[rows].flatten(2), _bias(seen.flatten(2)))

    def decode(
        self, ids: Tensor, near: Tensor, memory: LMMemory, past: Past | None = None
    ) -> tuple[Tensor, Targets, Past]:
        """States [b, t, d] of new tokens [b, t], what can be copied, and the past with them.

        `near` [b, t, s]: 0 where a new token sees one of past and new, NEVER where it does not.
        """
        config, read = self.config, 0 if past is None else past.ids.shape[1]
        positions = torch.arange(read, read + ids.shape[1], device=ids.device)
        turn = rotations(positions, config.dim // config.heads)
        x = self.embedding_norm(self.embedding(ids))
        states, layers = x, []
        for i, block in enumerate(self.blocks):
            x, seen = block(x, near[:, None], turn, None if past is None else past.layers[i])
            layers.append(seen)
            if i + 1 == config.copy_layer:
                states = x
        x = self.norm(x)
        keys = self.copy.near_keys(states, None if past is None else past.last)
        if past is not None:
            ids, keys = torch.cat([past.ids, ids], 1), torch.cat([past.copy_keys, keys], 1)
        targets = Targets(
            keys, ids, near.masked_fill((ids < SPECIAL)[:, None], NEVER).float(),
            memory.keys, memory.ids, memory.hidden.float(),
        )  # fmt: skip
        return x, targets, Past(layers, ids, keys, states[:, -1:])

    def _logits(self, x: Tensor) -> Tensor:
        if self.training:
            return F.linear(x, self.embedding.weight).float()
        # Half precision would blur what is measured.
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.embedding.weight.float())

    def log_probs(self, x: Tensor, targets: Targets) -> Tensor:
        """Log-probabilities [b, t, v] of every token after the states x [b, t, d]."""
        logits = self._logits(x)
        logits[..., :SPECIAL] = NEVER
        return full_mixture(self.copy(x, targets), logits.log_softmax(-1), targets)


def window_bias(document: Tensor, size: int) -> Tensor:
    """[b, t, t] for rows of chunks [b, n] of `size`: what is before, of the same document."""
    of = document.repeat_interleave(size, 1)
    t = of.shape[1]
    before = torch.ones(t, t, dtype=torch.bool, device=of.device).tril()
    return _bias(before & (of[:, :, None] == of[:, None, :]))


def _bias(seen: Tensor) -> Tensor:
    return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, NEVER)


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.weight.shape[1] ** -0.5)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
