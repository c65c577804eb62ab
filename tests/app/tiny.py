"""A real, seeded, very small encoder, and documents that a head can learn."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from index_data.documents import Document

WORDS = {
    "fruit": ["apple", "pear", "plum", "cherry", "grape", "melon", "peach", "quince"],
    "tool": ["hammer", "saw", "drill", "wrench", "pliers", "chisel", "file", "spanner"],
    "music": ["violin", "sonata", "choir", "drumming", "opera", "chord", "tempo", "melody"],
}
OTHER = [
    "please",
    "tell",
    "me",
    "about",
    "the",
    "and",
    "a",
    "of",
    "number",
    "good",
    "bad",
    "very",
    "more",
]


def make_encoder(folder: Path) -> Path:
    """Write a BERT of two layers and 32 dimensions over a vocabulary of words and letters."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = [*itertools.chain(*WORDS.values()), *OTHER]
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = list(dict.fromkeys([*marks, *words, *letters, *(f"##{c}" for c in letters)]))
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    BertModel(config).save_pretrained(folder, safe_serialization=True)
    return folder


def documents(per_label: int = 28) -> list[Document]:
    """Labelled documents, none a near-duplicate of another: pairs of words of one label."""
    found = []
    for label, words in WORDS.items():
        pairs = itertools.islice(itertools.combinations(words, 2), per_label)
        for number, (first, second) in enumerate(pairs):
            found.append(
                Document(
                    id=f"{label}-{number}",
                    text=f"tell {first} about {second} and {number} {first}",
                    labels={"label": label},
                )
            )
    return found
