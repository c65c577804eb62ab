"""Small language models of several architectures, made on the spot and saved like real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from model.lm.checkpoint import save_lm
from model.lm.config import LMConfig
from model.lm.network import RetrievalLM
from model.lm.tokenizer import LMTokenizer

TEXT = [
    "Where is my parcel? It was sent on Monday and should be here by now.",
    "The refund is paid on the day the warehouse has checked the returned item.",
    "User: I was charged twice. Assistant: One of the two payments is a hold; it goes away.",
    "我的包裹在哪里？退款需要几天？",
    "[1] Opening hours\nThe shop opens at nine. 0 1 2 3 4 5 6 7 8 9",
]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRICT = (
    "{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('no system role') }}{% endif %}"
    "<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
)
SMALL: dict[str, Any] = {"vocab_size": 400}
KINDS = ("gpt2", "llama", "qwen2", "t5")


def make_tokenizer(folder: Path, template: str | None = None, *, ends: bool = False) -> None:
    """A byte-level BPE trained on a few sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = ["<pad>", "</s>", "<s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=SMALL["vocab_size"],
        special_tokens=marks,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    if ends:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", 1)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>"
    )
    fast.chat_template = template
    fast.save_pretrained(folder)


def make(kind: str, folder: Path, *, template: str | None = None, longest: int = 256) -> Path:
    """Write a random model of a kind, with its tokenizer, into a folder."""
    torch.manual_seed(3)
    shared = {**SMALL, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    wide: dict[str, Any] = {
        "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": longest,
        "initializer_range": 0.3,
    }  # fmt: skip
    model: Any
    if kind == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(
                n_embd=48, n_layer=3, n_head=4, n_positions=longest, initializer_range=0.3, **shared
            )
        )
    elif kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(**wide, **shared))
    elif kind == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**wide, **shared))
    else:
        config: Any = T5Config
        model = T5ForConditionalGeneration(
            config(
                d_model=48,
                d_kv=12,
                d_ff=96,
                num_layers=3,
                num_heads=4,
                initializer_factor=2.0,
                decoder_start_token_id=0,
                **shared,
            )
        )
    model.save_pretrained(folder, safe_serialization=True)
    make_tokenizer(folder, template, ends=kind == "t5")
    return folder


def make_language_model(place: Path, **changes: Any) -> Path:
    """A small random language model of Footnote's own, as pre-training saves it."""
    tokenizer = LMTokenizer.train(TEXT * 20, 400)
    shape: dict[str, Any] = {"dim": 16, "layers": 2, "heads": 2, "window": 32, "chunk": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = RetrievalLM(LMConfig(tokenizer.vocab, **(shape | changes)))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    save_lm(place, model, tokenizer, {"parameters": 1})
    return place
