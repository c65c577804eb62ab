from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AlbertConfig, AlbertModel, AutoModel

from model.config import pick_dtype
from model.encoder.adapter import Adapter
from model.encoder.encoder import Encoder, EncoderRefused, batches_by_length, mean_pool, rounded
from tests.model.conftest import FILLERS

TEXTS = ["apple", "the crow and the heron", "hammer saw drill wrench pliers is very here", ""]


def test_own_forward_pass_equals_the_librarys(encoder: Encoder, encoder_folder: Path) -> None:
    library = AutoModel.from_pretrained(encoder_folder).eval()
    ids, mask = encoder.pad(encoder.tokenize(TEXTS))
    with torch.no_grad():
        states = library(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    expected = mean_pool(states, mask).numpy()
    assert np.abs(encoder.encode(TEXTS) - expected).max() < 1e-5


def test_the_path_with_gradients_equals_the_one_without(encoder: Encoder) -> None:
    adapter = Adapter(encoder.shapes, layers=2, rank=4)
    for layer in adapter.layers:
        torch.nn.init.normal_(layer.get_submodule("query").b, std=0.1)  # type: ignore[arg-type]
    ids, mask = encoder.pad(encoder.tokenize(TEXTS))
    lower = encoder.lower(ids, mask, 2)
    with_gradients = encoder.layers(lower, mask, 2, 4, adapter)
    with torch.no_grad():
        without = encoder.layers(lower, mask, 2, 4, adapter)
    assert with_gradients.requires_grad
    on_tokens = (with_gradients.detach() - without).abs() * mask[:, :, None]
    assert float(on_tokens.max()) < 1e-5


def test_an_untrained_adapter_changes_nothing(encoder: Encoder) -> None:
    adapter = Adapter(encoder.shapes, layers=3, rank=4)
    ids, mask = encoder.pad(encoder.tokenize(TEXTS[:2]))
    with torch.no_grad():
        plain = encoder.layers(encoder.embed(ids, mask), mask, 0, 4)
        adapted = encoder.layers(encoder.embed(ids, mask), mask, 0, 4, adapter)
    assert torch.equal(plain, adapted)


def test_a_batch_never_changes_a_vector(encoder: Encoder) -> None:
    together = encoder.encode(TEXTS)
    for text, vector in zip(TEXTS, together, strict=True):
        assert np.abs(encoder.encode([text])[0] - vector).max() < 1e-5
        assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)


@given(st.text(st.characters(exclude_categories=())))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_tokenising_is_total(encoder: Encoder, text: str) -> None:
    (ids,) = encoder.tokenize([text], max_tokens=16)
    assert 2 <= len(ids) <= 16


def test_a_megabyte_of_text_is_cut(encoder: Encoder) -> None:
    assert len(encoder.tokenize(["apple " * 200_000])[0]) == encoder.max_tokens


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 900))
def test_batches_cover_all_rows_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = batches_by_length(lengths, budget=budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


def test_refusals_say_what_is_there(tmp_path: Path, encoder_folder: Path) -> None:
    with pytest.raises(EncoderRefused, match="does not load"):
        Encoder.load(str(tmp_path / "nothing"))
    albert = AlbertConfig(vocab_size=33, hidden_size=16, num_attention_heads=2, embedding_size=8)
    other = tmp_path / "albert"  # one set of weights for all layers: nothing to adapt one by one
    shutil.copytree(encoder_folder, other)
    AlbertModel(albert).save_pretrained(other)
    with pytest.raises(EncoderRefused, match=r"'albert' that cannot be taken apart"):
        Encoder.load(str(other))
    pickled = tmp_path / "pickled"
    shutil.copytree(encoder_folder, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(EncoderRefused, match="safetensors"):
        Encoder.load(str(pickled))


def test_dtype_names() -> None:
    assert pick_dtype("fp32", "cpu") is torch.float32
    assert pick_dtype("bf16", "cpu") is torch.bfloat16
    assert pick_dtype("auto", "cpu") in {torch.float32, torch.bfloat16}
    with pytest.raises(ValueError, match="fp16"):
        pick_dtype("fp16", "cpu")


def test_few_padded_lengths(encoder: Encoder) -> None:
    assert [rounded(n) for n in (1, 4, 5, 32, 33, 65, 129, 256)] == [4, 4, 8, 32, 40, 80, 160, 256]
    assert len({rounded(n) for n in range(1, 257)}) == 20
    ids, mask = encoder.pad([[1, 2, 3, 4, 5], [6]])
    assert ids.shape == (2, 8)
    assert mask.sum(1).tolist() == [5, 1]
    longest = encoder.max_tokens
    assert encoder.pad([[1] * longest])[0].shape == (1, longest)  # never beyond its positions


def test_a_text_of_another_script_cannot_be_read(encoder: Encoder) -> None:
    def reads(text: str) -> bool:
        return encoder.reads(encoder.tokenize([text])[0])

    known = " ".join(FILLERS[:6])
    assert reads("")
    assert reads(known)
    assert reads(f"{known} 退 款")
    assert reads("退款")  # too little to tell
    assert not reads("我要退掉这台坏掉的电视机")
