"""Fitting a few parameters at once: small smooth problems, by L-BFGS."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

RIDGE = 0.003
"""Weight of the squared distance from where a fit starts."""


def minimise(
    parameters: list[Tensor],
    loss: Callable[[], Tensor],
    *,
    steps: int = 60,
    tolerance: float = 1e-6,
    history: int = 100,
) -> None:
    """At most so many steps of L-BFGS, down to a gradient of `tolerance`.

    Where they are not (the logits of a head that training broke), the parameters stay as they were.
    """
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=steps,
        line_search_fn="strong_wolfe",
        tolerance_grad=tolerance,
        history_size=history,
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value: Tensor = loss()
        value.backward()
        return value

    try:
        optimizer.step(closure)
        sound = all(bool(torch.isfinite(parameter).all()) for parameter in parameters)
    except RuntimeError as error:  # where the loss is no number, the search's step is none either
        if "overflow" not in str(error):
            raise
        sound = False
    if not sound:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
