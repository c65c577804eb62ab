"""Texts that were read once, and a network's small rest over their hits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.encoder.encoder import rounded
from model.labels.memory import Memory
from model.labels.neighbours import Neighbours
from model.labels.network import Reading, RetrievalAugmentedModel


@dataclass(slots=True)
class QueryState:
    """A text after its one pass through the encoder."""

    vector: NDArray[np.float32]  # [d], length 1: of the frozen encoder
    states: Tensor | None  # [t, d], of the field's adapted encoder; None: no head
    tokens: int
    readable: bool = True  # False: the encoder's vocabulary does not cover the text
    wide: Tensor | None = None  # [L], what its n-grams add to the head's logits


def read_hits(
    network: RetrievalAugmentedModel,
    states: Sequence[QueryState],
    base: Tensor,
    memory: Memory,
    n_labels: int,
) -> Reading:
    """A network's view of texts that were read, with their hits; in single precision."""
    dtype, device = network.head.weight.dtype, network.head.weight.device
    if all(state is states[0] for state in states):
        # One text over several lists of hits: what hangs on the text alone is done once, and
        # the network broadcasts it over the lists.
        states, base = states[:1], base[:1]
    width = rounded(max(state.tokens for state in states))
    h = torch.zeros(len(states), width, base.shape[1], dtype=dtype, device=device)
    mask = torch.zeros(len(states), width, dtype=torch.bool, device=device)
    for i, state in enumerate(states):
        if state.states is None:
            raise ValueError("this text was read without the field's head")
        h[i, : state.tokens] = state.states
        mask[i, : state.tokens] = True
    reading = network.read(h, mask, base.to(h), memory.to(device, dtype), n_labels)
    logits, attention = reading.logits.float().cpu(), reading.attention.float().cpu()
    neighbours = Neighbours(
        *(
            part.cpu() if part.dtype == torch.bool else part.float().cpu()
            for part in reading.neighbours
        )
    )
    if wide := [state.wide for state in states if state.wide is not None]:
        logits = logits + torch.stack(wide)
    return Reading(logits, neighbours, attention, reading.pooled)
