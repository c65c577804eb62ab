"""Training speed beside plain fp32 AdamW over all weights: ``-m benchmarks.classification_speed``.

Both take turns on the same synthetic batches (32 texts of 64 tokens), one thread; what counts is
processor time, so a busy machine changes neither. The preparation that ours does once (the frozen
layers of every row) is shown apart and spread over the default six epochs. Last line: JSON.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.full_finetuning import Classifier
from model.config import HeadConfig, TrainConfig, bf16_products
from model.encoder.encoder import Encoder, default_folder
from model.labels.memory import Retrieved
from model.labels.network import RetrievalAugmentedModel
from model.training.label_examples import make_batch, prepare
from model.training.label_losses import label_loss
from model.training.trainer import make_optimizer

ROWS, TOKENS, LABELS, HITS, ROUNDS, EPOCHS = 32, 64, 8, 48, 6, 6


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    encoder = Encoder.load()
    # 62 common words of one piece each, between the two marks.
    texts = [" ".join(["the", "time", "order"] * 20 + ["card", "day"])] * ROWS
    vectors = rng.normal(size=(HITS, encoder.dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    hits = [Retrieved(None, "", str(i % LABELS), 1.0, v) for i, v in enumerate(vectors)]
    config = TrainConfig(k=HITS).resolved(5000)
    truth = [i % LABELS for i in range(ROWS)]
    began = time.process_time()
    data = prepare(encoder, texts, truth, [hits] * ROWS, config)
    tokens = sum(len(row) for row in data.token_ids)
    preparing = (time.process_time() - began) / tokens
    head = HeadConfig(
        field="label", labels=tuple(map(str, range(LABELS))), encoder_sha256=encoder.sha256, k=HITS
    )
    ours = RetrievalAugmentedModel(head, encoder).train()
    optimizer = make_optimizer(ours, config.optimizer, config.lr, config.weight_decay)
    generator = torch.Generator().manual_seed(0)
    plain = Classifier(Path(default_folder()), LABELS).train()
    plain_optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-4)
    ids, mask = encoder.pad(data.token_ids)
    seconds = {"ours": 0.0, "plain": 0.0}
    for turn in range(ROUNDS + 1):
        began = time.process_time()
        with bf16_products(encoder.device):
            loss = label_loss(ours, make_batch(ours, data, range(ROWS)), config, generator)
        step(loss, ours, optimizer)
        middle = time.process_time()
        step(F.cross_entropy(plain(ids, mask.long()), data.truth), plain, plain_optimizer)
        if turn:  # the first turn allocates
            seconds["ours"] += middle - began
            seconds["plain"] += time.process_time() - middle
    per_token = {name: value / (ROUNDS * tokens) for name, value in seconds.items()}
    whole = per_token["ours"] + preparing / EPOCHS
    out = {
        "batch": [ROWS, tokens // ROWS],
        "ours_tokens_per_s": 1 / per_token["ours"],
        "ours_with_preparation": 1 / whole,
        "plain_tokens_per_s": 1 / per_token["plain"],
        "ratio": per_token["plain"] / per_token["ours"],
        "ratio_with_preparation": per_token["plain"] / whole,
    }
    print(json.dumps({k: round(v, 2) if isinstance(v, float) else v for k, v in out.items()}))


def step(loss: torch.Tensor, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


if __name__ == "__main__":
    main()
