"""The generator's thread: company changes nothing, room is bounded, who leaves is dropped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

from app.inference.generated_text import Piece, Ticket
from app.inference.generator_engine import GeneratorEngine
from app.inference.model_thread import EngineClosed
from app.metrics import BatchStats
from model.text_generation.generator import Generator
from model.text_generation.prompting import Prompt
from model.text_generation.sampling import Sampling

TEXTS = ["a parcel", "Where is my refund? It was " * 6, "the", "0 1 2 3 4", "退款", "User: a"]
WAIT_S = 120.0


class Run:
    """An engine with what it told of its steps."""

    def __init__(self, folder: Path, streams: int) -> None:
        self.steps: list[BatchStats] = []
        load = lambda: Generator.load(str(folder))  # noqa: E731
        self.engine = GeneratorEngine(load, streams=streams, observe=self.steps.append)
        self.generator = self.engine.start().result()

    def prompt(self, text: str, new: int = 12) -> Prompt:
        made: Prompt = self.engine.call(lambda g: g.completion(text, [], new=new)).result()
        return made

    def write(
        self, prompt: Prompt, told: Callable[[Piece], None] = lambda piece: None, **sampling: Any
    ) -> tuple[Ticket, Future[tuple[str, Piece]]]:
        """A text that is being generated, and the whole of it."""
        done: Future[tuple[str, Piece]] = Future()
        parts: list[str] = []

        def deliver(piece: Piece) -> None:
            parts.append(piece.text)
            told(piece)
            if piece.error is not None:
                done.set_exception(piece.error)
            elif piece.finish is not None:
                done.set_result(("".join(parts), piece))

        wanted = Sampling(**{"max_new_tokens": 12, **sampling})
        return self.engine.generate(prompt, wanted, deliver), done


@pytest.fixture(scope="module")
def run(generator_folder: Path) -> Iterator[Run]:
    made = Run(generator_folder, streams=3)
    yield made
    made.engine.close()


def test_texts_in_company_are_the_texts_alone(run: Run) -> None:
    prompts = [run.prompt(text) for text in TEXTS]
    settings: list[dict[str, Any]] = [
        {"temperature": 0.0 if i % 2 else 1.0, "seed": i} for i in range(len(TEXTS))
    ]
    alone = [run.write(p, **s)[1].result(WAIT_S) for p, s in zip(prompts, settings, strict=True)]
    run.steps.clear()
    begun = [run.write(p, **s)[1] for p, s in zip(prompts, settings, strict=True)]
    together = [done.result(WAIT_S) for done in begun]
    assert [(text, piece.ids) for text, piece in together] == [
        (text, piece.ids) for text, piece in alone
    ]
    sizes = {step.size for step in run.steps if step.kind == "generate"}
    assert max(sizes) == 3  # as many as there is room for, and never more
    assert run.engine.active() == 0
    assert any(piece.waited > 0 for _, piece in together)


def test_who_leaves_is_dropped_wherever_the_text_stands(run: Run) -> None:
    begun = threading.Event()
    prompt = run.prompt("a parcel", 300)
    first, _ = run.write(prompt, lambda piece: begun.set(), max_new_tokens=300, stop=("zq7",))
    others = [run.write(prompt, max_new_tokens=300)[0] for _ in range(5)]
    assert begun.wait(WAIT_S)
    for ticket in (first, *others):
        ticket.cancel()
    last = run.write(run.prompt("the"))[1].result(WAIT_S)
    assert last[1].finish in ("stop", "length")
    assert run.engine.active() == 0
    steps = sum(step.kind == "generate" for step in run.steps)
    assert steps < 300


def test_a_known_text_is_scored_as_the_model_itself_does(run: Run) -> None:
    prompts = [run.prompt(text) for text in TEXTS[:2]]
    answer = run.engine.call(lambda g: g.tokens("the refund")).result()
    scored = run.engine.score(prompts, answer).result(WAIT_S)
    for prompt, found in zip(prompts, scored, strict=True):
        ids = prompt.ids
        whole = torch.tensor([[*ids, *answer]])
        with torch.inference_mode():
            logits = run.generator.decoder.model(whole).logits[0, len(ids) - 1 : -1].float()
        expected = logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum()
        assert found.logprob == pytest.approx(float(expected), abs=1e-3)
        assert list(found.choices) == logits.argmax(-1).tolist()


def test_a_long_prompt_holds_nobody_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # Else this one is read at once, and both before the first step.
    monkeypatch.setattr("app.inference.generator_engine.PARTS", (16,) * 6)
    monkeypatch.setattr("app.inference.generator_engine.PART_S", 0.0)
    run.steps.clear()
    long = run.prompt("Where is my refund? " * 40)
    order: list[str] = []
    _, slow = run.write(long, lambda piece: order.append("long"))
    _, quick = run.write(run.prompt("the"), lambda piece: order.append("short"))
    slow.result(WAIT_S)
    quick.result(WAIT_S)
    parts = [step.kind for step in run.steps if step.kind == "prompt"]
    assert len(parts) > 10
    assert order[0] == "short"


def test_a_fault_is_told_and_the_thread_lives_on(run: Run) -> None:
    with pytest.raises(IndexError):
        run.write(Prompt((10**6,), ()))[1].result(WAIT_S)
    assert run.write(run.prompt("the"))[1].result(WAIT_S)
    with pytest.raises(ZeroDivisionError):
        run.engine.call(lambda generator: 1 // 0).result(WAIT_S)


def test_an_engine_that_closes_tells_those_that_wait(generator_folder: Path) -> None:
    closing = Run(generator_folder, streams=1)
    begun = threading.Event()
    prompt = closing.prompt("a parcel", 400)
    dones = [
        closing.write(prompt, lambda piece: begun.set(), max_new_tokens=400)[1] for _ in range(3)
    ]
    scoring = closing.engine.score([prompt], [1, 2])
    assert begun.wait(WAIT_S)
    closing.engine.close()
    assert all(done.done() for done in dones)
    assert isinstance(dones[-1].exception(), EngineClosed)
    assert scoring.done()
    with pytest.raises(EngineClosed):
        closing.engine.call(lambda generator: None)


def test_a_generator_that_is_refused_says_so(tmp_path: Path) -> None:
    engine = GeneratorEngine(lambda: Generator.load(str(tmp_path)), streams=1)
    with pytest.raises(RuntimeError, match=r"no config\.json"):
        engine.start().result(WAIT_S)
