"""Running a language model token by token, several texts in each forward pass.

The model and the cache's protocol are `transformers`' own. A `DecoderState` holds the caches of
several rows in one, padded on the left, so that rows of different lengths share a forward pass;
rows join and leave between any two steps (continuous batching: Yu et al. 2022, Orca).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

ROOM = 64  # tokens by which a cache grows, at least
SAME = 0.05  # largest mean difference of logits, in their deviations, of a row in company


class GrowingLayer(DynamicLayer):
    """One layer's keys and values [b, heads, t, d], in buffers with room for more tokens.

    `DynamicLayer` copies everything at each token; this one when the room is used up. The first
    tokens, which mostly are a whole prompt, are held as they come: its first token waits for this.
    """

    _room: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add new tokens [b, heads, n, d]; all keys and values, as views of the buffers."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        old = self.get_seq_length()
        if not old:
            self.keys, self.values, self._room = key_states, value_states, None
            return key_states, value_states
        end = old + key_states.shape[-2]
        if self._room is None or end > self._room[0].shape[-2]:
            size = end + max(ROOM, end // 4)
            self._room = (_grown(self.held()[0], size), _grown(self.held()[1], size))
        keys, values = self._room
        keys[:, :, old:end] = key_states
        values[:, :, old:end] = value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def held(self) -> tuple[Tensor, Tensor]:
        """The keys and values of a layer that has seen a token."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def replace(self, keys: Tensor, values: Tensor) -> None:
        """Hold these keys and values instead."""
        self.dtype, self.device = keys.dtype, keys.device
        self.keys, self.values, self._room, self.is_initialized = keys, values, None, True


def _grown(held: Tensor, size: int) -> Tensor:
    buffer = held.new_empty((*held.shape[:2], size, held.shape[3]))
    buffer[:, :, : held.shape[2]] = held
    return buffer


@dataclass(slots=True)
class DecoderState:
    """What rows have read so far.

    ``mask`` [b, t] is true on tokens in the cache; ``encoded`` [b, s, d] with ``encoded_mask``
    [b, s] are the encoder's states, for a model that has one.
    """

    cache: Any
    mask: Tensor
    encoded: Tensor | None = None
    encoded_mask: Tensor | None = None

    def layers(self) -> tuple[list[GrowingLayer], list[GrowingLayer]]:
        """The layers of self-attention, and of attention to an encoder."""
        if isinstance(self.cache, EncoderDecoderCache):
            first, second = self.cache.self_attention_cache, self.cache.cross_attention_cache
            return cast("Any", first.layers), cast("Any", second.layers)
        return self.cache.layers, []

    def selected(self, rows: Sequence[int]) -> DecoderState:
        """Only these rows, without the padding that all of them have."""
        chosen = torch.tensor(rows, device=self.mask.device)
        mask = self.mask[chosen]
        lead = int(mask.any(0).to(torch.uint8).argmax()) if mask.shape[1] else 0
        for start, layers in zip((lead, 0), self.layers(), strict=True):
            for layer in layers:
                keys, values = layer.held()
                layer.replace(keys[chosen, :, start:], values[chosen, :, start:])
        self.mask = mask[:, lead:]
        if self.encoded is not None and self.encoded_mask is not None:
            self.encoded, self.encoded_mask = self.encoded[chosen], self.encoded_mask[chosen]
        return self

    def joined(self, other: DecoderState) -> DecoderState:
        """The rows of both in one state; the shorter one's are padded on the left."""
        for mine, others in zip(self.layers(), other.layers(), strict=True):
            for layer, more in zip(mine, others, strict=True):
                (keys, values), (more_keys, more_values) = layer.held(), more.held()
                layer.replace(_joined(keys, more_keys, 2), _joined(values, more_values, 2))
        self.mask = _joined(self.mask, other.mask, 1)
        if self.encoded is not None and other.encoded is not None:
            self.encoded = _joined(self.encoded, other.encoded, 1)
        if self.encoded_mask is not None and other.encoded_mask is not None:
            self.encoded_mask = _joined(self.encoded_mask, other.encoded_mask, 1)
        return self


def _joined(first: Tensor, second: Tensor, dim: int) -> Tensor:
    """Rows of both, padded with zeros in front along `dim` to one length."""
    size = max(first.shape[dim], second.shape[dim])

    def padded(x: Tensor) -> Tensor:
        sides = [0, 0] * (x.dim() - 1 - dim) + [size - x.shape[dim], 0]
        return F.pad(x, sides)

    return torch.cat([padded(first), padded(second)])


class Decoder:
    """A causal or sequence-to-sequence model of `transformers`, run step by step."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.seq2seq = bool(model.config.is_encoder_decoder)
        weight = next(model.parameters())
        self.device: torch.device = weight.device
        takes = inspect.signature(model.forward).parameters
        self._positions = "position_ids" in takes
        self._keeps = "logits_to_keep" in takes
        self.start = _start_token(model) if self.seq2seq else None
        self.shares = False  # until `check` has shown that rows may share a pass

    @torch.inference_mode()
    def read(
        self, ids: Sequence[int], sizes: Iterator[int]
    ) -> Iterator[tuple[DecoderState, Tensor]]:
        """Read a prompt in parts of the given sizes; after each the state and the last logits [V].

        The last pair is that of the whole prompt. An encoder reads it at once.
        """
        if self.seq2seq:
            mask = torch.ones((1, len(ids)), dtype=torch.bool, device=self.device)
            encoder = self.model.get_encoder()
            given = torch.tensor([list(ids)], device=self.device)
            encoded = encoder(input_ids=given, attention_mask=mask.long()).last_hidden_state
            cache = EncoderDecoderCache(_empty(), _empty())
            state = DecoderState(cache, mask[:, :0], encoded, mask)
            yield state, self.step(state, [self.start or 0])[0]
            return
        empty = torch.ones((1, 0), dtype=torch.bool, device=self.device)
        state = DecoderState(_empty(), empty)
        begin = 0
        while begin < len(ids):
            end = min(len(ids), begin + max(1, next(sizes)))
            logits = self._forward(state, torch.tensor([list(ids[begin:end])], device=self.device))
            yield state, logits[0, -1]
            begin = end

    @torch.inference_mode()
    def step(self, state: DecoderState, tokens: Sequence[int]) -> Tensor:
        """One token for each row -> logits [b, V] of the next."""
        ids = torch.tensor(tokens, device=self.device)[:, None]
        return self._forward(state, ids)[:, -1]

    @torch.inference_mode()
    def follow(self, state: DecoderState, ids: Sequence[int]) -> Tensor:
        """Tokens that are known, for a state of one row -> logits [n, V], each of the next."""
        return self._forward(state, torch.tensor([list(ids)], device=self.device), keep=len(ids))[0]

    def _forward(self, state: DecoderState, ids: Tensor, keep: int = 1) -> Tensor:
        count, width = ids.shape
        mask = torch.cat([state.mask, state.mask.new_ones((count, width))], 1)
        given: dict[str, Any] = {"past_key_values": state.cache, "use_cache": True}
        padded = not bool(mask.all())
        if self.seq2seq:
            given |= {
                "decoder_input_ids": ids,
                "encoder_outputs": BaseModelOutput(last_hidden_state=state.encoded),
                "attention_mask": None if state.encoded_mask is None else state.encoded_mask.long(),
                "decoder_attention_mask": mask.long() if padded else None,
            }
        else:
            given["input_ids"] = ids
            if padded:
                given["attention_mask"] = mask.long()
            if padded and self._positions:
                given["position_ids"] = (mask.long().cumsum(1) - 1)[:, -width:]
            if self._keeps:
                given["logits_to_keep"] = keep
        logits: Tensor = self.model(**given).logits
        state.mask = mask
        return logits[:, -keep:].float()

    def check(self, long: Sequence[int], short: Sequence[int]) -> None:
        """Run two prompts apart and together: whether rows may share a pass (`shares`).

        Not every model keeps its positions when a row is padded in front. Raises what the model
        raises where it cannot be run like this at all.
        """
        # The first has some tokens more when the second comes, as happens to an encoder's too.
        further = (long[:3], ())
        prompts = (long, short)
        apart = [
            self.step(self._after(ids, more), [ids[-1]])[0]
            for ids, more in zip(prompts, further, strict=True)
        ]
        states = [self._after(ids, more) for ids, more in zip(prompts, further, strict=True)]
        together = self.step(states[0].joined(states[1]), [ids[-1] for ids in prompts])
        off = [
            float((together[i] - apart[i]).abs().mean() / apart[i].std().clamp_min(1e-6))
            for i in range(2)
        ]
        self.shares = max(off) < SAME

    def _after(self, ids: Sequence[int], more: Sequence[int]) -> DecoderState:
        """The state after a prompt and some tokens."""
        *_, (state, _) = self.read(ids, iter(lambda: 16, None))
        for token in more:
            self.step(state, [token])
        return state


def _empty() -> Cache:
    return Cache(layer_class_to_replicate=GrowingLayer)


def _start_token(model: Any) -> int:
    for config in (model.generation_config, model.config):
        for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
            token = getattr(config, name, None)
            if isinstance(token, int):
                return token
    return 0
