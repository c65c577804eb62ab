"""The language model that ships: it loads by its name, reads its passages, and writes text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.cli import doctor
from app.inference.language_models import SHIPPED_LANGUAGE, generator_source
from app.settings import Settings
from index_data.documents import Document
from model.lm.generator import LMGenerator
from tests.app.conftest import serving

DOSES = "The starting dose of amoxirin is forty milligrams taken twice a day with water."
ELSEWHERE = "The cathedral stands on the north side of the market place, beside the river."


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, settings_for: Any) -> Settings:
    made: Settings = settings_for(tmp_path_factory.mktemp("shipped"), generator="shipped")
    return made


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    with serving(settings) as client:
        posted = [{"id": "doses", "text": DOSES}, {"id": "elsewhere", "text": ELSEWHERE}]
        assert client.post("/documents", json={"documents": posted}).status_code == 200
        yield client


def written(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/predict", json={"task": "generation", **body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_the_name_means_the_one_beside_the_code() -> None:
    assert generator_source("shipped") == str(SHIPPED_LANGUAGE)
    assert generator_source("./shipped") == "./shipped"


def test_it_writes_words_and_names_itself(client: TestClient) -> None:
    body = written(client, input="The starting dose of amoxirin is", params={"max_new_tokens": 24})
    item = body["data"][0]
    words = item["output"]["text"].split()
    assert len(words) >= 10
    assert sum(word.strip(".,;:").isalpha() for word in words) > len(words) / 2
    assert item["citations"][0]["doc_id"] == "doses"
    assert body["model"]["generator"]["name"] == SHIPPED_LANGUAGE.name


def test_a_seed_writes_the_same_again(client: TestClient) -> None:
    params = {"max_new_tokens": 16, "temperature": 0.8, "top_p": 0.9, "seed": 7}
    texts = [
        written(client, input="It was", params=params | {"seed": seed})["data"][0]["output"]["text"]
        for seed in (7, 7, 8)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_doctor_finds_it_whole(settings: Settings) -> None:
    (found,) = doctor.generator(settings)
    assert (found.state, found.detail.split(",")[0]) == ("ok", SHIPPED_LANGUAGE.name)


@pytest.mark.parametrize("answer", [" forty milligrams taken twice a day", " forty milligrams"])
def test_what_it_retrieved_makes_what_it_says_likelier(answer: str) -> None:
    loaded = LMGenerator.load(SHIPPED_LANGUAGE, device="cpu", context=256, streams=1)
    asked = "The starting dose of amoxirin is"
    likely = [
        log_probability(loaded, asked, answer, [Document("d", text)]) for text in (DOSES, ELSEWHERE)
    ]
    assert likely[0] > likely[1] + 2  # nats


def log_probability(
    generator: LMGenerator, asked: str, answer: str, documents: list[Document]
) -> float:
    """Of an answer after a prompt beside documents, in nats."""
    ids = generator.tokens(answer)
    prompt = generator.completion(asked, documents, new=len(ids))
    *_, (state, said) = generator.read(prompt, iter(lambda: 64, 0))
    total = float(said[ids[0]])
    follow = generator.decoder.follow(state, ids[:-1])
    return total + sum(float(row[i]) for row, i in zip(follow, ids[1:], strict=True))


def test_it_lies_whole_beside_the_code() -> None:
    assert {path.name for path in SHIPPED_LANGUAGE.iterdir()} == {
        "config.json", "manifest.json", "model.safetensors", "report.json", "tokenizer.json",
    }  # fmt: skip
