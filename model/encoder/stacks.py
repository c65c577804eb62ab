"""An encoder's layers, one by one, as the library runs them; BERT's are in
`model.encoder.bert_stack`.

A head's adapter reaches into single layers, and the lower layers are shared by all heads; so a
model is taken apart into embeddings, layers, and what comes after the last one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from model.encoder.adapter import LayerAdapter, Shapes


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
        probe = self._rehearse(torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2).bool())
        given = probe.first
        if given is None or given.dim() != 3 or len(probe.calls) != self.depth:
            raise ValueError("its layers are not called one after the other")

    def embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        """See `Stack`."""
        first = self._rehearse(ids, mask).first
        assert first is not None
        return first

    def run(self, h: Tensor, mask: Tensor, start: int, stop: int, adapters: list[Any]) -> Tensor:
        """See `Stack`. After the last layer comes what the model does there (a norm, mostly)."""
        ids = torch.zeros(mask.shape, dtype=torch.long, device=mask.device)
        calls = self._rehearse(ids, mask).calls
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

    def _rehearse(self, ids: Tensor, mask: Tensor) -> _Rehearsal:
        rehearsal = _Rehearsal()
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
