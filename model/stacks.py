"""An encoder's layers, one by one: BERT's written out, any other's as the library runs them.

A head's adapter reaches into single layers, and the lower layers are shared by all heads; so a
model is taken apart into embeddings, layers, and what comes after the last one.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.adapter import LayerAdapter, Shapes


class Stack(Protocol):
    """A frozen encoder taken apart. States are [b, t, d], masks [b, t] (true on tokens)."""

    shapes: Shapes
    depth: int

    def embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ids [b, t] -> states before the first layer."""

    def run(self, h: Tensor, mask: Tensor, start: int, stop: int, adapters: list[Any]) -> Tensor:
        """Run layers `start` to `stop`.

        `adapters`: of the topmost layers of all, a `LayerAdapter` each, or what `fold` made of it.
        """

    def fold(self, adapters: list[LayerAdapter]) -> list[Any] | None:
        """The adapters as layers that have them in their weights; None: it cannot."""


class BertLayer:
    """One post-norm encoder layer (Devlin et al. 2018), with an optional adapter."""

    def __init__(self, layer: Any, heads: int) -> None:
        attention, own = layer.attention, layer.attention.self
        parts = (own.query, own.key, own.value)
        self.heads = heads
        # One product instead of three; the same numbers.
        self.w_qkv: Tensor = torch.cat([p.weight.data for p in parts])
        self.b_qkv: Tensor = torch.cat([p.bias.data for p in parts])
        self.out: nn.Linear = attention.output.dense
        self.norm1: nn.LayerNorm = attention.output.LayerNorm
        self.up: nn.Linear = layer.intermediate.dense
        self.act = layer.intermediate.intermediate_act_fn
        self.down: nn.Linear = layer.output.dense
        self.norm2: nn.LayerNorm = layer.output.LayerNorm

    def __call__(self, h: Tensor, bias: Tensor | None, adapter: LayerAdapter | None) -> Tensor:
        """States [b, t, d] and attention bias [b, 1, 1, t] (0 or -inf) -> [b, t, d]."""
        b, t, d = h.shape
        qkv = F.linear(h, self.w_qkv, self.b_qkv)  # [b, t, 3d]
        if adapter is not None:
            changes = [adapter.change(name, h) for name in ("query", "key", "value")]
            qkv = qkv + torch.cat(changes, dim=-1)
        q, k, v = qkv.view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
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
    """BERT and RoBERTa, whose layers have the same parts."""

    def __init__(self, model: Any) -> None:
        config = model.config
        d, hidden = config.hidden_size, config.intermediate_size
        self.shapes: Shapes = {
            **dict.fromkeys(("query", "key", "value", "out"), (d, d)),
            "up": (d, hidden),
            "down": (hidden, d),
        }
        self.embeddings = model.embeddings
        self.layers = [
            BertLayer(layer, config.num_attention_heads) for layer in model.encoder.layer
        ]
        self.depth = len(self.layers)

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether a model's layers are BERT's, without relative positions or cross-attention."""
        layers = getattr(getattr(model, "encoder", None), "layer", None) or [None]
        attention = getattr(getattr(layers[0], "attention", None), "self", None)
        config = model.config
        return (
            config.model_type in ("bert", "roberta", "xlm-roberta", "camembert", "electra")
            and hasattr(attention, "query")
            and hasattr(layers[0], "intermediate")
            and getattr(config, "position_embedding_type", "absolute") in ("absolute", None)
            and not getattr(config, "is_decoder", False)
            and getattr(config, "embedding_size", config.hidden_size) == config.hidden_size
        )

    def embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        """See `Stack`."""
        states: Tensor = self.embeddings(input_ids=ids)
        return states

    def run(self, h: Tensor, mask: Tensor, start: int, stop: int, adapters: list[Any]) -> Tensor:
        """See `Stack`."""
        bias = None
        if not bool(mask.all()):
            bias = torch.zeros(mask.shape, dtype=h.dtype, device=mask.device)
            bias = bias.masked_fill(~mask, float("-inf"))[:, None, None, :]
        first = self.depth - len(adapters)
        for i in range(start, stop):
            own = adapters[i - first] if i >= first else None
            if isinstance(own, BertLayer):
                h = own(h, bias, None)
            else:
                h = self.layers[i](h, bias, own)
        return h

    @torch.no_grad()
    def fold(self, adapters: list[LayerAdapter]) -> list[Any] | None:
        """See `Stack`."""
        own = self.layers[self.depth - len(adapters) :]
        return [layer.folded(part) for layer, part in zip(own, adapters, strict=True)]


@dataclass(slots=True)
class _Rehearsal:
    """A pass in which no layer does its work: what each would have been called with."""

    result: Tensor | None = None  # what the last layer is to give back; None: what it got
    first: Tensor | None = None  # what the first layer got: the embeddings
    calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)


class LibraryStack:
    """Any bidirectional encoder of `transformers` that keeps its layers in one list.

    Each layer is called with what the library itself would call it with (masks, rotary positions),
    learned from a rehearsal in which the layers only take notes. Adapters come in by hooks on the
    layers' linear parts. State of a pass is kept by thread: forks share the modules.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.layers = _find_layers(model)
        self.depth = len(self.layers)
        self._state = threading.local()
        self._work: list[Callable[..., Any]] = [layer.forward for layer in self.layers]
        self._extras = self._count_extras()
        self.shapes: Shapes = {}
        for i, layer in enumerate(self.layers):
            layer.forward = self._stand_in(i)
            linears = {n: m for n, m in layer.named_modules() if isinstance(m, nn.Linear)}
            shapes = {
                name.replace(".", "_"): (m.in_features, m.out_features)
                for name, m in linears.items()
            }
            if i and shapes != self.shapes:
                raise ValueError("its layers differ from each other in shape")
            self.shapes = shapes
            for name, module in linears.items():
                module.register_forward_hook(self._hook(name.replace(".", "_")))
        probe = self._rehearse(torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2).bool(), None)
        given = probe.first
        if given is None or given.dim() != 3 or len(probe.calls) != self.depth:
            raise ValueError("its layers are not called one after the other")

    def embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        """See `Stack`."""
        first = self._rehearse(ids, mask, None).first
        assert first is not None
        return first

    def run(self, h: Tensor, mask: Tensor, start: int, stop: int, adapters: list[Any]) -> Tensor:
        """See `Stack`. After the last layer comes what the model does there (a norm, mostly)."""
        ids = torch.zeros(mask.shape, dtype=torch.long, device=mask.device)
        calls = self._rehearse(ids, mask, None).calls
        first = self.depth - len(adapters)
        for i in range(start, stop):
            self._state.adapter = adapters[i - first] if i >= first else None
            try:
                arguments, named = calls[i]
                out = self._work[i](h, *arguments, **named)
            finally:
                self._state.adapter = None
            h = out if self._extras is None else out[0]
        if start < stop == self.depth:
            with self._rehearsing(_Rehearsal(result=h)):
                h = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return h

    def fold(self, adapters: list[LayerAdapter]) -> list[Any] | None:
        """See `Stack`."""
        return None

    def _rehearse(self, ids: Tensor, mask: Tensor, result: Tensor | None) -> _Rehearsal:
        rehearsal = _Rehearsal(result)
        with torch.no_grad(), self._rehearsing(rehearsal):
            self.model(input_ids=ids, attention_mask=mask.long())
        return rehearsal

    @contextmanager
    def _rehearsing(self, rehearsal: _Rehearsal) -> Iterator[None]:
        self._state.rehearsal = rehearsal
        try:
            yield
        finally:
            self._state.rehearsal = None

    def _count_extras(self) -> tuple[None, ...] | None:
        """Placeholders for what a layer gives back beside its states; None: no tuple."""
        seen: list[Any] = []
        hook = self.layers[0].register_forward_hook(lambda module, given, out: seen.append(out))
        with torch.no_grad():
            self.model(input_ids=torch.zeros(1, 2, dtype=torch.long))
        hook.remove()
        if not seen:
            raise ValueError("its layers are not called")
        return (None,) * (len(seen[0]) - 1) if isinstance(seen[0], tuple) else None

    def _stand_in(self, i: int) -> Callable[..., Any]:
        def forward(*arguments: Any, **named: Any) -> Any:
            rehearsal: _Rehearsal | None = getattr(self._state, "rehearsal", None)
            if rehearsal is None:
                return self._work[i](*arguments, **named)
            if arguments:
                h, arguments = arguments[0], arguments[1:]
            else:
                h = named.pop("hidden_states")
            rehearsal.calls[i] = arguments, named
            if i == 0:
                rehearsal.first = h
            if i == self.depth - 1 and rehearsal.result is not None:
                h = rehearsal.result
            return h if self._extras is None else (h, *self._extras)

        return forward

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def add(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
            adapter: LayerAdapter | None = getattr(self._state, "adapter", None)
            return out if adapter is None else out + adapter.change(name, given[0])

        return add


def _find_layers(model: Any) -> list[nn.Module]:
    """The list of a model's layers. Raises `ValueError` where there is none, or several."""
    depth = model.config.num_hidden_layers
    if getattr(model.config, "is_encoder_decoder", False):
        raise ValueError("an encoder is needed, not an encoder with a decoder")
    found = [
        list(module)
        for module in model.modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == depth
        and len({type(layer) for layer in module}) == 1
        and any(isinstance(part, nn.Linear) for part in module[0].modules())
    ]
    if len(found) != 1:
        raise ValueError(f"{len(found)} lists of {depth} layers, where one is needed")
    return found[0]
