"""The device that a setting names."""

from __future__ import annotations


def pick_device(name: str) -> str:
    """``cpu``, ``cuda`` or ``cuda:N`` as it stands; ``auto`` is a GPU where torch sees one."""
    import torch  # seconds to import

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
