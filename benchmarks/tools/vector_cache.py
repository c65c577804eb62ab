"""Vectors of benchmark texts, kept between runs: encoding them is most of a run's time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.tools.folders import CACHE
from model.encoder.encoder import Encoder

AT_ONCE = 256


class CachedEncoder:
    """An encoder that remembers what it encoded, per name, in files beside the benchmarks."""

    def __init__(self, encoder: Encoder, name: str) -> None:
        self._encoder = encoder
        self._path = CACHE / f"retrieval-{name}-{encoder.sha256[:12]}.npz"
        self._known: dict[bytes, NDArray[np.float32]] = {}
        if self._path.exists():
            with np.load(self._path, allow_pickle=False) as kept:
                rows = kept["vectors"].astype(np.float32)
                self._known = {k.tobytes(): v for k, v in zip(kept["keys"], rows, strict=True)}

    @property
    def sha256(self) -> str:
        return self._encoder.sha256

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of texts, [n, dim], rounded to half precision as an index holds them."""
        keys = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
        missing = {k: t for k, t in zip(keys, texts, strict=True) if k not in self._known}
        names = list(missing)
        for start in range(0, len(names), AT_ONCE):
            part = names[start : start + AT_ONCE]
            made = self._encoder.encode([missing[k] for k in part])
            self._known.update(zip(part, made.astype(np.float16).astype(np.float32), strict=True))
        if missing:
            self._save()
        return np.stack([self._known[k] for k in keys])

    def _save(self) -> None:
        CACHE.mkdir(parents=True, exist_ok=True)
        np.savez(
            self._path.with_suffix(".tmp.npz"),
            keys=np.array([np.frombuffer(k, np.uint8) for k in self._known]),
            vectors=np.array(list(self._known.values()), dtype=np.float16),
        )
        self._path.with_suffix(".tmp.npz").replace(self._path)
