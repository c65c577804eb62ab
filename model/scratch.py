"""An encoder from nothing: a tokenizer and a small BERT, trained on a corpus of one's own.

For a language or a field that no pretrained model at hand covers. What comes out is a folder as
`transformers` writes it, to be named as the encoder like any other. Per batch the loss is

- masked words (Devlin et al. 2018), on every text;
- with labels: cross-entropy over the cosines of the text's vector and one vector a label
  (Wang et al. 2018), so that neighbours share their label;
- without: two dropout views of a text find each other in the batch (SimCSE, Gao et al. 2021).
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn

from model.batches import epoch_batches
from model.config import bf16_products
from model.curves import Curve
from model.encoder import mean_pool
from model.trainer import Progress, Ticker, load_state, make_optimizer, rate_at, save_state
from model.workspace import open_workspace

MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNKNOWN, START, END, MASK = range(5)
UNLABELLED = -1
IGNORED = -100


@dataclass(frozen=True, slots=True)
class ScratchConfig:
    """One encoder. `pieces`: one token a CJK character, or pieces of several, learned (unigram)."""

    vocabulary: int = 16_000
    pieces: str = "unigram"  # or "characters"
    layers: int = 4
    dim: int = 256
    heads: int = 4
    max_tokens: int = 128
    epochs: int = 10
    batch_size: int = 64
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 5e-4
    weight_decay: float = 0.01
    warmup: float = 0.1
    dropout: float = 0.1
    masked: float = 0.15  # share of the tokens
    loosened: float = 0.0  # share of the pieces read as their characters (Provilkov et al. 2020)
    scale: float = 20.0  # of cosines, before the softmax
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(slots=True)
class ScratchReport:
    """What a run did; losses are those of the last epoch."""

    texts: int
    labels: int
    vocabulary: int
    parameters: int
    epochs: int
    losses: dict[str, float]
    tokens_per_second: float
    seconds: float
    config: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def train_tokenizer(texts: Iterable[str], config: ScratchConfig) -> Tokenizer:
    """A tokenizer over a corpus: lower case, NFKC; `[CLS]` and `[SEP]` around a text.

    WordPiece with each CJK character by itself, or a unigram model (Kudo 2018) whose pieces may be
    several characters long, which suits a corpus too small to learn what characters mean together.
    """
    if config.pieces == "characters":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), normalizers.BertNormalizer()]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer: Any = trainers.WordPieceTrainer(
            vocab_size=config.vocabulary, special_tokens=list(MARKS), show_progress=False
        )
    elif config.pieces == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits()]
        )
        trainer = trainers.UnigramTrainer(
            vocab_size=config.vocabulary,
            special_tokens=list(MARKS),
            unk_token="[UNK]",
            max_piece_length=6,
            show_progress=False,
        )
    else:
        raise ValueError(f"pieces is unigram or characters, not {config.pieces!r}")
    tokenizer.train_from_iterator(map(_clean, texts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", START), ("[SEP]", END)],
    )
    return tokenizer


def _clean(text: str) -> str:
    """A lone surrogate is read as a question mark."""
    return text.encode("utf-8", "replace").decode()


class ScratchModel(nn.Module):
    """A BERT with what its training needs: a masked-word head and a vector for each label."""

    def __init__(self, config: ScratchConfig, vocabulary: int, labels: int) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel  # seconds to import

        self.config = config
        self.bert: Any = BertModel(
            BertConfig(
                vocab_size=vocabulary,
                hidden_size=config.dim,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=4 * config.dim,
                max_position_embeddings=config.max_tokens,
                hidden_dropout_prob=config.dropout,
                attention_probs_dropout_prob=config.dropout,
            ),
            add_pooling_layer=False,
        )
        self.bert.set_attn_implementation("eager")  # its backward is faster on a CPU
        self.transform = nn.Sequential(
            nn.Linear(config.dim, config.dim), nn.GELU(), nn.LayerNorm(config.dim)
        )
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.labels = nn.Parameter(torch.randn(labels, config.dim) * config.dim**-0.5)

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ids and mask [b, t] -> states [b, t, d]."""
        states: Tensor = self.bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return states

    def losses(self, ids: Tensor, mask: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """Ids and mask [b, t], labels [b] (or UNLABELLED) -> the parts of the loss."""
        hidden, wanted = hide(ids, mask, self.config.masked, len(self.bias))
        states = self.states(hidden, mask)
        there = wanted != IGNORED
        words = self.bert.embeddings.word_embeddings.weight
        logits = self.transform(states[there]) @ words.T + self.bias
        found = {"masked": states.sum() * 0}
        if bool(there.any()):
            found["masked"] = F.cross_entropy(logits, wanted[there])
        vectors = mean_pool(states, mask)
        labelled = truth != UNLABELLED
        if bool(labelled.any()):
            cosines = vectors[labelled] @ F.normalize(self.labels, dim=-1).T
            found["labels"] = F.cross_entropy(self.config.scale * cosines, truth[labelled])
        else:
            again = mean_pool(self.states(ids, mask), mask)
            pairs = self.config.scale * vectors @ again.T
            found["pairs"] = F.cross_entropy(pairs, torch.arange(len(ids), device=ids.device))
        return found


def hide(ids: Tensor, mask: Tensor, share: float, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Ids with a share of the words hidden, and what stood there (IGNORED elsewhere).

    Of those chosen 80 % become `[MASK]`, 10 % another word, 10 % stay (Devlin et al. 2018).
    """
    chosen = (torch.rand(ids.shape) < share).to(ids.device) & mask & (ids >= len(MARKS))
    fate = torch.rand(ids.shape).to(ids.device)
    other = torch.randint(len(MARKS), max(vocabulary, len(MARKS) + 1), ids.shape).to(ids.device)
    hidden = torch.where(chosen & (fate < 0.8), torch.full_like(ids, MASK), ids)
    hidden = torch.where(chosen & (fate >= 0.9), other, hidden)
    return hidden, torch.where(chosen, ids, torch.full_like(ids, IGNORED))


def spelled(tokenizer: Tokenizer) -> dict[int, list[int]]:
    """The pieces of several characters that are all tokens themselves, each as those."""
    known = tokenizer.get_vocab()
    return {
        number: [known[letter] for letter in piece]
        for piece, number in known.items()
        if piece not in MARKS and len(piece) > 1 and all(letter in known for letter in piece)
    }


def loosen(
    ids: Sequence[int],
    letters: Mapping[int, Sequence[int]],
    config: ScratchConfig,
    chance: random.Random,
) -> list[int]:
    """Ids with a share of the pieces as their characters: a piece dropout, so that words share what
    their characters mean. Not longer than the encoder reads; the last mark stays.
    """
    if not letters:
        return [*ids]
    out: list[int] = []
    for number in ids:
        apart = letters.get(number)
        out += apart if apart and chance.random() < config.loosened else [number]
    return [*out[: config.max_tokens - 1], out[-1]] if len(out) > config.max_tokens else out


def train_encoder(
    texts: Sequence[str],
    labels: Sequence[str | None] | None,
    config: ScratchConfig,
    out: Path,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> ScratchReport:
    """Train tokenizer and encoder on texts and write them to `out`, to be named as an encoder.

    State is kept beside `out` after every epoch: the same call resumes, another one begins anew.

    Raises:
        ValueError: Fewer than two texts, or `out` exists.
        TrainingCancelled: `cancelled` answered true.
    """
    if out.exists():
        raise ValueError(f"{out} is there already")
    if sum(bool(text.strip()) for text in texts) < 2:
        raise ValueError("an encoder needs at least two texts to learn from")
    given = labels or [None] * len(texts)
    names = sorted({label for label in given if label is not None})
    place = {name: i for i, name in enumerate(names)}
    truth = torch.tensor([UNLABELLED if label is None else place[label] for label in given])
    run = [config.to_json(), list(zip(texts, given, strict=True))]
    work = open_workspace(out, hashlib.sha256(json.dumps(run).encode()).hexdigest())
    saved = work / "tokenizer.json"
    if not saved.exists():
        train_tokenizer(texts, config).save(str(saved))
    tokenizer = Tokenizer.from_file(str(saved))
    tokenizer.enable_truncation(config.max_tokens)
    ids = [e.ids for e in tokenizer.encode_batch([_clean(text) for text in texts])]
    torch.manual_seed(config.seed)
    model = ScratchModel(config, tokenizer.get_vocab_size(), len(names)).to(device)
    letters = spelled(tokenizer) if config.loosened else {}
    losses, tokens, seconds = _fit(model, ids, letters, truth, config, work, progress, cancelled)
    report = ScratchReport(
        texts=len(texts),
        labels=len(names),
        vocabulary=tokenizer.get_vocab_size(),
        parameters=sum(p.numel() for p in model.bert.parameters()),
        epochs=config.epochs,
        losses=losses,
        tokens_per_second=tokens / max(seconds, 1e-9),
        seconds=seconds,
        config=config.to_json(),
    )
    aside = work / "encoder"
    model.bert.save_pretrained(aside)
    tokenizer.no_truncation()
    tokenizer.save(str(aside / "tokenizer.json"))
    marks = dict(zip(("pad", "unk", "cls", "sep", "mask"), MARKS, strict=True))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": config.max_tokens}
    about |= {f"{name}_token": mark for name, mark in marks.items()}
    (aside / "tokenizer_config.json").write_text(json.dumps(about, indent=1))
    (aside / "report.json").write_text(json.dumps(report.to_json(), indent=1))
    aside.rename(out)
    shutil.rmtree(work, ignore_errors=True)
    return report


def _fit(
    model: ScratchModel,
    ids: Sequence[Sequence[int]],
    letters: Mapping[int, Sequence[int]],
    truth: Tensor,
    config: ScratchConfig,
    work: Path,
    progress: Progress | None,
    cancelled: Callable[[], bool] | None,
) -> tuple[dict[str, float], int, float]:
    """Mean losses of the last epoch, tokens seen, seconds."""
    optimizer = make_optimizer(model, config)
    state = load_state(work, model, optimizer) or {
        "epoch": 0, "tokens": 0, "seconds": 0.0, "losses": {},
    }  # fmt: skip
    per_epoch = -(-len(ids) // config.batch_size)
    ticker = Ticker(per_epoch * config.epochs, progress, cancelled)
    ticker.skip(per_epoch * state["epoch"])
    device = next(model.parameters()).device
    lengths = [len(row) for row in ids]
    with Curve(work, start=state["epoch"] * per_epoch - 1) as curve:
        for epoch in range(state["epoch"], config.epochs):
            torch.manual_seed(config.seed * 1009 + epoch)
            generator = torch.Generator().manual_seed(config.seed * 7919 + epoch)
            chance = random.Random(config.seed * 7919 + epoch)
            model.train()
            began = time.monotonic()
            sums: dict[str, float] = {}
            for i, rows in enumerate(epoch_batches(lengths, config.batch_size, generator)):
                step = epoch * per_epoch + i
                factor = rate_at(step, per_epoch * config.epochs, config.warmup)
                for group in optimizer.param_groups:
                    group["lr"] = config.lr * factor
                read = [loosen(ids[j], letters, config, chance) for j in rows]
                width = max(map(len, read))
                padded = torch.tensor([[*row] + [PAD] * (width - len(row)) for row in read])
                mask = padded != PAD
                with bf16_products(device):
                    found = model.losses(padded.to(device), mask.to(device), truth[rows].to(device))
                loss = torch.stack(list(found.values())).sum()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                values = {name: float(part.detach()) for name, part in found.items()}
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + value / per_epoch
                curve.add(step, **values)
                ticker.tick(sum(values.values()))
            state = {
                "epoch": epoch + 1,
                "tokens": state["tokens"] + sum(lengths),
                "seconds": state["seconds"] + time.monotonic() - began,
                "losses": sums,
            }
            save_state(work, model, optimizer, state)
    model.eval()
    return state["losses"], state["tokens"], state["seconds"]
