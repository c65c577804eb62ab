"""BERT's layers written out, and RoFormer's, which differ in their places alone."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.encoder.adapter import LayerAdapter, Shapes
from model.encoder.rotary import halves, rotate, rotations


class BertLayer:
    """One post-norm encoder layer (Devlin et al. 2018), with an optional adapter.

    `turned`: its queries and keys are turned by their places (Su et al. 2021).
    """

    def __init__(self, layer: Any, heads: int, *, turned: bool = False) -> None:
        attention, own = layer.attention, layer.attention.self
        self.heads = heads
        weights = [part.weight.data for part in (own.query, own.key, own.value)]
        biases = [part.bias.data for part in (own.query, own.key, own.value)]
        if turned:
            weights[:2] = [halves(part, heads) for part in weights[:2]]
            biases[:2] = [halves(part, heads) for part in biases[:2]]
        # One product instead of three; the same numbers.
        self.w_qkv = torch.cat(weights)
        self.b_qkv = torch.cat(biases)
        self.out: nn.Linear = attention.output.dense
        self.norm1: nn.LayerNorm = attention.output.LayerNorm
        self.up: nn.Linear = layer.intermediate.dense
        self.act = layer.intermediate.intermediate_act_fn
        self.down: nn.Linear = layer.output.dense
        self.norm2: nn.LayerNorm = layer.output.LayerNorm

    def __call__(
        self, h: Tensor, bias: Tensor | None, turn: Tensor | None, adapter: LayerAdapter | None
    ) -> Tensor:
        """States [b, t, d], attention bias [b, 1, 1, t] (0 or -inf), `rotations` -> [b, t, d]."""
        b, t, d = h.shape
        qkv = F.linear(h, self.w_qkv, self.b_qkv)  # [b, t, 3d]
        if adapter is not None:
            changes = [adapter.change(name, h) for name in ("query", "key", "value")]
            qkv = qkv + torch.cat(changes, dim=-1)
        q, k, v = qkv.view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        if torch.is_grad_enabled() and qkv.requires_grad:
            # On CPU the fused kernel's backward is slower than these three products.
            weights = q @ k.transpose(-1, -2) * (d // self.heads) ** -0.5  # [b, heads, t, t]
            mixed = (weights if bias is None else weights + bias).softmax(-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        mixed = mixed.transpose(1, 2).reshape(b, t, d)
        out = self.out(mixed)
        if adapter is not None:
            out = out + adapter.change("out", mixed)
        h = self.norm1(out + h)
        up = self.up(h)
        if adapter is not None:
            up = up + adapter.change("up", h)
        up = self.act(up)
        down = self.down(up)
        if adapter is not None:
            down = down + adapter.change("down", up)
        normed: Tensor = self.norm2(down + h)
        return normed

    def folded(self, adapter: LayerAdapter) -> BertLayer:
        """This layer with an adapter in its weights."""
        other = copy.copy(self)
        parts = zip(("query", "key", "value"), self.w_qkv.chunk(3), strict=True)
        other.w_qkv = torch.cat([adapter.of(name).folded(part) for name, part in parts])
        for name in ("out", "up", "down"):
            linear: nn.Linear = copy.deepcopy(getattr(self, name))
            linear.weight.data = adapter.of(name).folded(linear.weight.data)
            setattr(other, name, linear)
        return other


class BertStack:
    """BERT, RoBERTa and RoFormer, whose layers have the same parts."""

    def __init__(self, model: Any) -> None:
        config = model.config
        d, hidden = config.hidden_size, config.intermediate_size
        self.shapes: Shapes = {
            **dict.fromkeys(("query", "key", "value", "out"), (d, d)),
            "up": (d, hidden),
            "down": (hidden, d),
        }
        self.embeddings = model.embeddings
        heads = config.num_attention_heads
        self.size: int | None = d // heads if config.model_type == "roformer" else None
        self.layers = [
            BertLayer(layer, heads, turned=self.size is not None) for layer in model.encoder.layer
        ]
        self.depth = len(self.layers)

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether a model's layers are BERT's or RoFormer's, without cross-attention."""
        layers = getattr(getattr(model, "encoder", None), "layer", None) or [None]
        attention = getattr(getattr(layers[0], "attention", None), "self", None)
        config = model.config
        return (
            config.model_type
            in ("bert", "roberta", "xlm-roberta", "camembert", "electra", "roformer")
            and hasattr(attention, "query")
            and hasattr(layers[0], "intermediate")
            and getattr(config, "position_embedding_type", "absolute") in ("absolute", None)
            and not getattr(config, "is_decoder", False)
            and not getattr(config, "rotary_value", False)
            and getattr(config, "embedding_size", config.hidden_size) == config.hidden_size
        )

    def embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        """See `model.encoder.stacks.Stack`."""
        states: Tensor = self.embeddings(input_ids=ids)
        return states

    def run(self, h: Tensor, mask: Tensor, start: int, stop: int, adapters: list[Any]) -> Tensor:
        """See `model.encoder.stacks.Stack`."""
        bias = turn = None
        if self.size is not None:
            turn = rotations(torch.arange(h.shape[1], device=h.device), self.size)
        if not bool(mask.all()):
            bias = torch.zeros(mask.shape, dtype=h.dtype, device=mask.device)
            bias = bias.masked_fill(~mask, float("-inf"))[:, None, None, :]
        first = self.depth - len(adapters)
        for i in range(start, stop):
            own = adapters[i - first] if i >= first else None
            if isinstance(own, BertLayer):
                h = own(h, bias, turn, None)
            else:
                h = self.layers[i](h, bias, turn, own)
        return h

    @torch.no_grad()
    def fold(self, adapters: list[LayerAdapter]) -> list[Any] | None:
        """See `model.encoder.stacks.Stack`."""
        own = self.layers[self.depth - len(adapters) :]
        return [layer.folded(part) for layer, part in zip(own, adapters, strict=True)]
