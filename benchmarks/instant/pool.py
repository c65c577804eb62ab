"""A log-linear pool of the parts, weighted on outputs that were left out.

    p(label) = softmax(T * sum of w_part * part(label))

The weights, all positive, minimise the mean log loss and a pull to a prior on their logarithms
(Newton's method with the Fisher information); then T, alone, the log loss: calibration by one
temperature (Guo et al. 2017, "On Calibration of Modern Neural Networks"). m rows, L labels, P
parts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PARTS = ("ridge", "discriminant", "words", "characters", "neighbours")
VECTOR_PARTS = (0, 1, 4)
READABLE = (2.0, 0.25, 30.0, 15.0, 0.2)
"""Where rows are few the words weigh less: times the rows a label / 100, 0.02 to 1."""
UNREADABLE = (1.0, 0.1, 40.0, 40.0, 0.1)
PULL = 1.0
LEAST_SHARE = 0.02
STEPS = 30
TEMPERATURES = np.geomspace(0.125, 8.0, 49)
TEMPERATURE_PULL = 1.0


@dataclass(slots=True)
class Pool:
    """Weights [P] and the temperature's inverse."""

    weights: Floats = field(default_factory=lambda: np.array(READABLE))
    temperature: float = 1.0

    def probabilities(self, parts: Floats, *, readable: bool = True) -> Floats:
        """Outputs of the parts [P, m, L] -> [m, L]. The vectors say nothing of unreadable texts."""
        weights = self.weights.copy()
        if not readable:
            weights[list(VECTOR_PARTS)] = 0.0
        return softmax(self.temperature * np.tensordot(weights, parts, axes=1))

    @classmethod
    def fit(cls, parts: Floats, labels: NDArray[np.int64], prior: Floats) -> Pool:
        """From outputs that were left out, [P, m, L], and the true labels [m]."""
        if not len(labels):
            return cls(prior.copy())
        weights = _weights(parts, labels, prior)
        return cls(weights, _temperature(np.tensordot(weights, parts, axes=1), labels))


def prior_weights(rows: int, labels: int, *, readable: bool) -> Floats:
    """What the weights are pulled to, [P]."""
    if not readable:
        return np.array(UNREADABLE)
    share = min(1.0, max(LEAST_SHARE, rows / max(labels, 1) / 100))
    prior: Floats = np.array(READABLE) * np.array([1.0, 1.0, share, share, 1.0])
    return prior


def softmax(z: Floats) -> Floats:
    """Over the last axis."""
    p: Floats = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return p


def log_loss(p: Floats, labels: NDArray[np.int64]) -> float:
    """Mean of -ln p[true label]."""
    return float(-np.log(p[np.arange(len(labels)), labels] + 1e-12).mean())


def _weights(parts: Floats, labels: NDArray[np.int64], prior: Floats) -> Floats:
    rows = np.arange(len(labels))
    pull = PULL / len(labels)
    truth = parts[:, rows, labels]  # [P, m]

    def loss(log_weights: Floats) -> tuple[float, Floats]:
        p = softmax(np.tensordot(np.exp(log_weights), parts, axes=1))
        away = log_weights - np.log(prior)
        return log_loss(p, labels) + pull * float((away**2).sum()), p

    at = np.log(prior)
    best, p = loss(at)
    for _ in range(STEPS):
        weights = np.exp(at)
        means = (parts * p).sum(-1)  # [P, m]
        slope = weights * (means - truth).mean(1)
        gradient = slope + 2 * pull * (at - np.log(prior))
        spread = np.einsum("pml,qml,ml->pq", parts, parts, p, optimize=True) / len(labels)
        spread -= means @ means.T / len(labels)
        hessian = np.outer(weights, weights) * spread + np.diag(np.maximum(slope, 0.0) + 2 * pull)
        step = np.clip(np.linalg.solve(hessian, gradient), -1.5, 1.5)
        for _half in range(6):
            now, tried = loss(at - step)
            if now < best:
                break
            step /= 2
        if now > best - 1e-6:
            break
        at, best, p = at - step, now, tried
    return np.exp(at)


def _temperature(z: Floats, labels: NDArray[np.int64]) -> float:
    """The likeliest of a grid, pulled to 1 where rows are few."""
    losses = [
        log_loss(softmax(t * z), labels) + TEMPERATURE_PULL * np.log(t) ** 2 / len(labels)
        for t in TEMPERATURES
    ]
    return float(TEMPERATURES[int(np.argmin(losses))])
