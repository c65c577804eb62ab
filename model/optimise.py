"""Fitting a few parameters at once: small smooth problems, by L-BFGS."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

RIDGE = 0.003
"""Weight of the squared distance from where a fit starts."""


def minimise(
    parameters: list[nn.Parameter], loss: Callable[[], Tensor], *, history: int = 100
) -> None:
    """A few dozen steps of L-BFGS (with so many kept): the problems are small and smooth.

    Where they are not (the logits of a head that training broke), the parameters stay as they were.
    """
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=60,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-6,
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
