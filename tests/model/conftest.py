"""A real, seeded, tiny encoder with the library's own file formats, and rows to learn from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel, BertTokenizer

from model.config import TrainConfig
from model.encoder.encoder import Encoder
from model.labels.memory import Retrieved
from model.training.split import Row

TOPICS = {
    "fruit": ["apple", "pear", "plum", "grape", "lemon", "melon"],
    "tools": ["hammer", "saw", "drill", "wrench", "pliers", "chisel"],
    "birds": ["crow", "finch", "heron", "swift", "robin", "eagle"],
}
FILLERS = ["the", "a", "of", "is", "very", "here", "my", "and", "it", "was"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread, and no trace in the global random state."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    words = [w for topic in TOPICS.values() for w in topic] + FILLERS
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        config = BertConfig(
            vocab_size=len(vocab),
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=64,
        )
        BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def encoder(encoder_folder: Path) -> Encoder:
    return Encoder.load(str(encoder_folder))


def sentence(topic: str, rng: random.Random) -> str:
    words = rng.sample(TOPICS[topic], 2) + rng.sample(FILLERS, rng.randint(1, 6))
    rng.shuffle(words)
    return " ".join(words)


@pytest.fixture(scope="session")
def other_encoder(encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """The same form, other weights."""
    folder = tmp_path_factory.mktemp("other")
    model = BertModel.from_pretrained(encoder_folder, add_pooling_layer=False)
    with torch.no_grad():
        model.get_parameter("encoder.layer.0.output.dense.bias").add_(0.5)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder_folder).save_pretrained(folder)
    return Encoder.load(str(folder))


def make_rows(encoder: Encoder, n: int, *, seed: int = 0, k: int = 6) -> list[Row]:
    """Labelled sentences, each with its nearest others."""
    rng = random.Random(seed)
    labels = [sorted(TOPICS)[i % len(TOPICS)] for i in range(n)]
    texts = [sentence(label, rng) for label in labels]
    vectors = encoder.encode(texts)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -1.0)
    rows: list[Row] = []
    for i in range(n):
        near = np.argsort(-scores[i], kind="stable")[:k]
        hits = [Retrieved(None, texts[j], labels[j], float(scores[i, j]), vectors[j]) for j in near]
        rows.append(Row(str(i), texts[i], labels[i], hits))
    return rows


@pytest.fixture(scope="session")
def rows(encoder: Encoder) -> list[Row]:
    torch.set_num_threads(1)
    return make_rows(encoder, 90)


@pytest.fixture
def quick() -> TrainConfig:
    return TrainConfig(
        epochs=3, batch_size=16, lr=3e-3, k=6, fusion_k=4, layers=2, rank=4, folds=1, holdout=0.2
    )
