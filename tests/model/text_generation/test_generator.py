"""Generators of several architectures, through the very path of a real one, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from model.labels.memory import Retrieved
from model.text_generation.decoding import Decoder, DecoderState
from model.text_generation.generator import Generator, TemplateRefused
from model.text_generation.generator_files import (
    GeneratorFiles,
    GeneratorRefused,
    available_memory,
    located,
)
from model.text_generation.prompting import PromptTooLong, Turn, shortened
from tests.model.tiny_generators import KINDS, STRICT, TEMPLATE, make, make_tokenizer

PROMPTS = ("Where is my parcel? It was sent on Monday.", "The refund", "退款需要几天？ 0 1 2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("generators")
    return {
        kind: make(kind, base / kind, template=TEMPLATE if kind == "qwen2" else None)
        for kind in KINDS
    }


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, Generator]:
    return {kind: Generator.load(str(folder)) for kind, folder in folders.items()}


def read(decoder: Decoder, ids: Sequence[int], part: int) -> tuple[DecoderState, torch.Tensor]:
    *_, last = decoder.read(ids, iter(lambda: part, None))
    return last


def alone(generator: Generator, ids: Sequence[int], count: int) -> list[int]:
    state, logits = read(generator.decoder, ids, 5)
    found = [int(logits.argmax())]
    while len(found) < count:
        found.append(int(generator.decoder.step(state, [found[-1]])[0].argmax()))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_step_by_step_is_what_transformers_generates(
    loaded: dict[str, Generator], kind: str
) -> None:
    generator = loaded[kind]
    ids = generator.tokens(PROMPTS[0])
    whole = generator.decoder.model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=16,
        min_new_tokens=16,
        do_sample=False,
        suppress_tokens=None,
    )[0].tolist()
    expected = whole[1:] if generator.decoder.seq2seq else whole[len(ids) :]
    mine = alone(generator, ids, 16)
    end = next((i for i, t in enumerate(mine) if t in generator.ends), 16)
    assert mine[:end] == expected[:end]
    assert end > 3


@pytest.mark.parametrize("kind", KINDS)
def test_rows_join_and_leave_and_none_changes(loaded: dict[str, Generator], kind: str) -> None:
    generator = loaded[kind]
    decoder = generator.decoder
    assert decoder.shares
    prompts = [generator.tokens(text) for text in PROMPTS]
    expected = [alone(generator, ids, 12) for ids in prompts]
    found: list[list[int]] = []
    state: DecoderState | None = None
    for ids in prompts:  # each joins when the others have gone two tokens further
        one, logits = read(decoder, ids, 64)
        found.append([int(logits.argmax())])
        state = one if state is None else state.joined(one)
        for _ in range(2):
            logits = decoder.step(state, [row[-1] for row in found])
            for row, token in zip(found, logits.argmax(-1).tolist(), strict=True):
                row.append(token)
    assert state is not None
    state = state.selected([0, 2])  # the second leaves
    left = [found[0], found[2]]
    for _ in range(5):
        logits = decoder.step(state, [row[-1] for row in left])
        for row, token in zip(left, logits.argmax(-1).tolist(), strict=True):
            row.append(token)
    assert found[0][:12] == expected[0][:12]
    assert left[1] == expected[2][: len(left[1])]
    assert found[1] == expected[1][: len(found[1])]


def test_a_model_that_loses_its_positions_in_company_is_stepped_alone(tmp_path: Path) -> None:
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=400, d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48, init_std=0.3,
        max_position_embeddings=128, decoder_start_token_id=1, eos_token_id=1, bos_token_id=2,
        pad_token_id=0, forced_eos_token_id=None,
    )  # fmt: skip
    BartForConditionalGeneration(config).save_pretrained(tmp_path)
    make_tokenizer(tmp_path)
    generator = Generator.load(str(tmp_path))
    assert generator.decoder.shares is False
    assert alone(generator, generator.tokens("a"), 4)


def documents(count: int) -> list[Retrieved]:
    text = "The refund is paid on the day. The parcel was sent on Monday. " * 3
    return [Retrieved(f"Part {i}", text, None, 1.0, None) for i in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_documents_go_in_by_rank_as_far_as_they_fit(
    loaded: dict[str, Generator], kind: str
) -> None:
    generator = loaded[kind]
    context = generator.context = 256
    found = generator.completion("Where is my parcel?", documents(9), new=20)
    assert len(found.ids) + 20 <= context
    assert list(found.used) == list(range(len(found.used)))
    assert 0 < len(found.used) < 9
    text = generator.decode(found.ids)
    assert "[1] Part 0" in text
    assert text.rstrip().endswith("Where is my parcel?")
    bare = generator.completion("Where is my parcel?", [], new=20)
    assert len(bare.ids) < len(found.ids)
    with pytest.raises(PromptTooLong, match="context is 256"):
        generator.completion("parcel " * 400, [], new=20)
    with pytest.raises(PromptTooLong):
        generator.completion("parcel", [], new=300)


def test_the_chat_template_is_the_models_own_or_a_plain_one(
    loaded: dict[str, Generator],
) -> None:
    turns = [Turn("user", "a parcel"), Turn("assistant", "which"), Turn("user", "the refund")]
    own, plain = loaded["qwen2"], loaded["llama"]
    assert (own.plain, plain.plain) == (False, True)
    prompt = own.chat([Turn("system", "Be brief."), *turns], documents(1), new=20)
    whole = own._tokenizer.decode(list(prompt.ids))
    assert whole.startswith("<|im_start|>system\nBe brief.")
    assert whole.endswith("<|im_start|>assistant\n")
    assert "[1] Part 0" in whole
    prompt = plain.chat(turns, documents(1), new=20)
    assert plain.decode(prompt.ids).endswith("User: the refund\nAssistant:")
    assert prompt.stop == ("\nUser:",)


def test_a_template_that_takes_no_system_gets_the_documents_with_the_question(
    tmp_path: Path,
) -> None:
    generator = Generator.load(str(make("llama", tmp_path, template=STRICT)))
    prompt = generator.chat([Turn("user", "the refund")], documents(1), new=20)
    assert "[1] Part 0" in generator.decode(prompt.ids)
    generator._tokenizer.chat_template = "{{ raise_exception('never') }}"
    with pytest.raises(TemplateRefused, match="never"):
        generator.chat([Turn("user", "the refund")], [], new=20)


def copied(source: Path, target: Path, **config: Any) -> Path:
    shutil.copytree(source, target)
    known = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**known, **config}))
    return target


def test_pickle_weights_are_refused_by_name(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["gpt2"], tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    with pytest.raises(GeneratorRefused, match=r"no model\.safetensors"):
        Generator.load(str(folder))
    marker = tmp_path / "ran"
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch %s'\ntR." % bytes(marker))
    with pytest.raises(GeneratorRefused, match=r"pytorch_model\.bin.*safetensors are needed"):
        Generator.load(str(folder))
    assert not marker.exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_remote_code_is_refused_before_anything_is_loaded(
    folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    folder = copied(folders["gpt2"], tmp_path / "remote")
    marker = tmp_path / "ran"
    (folder / "code.py").write_text(f"open({str(marker)!r}, 'w')\nclass Model: ...\n")
    raw = json.loads((folder / name).read_text())
    raw["auto_map"] = {"AutoModelForCausalLM": "code.Model", "AutoTokenizer": ["code.Model", None]}
    (folder / name).write_text(json.dumps(raw))
    with pytest.raises(GeneratorRefused, match=rf"{name} names remote code"):
        Generator.load(str(folder))
    assert not marker.exists()


def test_what_else_is_refused_says_why(folders: dict[str, Path], tmp_path: Path) -> None:
    source = folders["llama"]
    quantised = {"quantization_config": {"quant_method": "gptq"}}
    cases: list[tuple[Path, str]] = [
        (tmp_path / "nothing", "is no folder"),
        (copied(source, tmp_path / "quantised", **quantised), "quantised .gptq."),
        (copied(source, tmp_path / "encoder", architectures=["LlamaModel"]), "writes no text"),
        (copied(source, tmp_path / "unknown", model_type="zq7"), "does not load"),
        (copied(source, tmp_path / "layers", num_hidden_layers=4), "weights are missing"),
    ]
    adapter = copied(source, tmp_path / "adapter")
    (adapter / "adapter_config.json").write_text("{}")
    cases.append((adapter, "adapter is no whole model"))
    cut = copied(source, tmp_path / "cut")
    raw = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(raw[:-7])
    cases.append((cut, "no whole safetensors"))
    sharded = copied(source, tmp_path / "sharded")
    (sharded / "model.safetensors").rename(sharded / "a.safetensors")
    index = sharded / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "../sharded/a.bin"}}))
    cases.append((sharded, "does not list safetensors"))
    empty = tmp_path / "empty"
    empty.mkdir()
    cases.append((empty, r"no config\.json"))
    for folder, told in cases:
        with pytest.raises(GeneratorRefused, match=told):
            Generator.load(str(folder))
    index.write_text(json.dumps({"weight_map": {"x": "b.safetensors"}}))
    with pytest.raises(GeneratorRefused, match="are not there"):
        Generator.load(str(sharded))


def test_memory_is_counted_before_loading(folders: dict[str, Path], monkeypatch: Any) -> None:
    files = GeneratorFiles.of(folders["llama"])
    model = Generator.load(str(folders["llama"])).decoder.model
    assert files.parameters == sum(p.numel() for p in model.parameters())
    assert files.cache_values == 2 * 3 * 2 * 12
    assert files.needed(2, context=100, streams=4) == 2 * (files.parameters + 144 * 400)
    assert GeneratorFiles.of(folders["t5"]).cache_values == 2 * 3 * 4 * 12
    assert available_memory() > 2**20
    monkeypatch.setattr("model.text_generation.generator_files.available_memory", lambda: 2**20)
    with pytest.raises(GeneratorRefused, match=r"needs 0\.25 GiB .*and 0\.00 GiB are available"):
        Generator.load(str(folders["llama"]))


def test_a_folder_in_shards_loads(folders: dict[str, Path], tmp_path: Path) -> None:
    whole = Generator.load(str(folders["gpt2"]))
    whole.decoder.model.save_pretrained(tmp_path, max_shard_size="60KB")
    make_tokenizer(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again = Generator.load(str(tmp_path))
    ids = whole.tokens(PROMPTS[0])
    assert alone(again, ids, 6) == alone(whole, ids, 6)
    assert again.sha256 != whole.sha256
    assert located(str(tmp_path)) == tmp_path


def test_a_text_is_cut_at_a_sentence() -> None:
    text = "One two three. Four five six. Seven"
    assert shortened(text, 30, len) == "One two three. Four five six."
    assert shortened(text, 25, len) == "One two three."
    assert shortened("onetwo three four", 9, len) == "onetwo"
