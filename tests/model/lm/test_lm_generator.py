"""A language model of ours as a generator: documents as memory, one pass or many, its window."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from model.lm.config import SPECIAL, START
from model.lm.generator import PASSAGES, LMGenerator, is_language_model
from model.text_generation.generator_files import GeneratorRefused
from model.text_generation.prompting import Prompt, PromptTooLong
from model.text_generation.sampling import Sampler, Sampling
from tests.model.tiny_generators import make_language_model

ASKED = "Where is my parcel?"


@dataclass
class Passage:
    title: str | None
    text: str


DOCUMENTS = [Passage("Delivery", "The parcel is late."), Passage(None, "Refunds take five days.")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_language_model(tmp_path_factory.mktemp("language") / "tiny")


@pytest.fixture(scope="module")
def generator(folder: Path) -> LMGenerator:
    return LMGenerator.load(folder, device="cpu", context=128, streams=2)


def written(generator: LMGenerator, prompt: Prompt, part: int = 16, **given: Any) -> list[int]:
    sampler = Sampler(Sampling(**given))
    *_, (state, said) = generator.read(prompt, iter(lambda: part, None))
    ids = [sampler.choose(said)]
    for _ in range(11):
        ids.append(sampler.choose(generator.decoder.step(state, ids[-1:])[0]))
    return ids


def test_documents_are_memory_and_no_part_of_the_prompt(generator: LMGenerator) -> None:
    prompt = generator.completion("Where is", DOCUMENTS, new=8)
    assert prompt.ids == (START, *generator.tokens("Where is"))
    assert prompt.used == (0, 1)
    length = generator.decoder.model.config.passage
    for passage, whole in zip(
        prompt.passages, ("Delivery\nThe parcel is late.", DOCUMENTS[1].text), strict=True
    ):
        assert list(passage) == generator.tokens(whole)[:length]
    assert prompt.cut
    closed = generator.completion("Where is", [], new=8)
    *_, (_, said) = generator.read(prompt, iter(lambda: 16, None))
    *_, (_, alone) = generator.read(closed, iter(lambda: 16, None))
    assert not torch.allclose(said, alone)
    assert float(said.exp().sum()) == pytest.approx(1, abs=1e-4)
    many = generator.completion("Where is", DOCUMENTS * PASSAGES, new=8)
    assert len(many.used) == PASSAGES


def test_a_text_follows_its_seed_and_not_the_parts_that_it_was_read_in(
    generator: LMGenerator,
) -> None:
    prompt = generator.completion(ASKED, DOCUMENTS, new=12)
    greedy = written(generator, prompt)
    assert greedy == written(generator, prompt, part=1) == written(generator, prompt, seed=9)
    warm: dict[str, Any] = {"temperature": 1.0, "seed": 1}
    assert written(generator, prompt, **warm) == written(generator, prompt, **warm)
    assert written(generator, prompt, **warm) != written(generator, prompt, **warm | {"seed": 2})
    assert min(written(generator, prompt, temperature=2.0)) >= SPECIAL


def test_known_tokens_are_scored_as_they_were_written(generator: LMGenerator) -> None:
    prompt = generator.completion(ASKED, DOCUMENTS, new=12)
    ids = written(generator, prompt)
    *_, (state, said) = generator.read(prompt, iter(lambda: 16, None))
    rows = torch.stack([said, *generator.decoder.follow(state, ids[:-1])])
    assert rows.argmax(-1).tolist() == ids


def test_a_prompt_beyond_the_window_is_read_from_where_it_is_in_view(
    generator: LMGenerator,
) -> None:
    long = generator.completion("0 1 2 3 " * 20, DOCUMENTS, new=12)
    assert long.unseen == len(long.ids) - generator.window > 0
    assert len(written(generator, long)) == 12
    with pytest.raises(PromptTooLong, match="context is 128"):
        generator.completion("0 1 2 3 " * 200, DOCUMENTS, new=12)
    with pytest.raises(PromptTooLong, match="context is 128"):
        generator.completion("x" * 100_000, DOCUMENTS, new=12)
    empty = generator.completion("", DOCUMENTS, new=12)
    assert empty.ids == (START,)
    assert len(written(generator, empty)) == 12


def test_a_model_without_memory_uses_no_document(tmp_path: Path) -> None:
    place = make_language_model(tmp_path / "bare", k=0)
    generator = LMGenerator.load(place, device="cpu", context=128, streams=2)
    prompt = generator.completion("Where is", DOCUMENTS, new=8)
    assert (prompt.used, prompt.passages) == ((), ())
    assert len(written(generator, prompt)) == 12


def test_what_does_not_load_is_refused_with_the_reason(folder: Path, tmp_path: Path) -> None:
    assert is_language_model(folder)
    assert not is_language_model(tmp_path)
    damaged = make_language_model(tmp_path / "damaged")
    weights = damaged / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(GeneratorRefused, match="sha256"):
        LMGenerator.load(damaged, device="cpu", context=128, streams=2)
    with pytest.raises(GeneratorRefused, match="GiB"):
        LMGenerator.load(folder, device="cpu", context=128, streams=10**9)
