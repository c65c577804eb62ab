"""The API of OpenAI's clients: their requests as predictions, and predictions as their answers.

Chats are the task ``dialogue``, completions the task ``generation``; citations, sentences and
support stand in extra fields. It knows no HTTP.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import orjson

from app.inference.snapshot import MODEL_NAME, Snapshot
from app.predict.dialogue import chat_generator
from app.predict.driver import Driver, no_model
from app.problems import FieldError, Problem
from app.schemas.openai import ChatRequest, CompletionRequest, Shared
from app.schemas.predict import Params, TaskRequest
from app.web.streaming import Emit, Event, silent

CHAT_TOKENS = 256  # generated where a chat names no number, at most a quarter of the context
COMPLETION_TOKENS = 16  # OpenAI's own default
POINTERS = (("#/input/messages", "#/messages"), ("#/input", "#/prompt"), ("#/params", "#"))
Kind = Literal["chat.completion", "text_completion"]


def models(started: int, snapshot: Snapshot) -> dict[str, Any]:
    """The answer of ``GET /v1/models``. ``started``: when the server did, in Unix seconds."""
    return {"object": "list", "data": [model(started, n) for n in names(snapshot)]}


def model(started: int, name: str) -> dict[str, Any]:
    """One model of the list."""
    return {"id": name, "object": "model", "created": started, "owned_by": MODEL_NAME}


def names(snapshot: Snapshot) -> list[str]:
    """The names that a request may use."""
    generator = snapshot.generator
    return [MODEL_NAME] if generator is None else [MODEL_NAME, generator.info.name]


def check_model(snapshot: Snapshot, name: str) -> None:
    """Raise ``model_not_found`` for a model that does not serve."""
    serving = snapshot.serving
    if name not in names(snapshot) and (serving is None or name != serving.model.version):
        known = ", ".join(names(snapshot))
        raise no_model("unknown model", f"No such model serves; there are: {known}.")


async def chat(driver: Driver, request: ChatRequest, emit: Emit = silent) -> dict[str, Any]:
    """The prediction behind ``POST /v1/chat/completions``. Raises :class:`Problem`."""
    snapshot = loaded(driver, request)
    check_model(snapshot, request.model)
    given = {"messages": [plain(m) for m in request.messages]}
    most = request.max_completion_tokens or request.max_tokens
    if most is None:
        generator = chat_generator(snapshot)
        most = CHAT_TOKENS if generator is None else min(CHAT_TOKENS, generator.info.context // 4)
    return await predicted(driver, task_request("dialogue", given, request, most), emit)


async def completion(
    driver: Driver, request: CompletionRequest, emit: Emit = silent
) -> dict[str, Any]:
    """The prediction behind ``POST /v1/completions``. Raises :class:`Problem`."""
    snapshot = loaded(driver, request)
    check_model(snapshot, request.model)
    if snapshot.generator is None:
        raise no_model(
            "writes no completions",
            "This server has no generator (FOOTNOTE_GENERATOR); it can do: chat completions.",
        )
    most = request.max_tokens or COMPLETION_TOKENS
    generation = task_request("generation", request.prompt, request, most)
    prediction = await predicted(driver, generation, emit)
    for item in prediction["data"]:
        if "error" in item:
            with client_pointers():
                raise refused(item["error"])
    return prediction


def loaded(driver: Driver, request: Shared) -> Snapshot:
    """What serves. Raises ``not-ready`` while it is unknown which models will."""
    driver.status.check(index=request.retrieval.mode == "index")
    return driver.snapshots.now()


async def predicted(driver: Driver, request: TaskRequest, emit: Emit) -> dict[str, Any]:
    """A prediction. Raises :class:`Problem` with pointers into the client's own request."""
    with client_pointers():
        prediction: dict[str, Any] = orjson.loads(await driver.predict(request, emit))
        return prediction


def task_request(
    task: Literal["dialogue", "generation"], given: Any, request: Shared, most: int
) -> TaskRequest:
    """A client's request as one of a task."""
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    params: dict[str, Any] = {"max_new_tokens": most}
    sampling = {"temperature": request.temperature, "top_p": request.top_p, "seed": request.seed}
    params |= {name: value for name, value in sampling.items() if value is not None}
    if stop:
        params["stop"] = stop
    return TaskRequest(
        task=task,
        input=given,
        retrieval=request.retrieval,
        params=Params(**params),
        explain=request.explain,
        abstain=request.abstain,
        stream=bool(request.stream),
    )


def plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as role and text; other fields of one that was answered are left out."""
    if "role" not in message or "content" not in message:
        return dict(message)
    role, content = message["role"], message["content"]
    if isinstance(content, list):
        parts: list[Any] = [p.get("text") if isinstance(p, dict) else None for p in content]
        content = "".join(parts) if all(isinstance(p, str) for p in parts) else None
    return {"role": "system" if role == "developer" else role, "content": content}


def refused(error: Mapping[str, Any]) -> Problem:
    """The problem of one of several prompts, as that of the request."""
    errors = [FieldError(e["pointer"], e["detail"]) for e in error.get("errors", ())]
    more = {"code": error["code"]} if "code" in error else {}
    return Problem("validation", error["detail"], errors=errors, more=more)


@contextmanager
def client_pointers() -> Iterator[None]:
    """Let problems point into the client's own request."""
    try:
        yield
    except Problem as problem:
        problem.errors = tuple(FieldError(place(e.pointer), e.detail) for e in problem.errors)
        raise


def place(pointer: str) -> str:
    """A pointer into the task's request as one into the client's."""
    for own, theirs in POINTERS:
        if pointer.startswith(own):
            return theirs + pointer.removeprefix(own)
    return pointer


def answer(kind: Kind, request: Shared, prediction: Mapping[str, Any]) -> dict[str, Any]:
    """A prediction in the shape of a chat or of completions."""
    choices = []
    for item in prediction["data"]:
        output = item["output"]
        choice: dict[str, Any] = {"index": item["index"], "logprobs": None}
        if kind == "chat.completion":
            choice["message"] = {**output["message"], "refusal": None}
        else:
            choice["text"] = output["text"]
        choices.append({**choice, "finish_reason": output["finish_reason"]})
    body = head(kind, request) | {"choices": choices, "usage": usage(prediction)}
    return body | extra(prediction)


def head(kind: str, request: Shared) -> dict[str, Any]:
    """What every answer and every chunk begins with."""
    prefix = "chatcmpl" if kind.startswith("chat") else "cmpl"
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": request.model,
    }


def extra(prediction: Mapping[str, Any]) -> dict[str, Any]:
    """The fields beside OpenAI's: of the first input, and the id of the prediction."""
    first = prediction["data"][0]
    own = {"citations": first.get("citations"), "sentences": first["output"]["sentences"]}
    own |= {"support": first["support"], "abstained": first["abstained"]}
    return own | {"prediction_id": prediction["id"], "warnings": prediction["warnings"]}


def usage(prediction: Mapping[str, Any]) -> dict[str, int]:
    """Tokens, as OpenAI counts them."""
    counted = prediction["usage"]
    return {n: counted[n] for n in ("prompt_tokens", "completion_tokens", "total_tokens")}


async def chunks(
    kind: Kind, request: Shared, events: AsyncIterator[Event], problem: Callable[[Problem], Any]
) -> AsyncIterator[Any]:
    """The events of a prediction as a client's chunks, without the end mark.

    ``problem`` makes the body of an error that comes later.
    """
    chatting = kind == "chat.completion"
    begin = head("chat.completion.chunk" if chatting else kind, request)
    options = request.stream_options
    counted = options is not None and options.include_usage
    streamed = False

    def chunk(text: str | None, finish: str | None = None, **more: Any) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish}
        if chatting:
            choice["delta"] = {} if text is None else {"content": text}
        else:
            choice["text"] = text or ""
        body = {**begin, "choices": [choice], **more}
        return {**body, "usage": None} if counted else body

    async for event in events:
        if event.name == "retrieval":
            first = chunk("", **event.data)
            if chatting:
                first["choices"][0]["delta"]["role"] = "assistant"
            yield first
        elif event.name == "token":
            streamed = True
            yield chunk(event.data["text"])
        elif event.name == "error":
            yield problem(event.data)
            return
        else:
            output = event.data["data"][0]["output"]
            text = output["message"]["content"] if chatting else output["text"]
            if text and not streamed:
                yield chunk(text)
            yield chunk(None, output["finish_reason"], **extra(event.data))
            if counted:
                yield {**begin, "choices": [], "usage": usage(event.data)}
