"""A generator's folder, looked at before anything of it is loaded: what is in it, and if it fits.

Only JSON and the headers of the safetensors files are read here. Whatever could run code (pickle
weights, `auto_map`) or needs what is not there is refused by its name.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".msgpack", ".h5")
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
MAX_HEADER = 100 * 1024 * 1024  # bytes, the format's own limit
GIB = 1024**3
SPARE = 256 * 1024 * 1024  # bytes left to the rest of the process
ITEM_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "I16": 16, "U16": 16, "F16": 16,
    "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
FLOATS = frozenset({"F8_E4M3", "F8_E5M2", "F16", "BF16", "F32", "F64"})


class GeneratorRefused(RuntimeError):
    """A generator that is not loaded; the message says what it has and what is needed."""


@dataclass(frozen=True, slots=True)
class GeneratorFiles:
    """What a folder says of its model before it is loaded.

    ``parameters``: numbers in the weight files; ``cache_values``: numbers that one token leaves in
    the cache of keys and values.
    """

    folder: Path
    config: dict[str, Any]
    weights: tuple[Path, ...]
    parameters: int
    other_bytes: int  # of tensors that are no floating-point numbers
    cache_values: int
    longest: int | None  # tokens that the model was made for; None: it does not say

    @classmethod
    def of(cls, folder: Path) -> GeneratorFiles:
        """Look at a folder.

        Raises:
            GeneratorRefused: No model there, pickle weights alone, remote code, a quantised model,
                an adapter, or files that are not whole.
        """
        config = _json(folder / "config.json")
        refuse_code(folder, config)
        weights = weight_files(folder)
        parameters, other = 0, 0
        for path in weights:
            for kind, count in tensors(path):
                if kind in FLOATS:
                    parameters += count
                else:
                    other += count * ITEM_BITS[kind] // 8
        return cls(
            folder, config, weights, parameters, other, cache_values(config), longest(config)
        )

    def needed(self, item_bytes: int, *, context: int, streams: int) -> int:
        """Bytes of memory for the weights and for the caches of `streams` full contexts."""
        cache = self.cache_values * item_bytes * context * streams
        return self.parameters * item_bytes + self.other_bytes + cache

    def check_memory(self, item_bytes: int, available: int, *, context: int, streams: int) -> None:
        """Raise `GeneratorRefused`, with both numbers, where the model does not fit."""
        needed = self.needed(item_bytes, context=context, streams=streams) + SPARE
        if needed <= available:
            return
        weights = self.parameters * item_bytes + self.other_bytes
        raise GeneratorRefused(
            f"{self.folder.name!r} needs {needed / GIB:.2f} GiB ({weights / GIB:.2f} for "
            f"{self.parameters:,} weights of {item_bytes} bytes, the rest for {streams} streams of "
            f"{context} tokens) and {available / GIB:.2f} GiB are available: take a smaller model, "
            "or lower FOOTNOTE_GENERATOR_CONTEXT or FOOTNOTE_GENERATOR_STREAMS"
        )

    def sha256(self) -> str:
        """Hex sha256 over configuration and weights: what the model is known by."""
        total = hashlib.sha256((self.folder / "config.json").read_bytes())
        for path in self.weights:
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()


def located(source: str) -> Path:
    """The folder of a model: a local one, or that of a hub id, of which no pickle is fetched.

    Raises:
        GeneratorRefused: Neither a folder nor an id that the hub, or its local copy, has.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(source, allow_patterns=HUB_FILES))
    except HFValidationError:
        raise GeneratorRefused(f"there is no folder {source!r}, and it is no hub id") from None
    except (OSError, ValueError) as error:
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise GeneratorRefused(f"{source!r} is no folder, and the hub: {detail}") from error


def refuse_code(folder: Path, config: dict[str, Any]) -> None:
    """Raise `GeneratorRefused` for what would run code of its own or needs another library."""
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        path = folder / name
        known = config if name == "config.json" else _json(path) if path.is_file() else {}
        if "auto_map" in known:
            raise GeneratorRefused(f"{name} names remote code (auto_map), which is never run")
    if "quantization_config" in config:
        kind = config["quantization_config"]
        method = kind.get("quant_method") if isinstance(kind, dict) else None
        raise GeneratorRefused(f"its weights are quantised ({method}): unquantised ones are needed")
    if (folder / "adapter_config.json").exists():
        raise GeneratorRefused("adapter_config.json: an adapter is no whole model; merge it first")


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a model, one or as its index lists them.

    Raises:
        GeneratorRefused: There are none, or not all; pickle weights are named.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return (single,)
    if index.is_file():
        listed = _json(index).get("weight_map")
        names = sorted(set(listed.values())) if isinstance(listed, dict) else []
        if not names or not all(_is_weight_name(name) for name in names):
            raise GeneratorRefused(f"{index.name} does not list safetensors files of this folder")
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise GeneratorRefused(f"{', '.join(missing[:3])} of {index.name} are not there")
        return tuple(folder / name for name in names)
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    if pickles:
        raise GeneratorRefused(
            f"its weights are in {', '.join(pickles[:3])}, which can run code when loaded: "
            "safetensors are needed"
        )
    raise GeneratorRefused("there is no model.safetensors in it")


def _is_weight_name(name: object) -> bool:
    return isinstance(name, str) and name == Path(name).name and name.endswith(".safetensors")


def tensors(path: Path) -> list[tuple[str, int]]:
    """(number format, count) of each tensor of a safetensors file, out of its header.

    Raises:
        GeneratorRefused: The header, or the file, is not whole.
    """
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > MAX_HEADER:
                raise ValueError("the header is too long")
            header = json.loads(file.read(size))
        header.pop("__metadata__", None)
        ends = [int(t["data_offsets"][1]) for t in header.values()]
        if path.stat().st_size != 8 + size + max(ends, default=0):
            raise ValueError("it has another size than its header says")
        if unknown := {t["dtype"] for t in header.values()} - ITEM_BITS.keys():
            raise ValueError(f"numbers of the format {min(unknown)} are not known")
        return [(t["dtype"], math.prod(t["shape"])) for t in header.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise GeneratorRefused(f"{path.name} is no whole safetensors file: {error}") from error


def cache_values(config: dict[str, Any]) -> int:
    """Keys and values that one token leaves in the cache, over all layers."""
    text = _text_config(config)

    def first(*names: str, default: int = 0) -> int:
        return next((int(text[n]) for n in names if isinstance(text.get(n), int)), default)

    layers = first("num_decoder_layers", "decoder_layers", "num_hidden_layers", "num_layers",
                   "n_layer", "layers")  # fmt: skip
    width = first("hidden_size", "d_model", "n_embd", "dim")
    heads = first(
        "num_attention_heads", "decoder_attention_heads", "num_heads", "n_head", default=1
    )
    size = first("head_dim", "d_kv", default=width // max(1, heads))
    return 2 * layers * first("num_key_value_heads", default=heads) * size


def longest(config: dict[str, Any]) -> int | None:
    """Tokens that a model was made for, prompt and answer together, where it says so."""
    names = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
    values = map(_text_config(config).get, names)
    return next((v for v in values if isinstance(v, int) and v > 0), None)


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    text = config.get("text_config")
    return text if isinstance(text, dict) else config


def available_memory() -> int:
    """Bytes that this process may still take: of the machine, and of its container."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(li.split()[1]) * 1024 for li in lines if li.startswith("MemAvailable"))
    except (OSError, StopIteration):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            stat = dict(li.split() for li in (group / "memory.stat").read_text().splitlines())
            used = int((group / "memory.current").read_text()) - int(stat["inactive_file"])
            free = min(free, max(0, int(limit) - used))
    except (OSError, ValueError, KeyError):
        pass
    return free


def free_memory(device: str) -> int:
    """Bytes that are free on a device."""
    if not device.startswith("cuda"):
        return available_memory()
    import torch

    return int(torch.cuda.mem_get_info(torch.device(device))[0])


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError:
        raise GeneratorRefused(f"there is no {path.name} in it") from None
    except ValueError as error:
        raise GeneratorRefused(f"{path.name} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise GeneratorRefused(f"{path.name} is no JSON object")
    return value
