"""OpenAI's own client against a real server: chats, completions, streams, models, errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from app.state import Footnote
from tests.app.conftest import TICKETS, listening

KEY = "p" * 24
ASKED: list[Any] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "I have a question"},
    {"role": "assistant", "content": "Please ask"},
    {"role": "user", "content": TICKETS["delivery"][0]},
]


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, settings_for: Any, generator_folder: Path
) -> Iterator[tuple[str, Footnote]]:
    settings = settings_for(
        tmp_path_factory.mktemp("openai"), generator=str(generator_folder), predict_key=KEY
    )
    with listening(settings) as found:
        yield found


@pytest.fixture(scope="module")
def client(served: tuple[str, Footnote]) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served[0]}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def test_the_models_are_listed(client: OpenAI, served: tuple[str, Footnote]) -> None:
    generator = served[1].snapshot().generator
    assert generator is not None
    names = [model.id for model in client.models.list()]
    assert names == ["footnote", generator.info.name]
    assert client.models.retrieve("footnote").owned_by == "footnote"
    with pytest.raises(openai.NotFoundError) as told:
        client.models.retrieve("gpt-4o")
    assert told.value.code == "model_not_found"


def test_a_chat_is_answered_with_citations(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="footnote", messages=ASKED, max_tokens=12, seed=1, temperature=0
    )
    assert answer.object == "chat.completion"
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage is not None
    written = answer.usage.completion_tokens
    assert 0 < written <= 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + written
    extra = answer.model_extra or {}
    assert extra["citations"][0]["doc_id"] == "delivery-0"
    assert {"start", "end", "citations", "supported"} == set(extra["sentences"][0])
    assert extra["prediction_id"].startswith("pred_")


def test_a_streamed_chat_is_the_same_text(client: OpenAI) -> None:
    whole = client.chat.completions.create(model="footnote", messages=ASKED, max_tokens=12)
    chunks = list(
        client.chat.completions.create(
            model="footnote",
            messages=ASKED,
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert (chunks[0].model_extra or {})["citations"][0]["doc_id"] == "delivery-0"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] in ("stop", "length")
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_completions_single_several_and_streamed(client: OpenAI) -> None:
    prompt = TICKETS["billing"][0]
    one = client.completions.create(model="footnote", prompt=prompt, max_tokens=8)
    multilabel = client.completions.create(model="footnote", prompt=[prompt] * 2, max_tokens=8)
    assert [choice.index for choice in multilabel.choices] == [0, 1]
    assert {choice.text for choice in multilabel.choices} == {one.choices[0].text}
    stream = client.completions.create(
        model="footnote", prompt=prompt, max_tokens=8, stream=True, stop="zq7 never"
    )
    assert "".join(c.choices[0].text for c in stream if c.choices) == one.choices[0].text


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages/0/content"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
            "messages/1/role",
        ),
        ({"messages": [{"role": "user", "content": "parcel " * 3_000}]}, "messages"),
        ({"temperature": 3}, "temperature"),
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "a"}}]}, "tools"),
        ({"extra_body": {"retrieval": {"k": 0}}}, "retrieval/k"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests_in_openais_shape(
    client: OpenAI, more: dict[str, Any], param: str, stream: bool
) -> None:
    given: dict[str, Any] = {"model": "footnote", "messages": ASKED, "stream": stream, **more}
    with pytest.raises(openai.UnprocessableEntityError) as told:
        client.chat.completions.create(**given)
    assert told.value.param == param
    assert told.value.type == "invalid_request_error"
    if "parcel" in str(more):
        assert told.value.code == "context_length_exceeded"


def test_who_may_and_which_model(served: tuple[str, Footnote], client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as told:
        client.chat.completions.create(model="gpt-4o", messages=ASKED)
    assert told.value.code == "model_not_found"
    with (
        OpenAI(base_url=f"{served[0]}/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()
