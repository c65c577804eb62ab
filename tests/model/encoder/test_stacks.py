"""Encoders of several architectures, small and random, loaded by the path of a real one."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModel

from model.encoder.adapter import Adapter
from model.encoder.bert_stack import BertStack
from model.encoder.encoder import Encoder
from model.encoder.stacks import LibraryStack

TEXTS = ["apple", "the crow and the heron", "hammer saw drill wrench pliers is very here"]
SIZES = {"vocab_size": 40, "num_attention_heads": 4, "num_hidden_layers": 3}
ROBERTA = {"hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 66}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Roberta": ROBERTA,
    "RoFormer": ROBERTA,
    "XLMRoberta": ROBERTA,
    "Electra": {"hidden_size": 32, "embedding_size": 16, "intermediate_size": 64},
    "DistilBert": {"dim": 32, "hidden_dim": 64, "n_layers": 3, "n_heads": 4},
    "MPNet": ROBERTA,
    "ModernBert": {"hidden_size": 32, "intermediate_size": 48, "local_attention": 8},
    "DebertaV2": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["p2c", "c2p"],
    },
}
Make = Callable[[str], Path]


@pytest.fixture
def make(tmp_path: Path, encoder_folder: Path) -> Make:
    """The folder of a small model of an architecture, with the tests' tokenizer."""

    def save(name: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(encoder_folder, folder)
        (folder / "model.safetensors").unlink()
        torch.manual_seed(3)
        config = getattr(transformers, f"{name}Config")(
            **{"pad_token_id": 0, **SIZES, **ARCHITECTURES[name]}
        )
        getattr(transformers, f"{name}Model")(config).save_pretrained(folder)
        return folder

    return save


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_states_equal_the_librarys(name: str, make: Make) -> None:
    folder = make(name)
    encoder = Encoder.load(str(folder))
    library = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    ids, mask = encoder.pad(encoder.tokenize(TEXTS))
    with torch.no_grad():
        expected = library(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        got = encoder.layers(encoder.embed(ids, mask), mask, 0, encoder.depth)
    assert float(((got - expected).abs() * mask[:, :, None]).max()) < 1e-5


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_adapter_reaches_the_top_layers_only(name: str, make: Make) -> None:
    encoder = Encoder.load(str(make(name)))
    adapter = Adapter(encoder.shapes, layers=1, rank=2)
    ids, mask = encoder.pad(encoder.tokenize(TEXTS))
    lower = encoder.lower(ids, mask, 1)
    top = encoder.depth
    plain = encoder.layers(lower, mask, top - 1, top)
    untrained = encoder.layers(lower, mask, top - 1, top, adapter)
    assert float(((untrained.detach() - plain).abs() * mask[:, :, None]).max()) < 1e-5
    for name_, parameter in adapter.named_parameters():
        if name_.endswith(".b"):
            torch.nn.init.normal_(parameter, std=0.3)
    adapted = encoder.layers(lower, mask, top - 1, top, adapter)
    assert not torch.allclose(adapted, plain, atol=1e-3)
    adapted.square().sum().backward()
    given = [p.grad is not None and bool(p.grad.any()) for p in adapter.parameters()]
    assert all(given)
    assert torch.equal(encoder.layers(lower, mask, top - 1, top), plain)  # nothing stays behind
    encoder.fold(adapter)
    assert (adapter.folded is not None) is isinstance(encoder.stack, BertStack)
    with torch.no_grad():
        folded = encoder.layers(lower, mask, top - 1, top, adapter)
    assert float(((folded - adapted.detach()).abs() * mask[:, :, None]).max()) < 1e-4
    assert torch.equal(encoder.layers(lower, mask, top - 1, top), plain)
    assert not any("folded" in key for key in adapter.state_dict())


def test_which_are_written_out(make: Make, encoder: Encoder) -> None:
    assert isinstance(encoder.stack, BertStack)
    assert isinstance(Encoder.load(str(make("Roberta"))).stack, BertStack)
    assert isinstance(Encoder.load(str(make("RoFormer"))).stack, BertStack)
    assert isinstance(Encoder.load(str(make("ModernBert"))).stack, LibraryStack)


def test_roberta_counts_positions_from_after_its_padding(make: Make) -> None:
    encoder = Encoder.load(str(make("Roberta")))
    (ids,) = encoder.tokenize(["apple " * 200])
    assert encoder.max_tokens == len(ids) == 65
    assert encoder.encode(["apple " * 200]).shape == (1, 32)


def test_forks_on_two_threads_do_not_meet(make: Make) -> None:
    encoder = Encoder.load(str(make("ModernBert")))
    expected = encoder.encode(TEXTS)
    wrong: list[int] = []

    def work(own: Encoder) -> None:
        found = [own.encode(TEXTS) for _ in range(15)]
        wrong.extend(i for i, got in enumerate(found) if abs(got - expected).max() > 1e-5)

    threads = [threading.Thread(target=work, args=(encoder.fork(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_pooling_is_what_the_folder_says(make: Make) -> None:
    folder = make("Roberta")
    mean = Encoder.load(str(folder)).encode(TEXTS)
    (folder / "1_Pooling").mkdir()
    place = folder / "1_Pooling" / "config.json"
    place.write_text(json.dumps({"pooling_mode_cls_token": True}))
    first = Encoder.load(str(folder))
    ids, mask = first.pad(first.tokenize(TEXTS))
    states = first.layers(first.embed(ids, mask), mask, 0, first.depth)
    wanted = torch.nn.functional.normalize(states[:, 0], dim=-1).numpy()
    assert abs(first.encode(TEXTS) - wanted).max() < 1e-5
    assert abs(mean - wanted).max() > 1e-3
