"""A client that leaves in the middle of a text: what is under way ends, and nothing is begun."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from app.inference.generator_engine import GeneratorEngine
from app.state import Footnote
from tests.app.conftest import listening

SAID = "Where is my parcel, please"  # more than an echo of a document: chats are answered
CHAT = {"model": "footnote", "messages": [{"role": "user", "content": SAID}], "max_tokens": 400}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "footnote", "prompt": SAID, "max_tokens": 400},
    "/predict": {"task": "generation", "input": SAID, "params": {"max_new_tokens": 400}},
}
PATIENCE_S = 30.0
STEP_S = 0.01  # of a model of some size
STOPPED_S = 0.1


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, settings_for: Any, generator_folder: Any
) -> Iterator[tuple[str, Footnote]]:
    settings = settings_for(tmp_path_factory.mktemp("leaving"), generator=str(generator_folder))
    with listening(settings) as found:
        yield found


def engine_of(footnote: Footnote) -> GeneratorEngine:
    generator = footnote.snapshot().generator
    assert generator is not None
    return generator


class Watched:
    """A generator whose calls of one function are counted, and wait at a gate or take a while."""

    def __init__(self, engine: GeneratorEngine, name: str, *, seconds: float | None = None) -> None:
        self.calls = 0
        self.inside, self.gate = threading.Event(), threading.Event()
        self._engine, self._name = engine, name
        decoder: Any = engine.call(lambda g: g.decoder).result()
        function: Callable[..., Any] = getattr(decoder, name)

        def watched(*given: Any, **named: Any) -> Any:
            self.calls += 1
            self.inside.set()
            if seconds is None:
                assert self.gate.wait(PATIENCE_S)
            else:
                time.sleep(seconds)
            return function(*given, **named)

        setattr(decoder, name, watched)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._engine.call(lambda g: delattr(g.decoder, self._name)).result()


def wait(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("path", "function"),
    [
        *((path, "step") for path in BODIES),
        ("/predict", "_forward"),  # the prompt is being read
        ("/predict", "follow"),  # the text is written, and its documents are left out in turn
    ],
)
def test_nothing_is_begun_once_it_is_seen_that_the_client_left(
    served: tuple[str, Footnote], path: str, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "app.inference.generator_engine.PARTS", (16,) * 6
    )  # else it is read at once
    address, footnote = served
    engine = engine_of(footnote)
    body = {**BODIES[path], "stream": True}
    if function == "follow":
        body |= {"explain": ["influence"], "params": {"max_new_tokens": 3}}
    with Watched(engine, function) as watched:
        with httpx.stream("POST", address + path, json=body, timeout=PATIENCE_S) as answer:
            lines = answer.iter_lines()  # kept: when it goes, so does the connection
            assert next(lines)
            assert watched.inside.wait(PATIENCE_S)
            assert footnote.permits.taken == 1
        wait(lambda: footnote.permits.taken == 0)
        watched.gate.set()  # only now does the step end that was under way
        wait(lambda: not engine.active())
        engine.call(lambda g: None).result()  # the thread has come round
        engine.call(lambda g: None).result()
        assert watched.calls == 1


@pytest.mark.slow
@pytest.mark.parametrize("path", BODIES)
def test_the_work_stops_within_100_ms(served: tuple[str, Footnote], path: str) -> None:
    address, footnote = served
    engine = engine_of(footnote)
    took = []
    with Watched(engine, "step", seconds=STEP_S):
        for _ in range(7):  # the middle one: a busy machine pauses at odd moments
            body = {**BODIES[path], "stream": True}
            with httpx.stream("POST", address + path, json=body, timeout=PATIENCE_S) as answer:
                lines = answer.iter_lines()
                for _ in range(6):
                    next(lines)
                assert engine.active() == 1
            left = time.perf_counter()
            wait(lambda: not engine.active())
            took.append(time.perf_counter() - left)
    assert statistics.median(took) < STOPPED_S, took
