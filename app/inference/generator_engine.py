"""The generator's own thread: texts are generated here token by token, many in each forward pass.

Between any two steps, texts join and leave, a prompt is read a part further (parts take about
:data:`PART_S`), and texts whose client disconnected are dropped. So a long prompt holds nobody up,
nothing goes on for longer than a step after it is cancelled, and the classifier, which has a thread
of its own, is not waited for and does not wait.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from collections.abc import Generator as _Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from app.inference.generated_text import GeneratorInfo, Piece, Scored, Ticket
from app.inference.model_thread import EngineClosed, ModelThread, fail, settle
from app.metrics import BatchStats, Observe

if TYPE_CHECKING:
    from torch import Tensor

    from app.inference.generated_text import AnyGenerator
    from model.text_generation.prompting import Prompt
    from model.text_generation.sampling import Finish, Sampler, Sampling, TextStream

logger = logging.getLogger(__name__)

Generated = _Generator[None, None, None]
PART_S = 0.04  # of work on prompts between two steps, and in one part of a prompt
PARTS = (16, 32, 64, 128, 256, 512)  # tokens of a part


@dataclass(slots=True, eq=False)
class _Row:
    ticket: Ticket
    sampler: Sampler
    text: TextStream
    ids: list[int] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Batch:
    state: Any  # of rows that share a pass: a DecoderState or an LMSession
    rows: list[_Row]


class GeneratorEngine(ModelThread["AnyGenerator"]):
    """One generator on one thread.

    Args:
        load: Makes the generator; called on its thread, which alone touches it afterwards.
        streams: Texts generated at once; more wait.
        observe: Called with every step.
    """

    def __init__(
        self,
        load: Callable[[], AnyGenerator],
        *,
        streams: int,
        observe: Observe | None = None,
    ) -> None:
        super().__init__("generator", load, observe)
        self._streams = streams
        self._waiting: deque[Ticket] = deque()
        self._tasks: deque[Generated] = deque()  # prompts that are being read
        self._reading: list[Ticket] = []  # the texts that they are of
        self._batches: list[_Batch] = []
        self._closed = False
        self._part = 1  # place in PARTS

    @property
    def info(self) -> GeneratorInfo:
        """What is loaded; not before it is."""
        generator = self._loaded.result(timeout=0)
        return GeneratorInfo(generator.name, generator.sha256, generator.context, generator.chats)

    def generate(
        self, prompt: Prompt, sampling: Sampling, deliver: Callable[[Piece], None]
    ) -> Ticket:
        """Generate a text. ``deliver`` is called on the generator's thread and must not block."""
        return self._put(self._waiting, Ticket(prompt, sampling, deliver))

    def score(self, prompts: Sequence[Prompt], answer: Sequence[int]) -> Future[list[Scored]]:
        """The log-probability of ``answer`` after each of the prompts."""
        future: Future[list[Scored]] = Future()

        def begin(generator: AnyGenerator) -> None:
            self._tasks.append(self._scoring(generator, prompts, answer, future))

        self.call(begin)
        return future

    def active(self) -> int:
        """Texts that are being generated or wait."""
        return len(self._waiting) + len(self._reading) + sum(len(b.rows) for b in self._batches)

    def close(self, timeout: float | None = 10) -> None:
        """End, with :class:`EngineClosed` for whoever still waits."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self.join(timeout)

    def _check_open(self) -> None:
        if self._closed:
            raise EngineClosed("the generator was closed")

    def _serve(self, generator: AnyGenerator) -> None:
        while self._awaited():
            while self._calls:
                settle(*self._calls.popleft(), generator)
            self._admit(generator)
            self._read_parts()
            for batch in list(self._batches):
                self._step(generator, batch)
        self._fail(EngineClosed("the generator was closed"))

    def _awaited(self) -> bool:
        """Wait for work; False when the thread is to end."""
        with self._wake:
            while not (
                self._closed or self._calls or self._waiting or self._tasks or self._batches
            ):
                self._wake.wait()
            return not self._closed

    def _admit(self, generator: AnyGenerator) -> None:
        """Begin to read as many prompts as there are free streams."""
        while self._waiting:
            busy = len(self._reading) + sum(len(b.rows) for b in self._batches)
            if busy >= self._streams and not self._waiting[0].cancelled:
                return
            ticket = self._waiting.popleft()
            if not ticket.cancelled:
                ticket.begun = time.perf_counter()
                self._reading.append(ticket)
                self._tasks.append(self._beginning(generator, ticket))

    def _read_parts(self) -> None:
        """Parts of prompts, in turns, so that a short one is soon done; for :data:`PART_S`."""
        began = time.thread_time()
        while self._tasks:
            task = self._tasks.popleft()
            if next(task, self) is not self:
                self._tasks.append(task)
            if time.thread_time() - began > PART_S:
                return

    def _beginning(self, generator: AnyGenerator, ticket: Ticket) -> Generated:
        """Read a text's prompt, then let it join those that are generated."""
        from model.text_generation.sampling import Sampler, TextStream

        decoder, prompt, sampling = generator.decoder, ticket.prompt, ticket.sampling
        try:
            done = yield from self._read(generator, prompt, lambda: ticket.cancelled)
            if done is None:
                return
            before = () if decoder.seq2seq else prompt.ids
            text = TextStream(generator.decode, before, (*sampling.stop, *prompt.stop))
            row = _Row(ticket, Sampler(sampling), text)
            state, logits = done
            if not self._take(generator, row, row.sampler.choose(logits)):
                self._join(generator, _Batch(state, [row]))
        except Exception as error:  # raised to whoever waits; the thread lives on
            logger.exception("reading a prompt failed")
            _deliver(ticket, Piece(error=error))
        finally:
            self._reading.remove(ticket)

    def _read(
        self, generator: AnyGenerator, prompt: Prompt, cancelled: Callable[[], bool]
    ) -> _Generator[None, None, tuple[Any, Tensor] | None]:
        """Read a prompt part by part: its state and logits, or None where it was cancelled.

        The size of a part follows the time that the last one took.
        """
        parts = generator.read(prompt, iter(lambda: PARTS[self._part], None))
        last: tuple[Any, Tensor] | None = None
        while True:
            began, worked = time.perf_counter(), time.thread_time()
            part = next(parts, None)
            if part is None:
                assert last is not None  # a prompt has a token
                return last
            self._observe(BatchStats("prompt", 1, time.perf_counter() - began))
            took = time.thread_time() - worked  # beside busy neighbours a clock would say more
            if took > 1.5 * PART_S and self._part:
                self._part -= 1
            elif took < PART_S / 2 and self._part + 1 < len(PARTS):
                self._part += 1
            if cancelled():
                return None
            last = part
            yield

    def _join(self, generator: AnyGenerator, batch: _Batch) -> None:
        if self._batches and generator.decoder.shares:
            together = self._batches[0]
            together.state = together.state.joined(batch.state)
            together.rows += batch.rows
        else:
            self._batches.append(batch)

    def _step(self, generator: AnyGenerator, batch: _Batch) -> None:
        """One token for each text of a batch."""
        began = time.perf_counter()
        try:
            self._keep(batch, [i for i, r in enumerate(batch.rows) if not r.ticket.cancelled])
            if not batch.rows:
                return
            logits = generator.decoder.step(batch.state, [row.ids[-1] for row in batch.rows])
            likeliest = logits.argmax(-1).tolist()
            going = [
                i
                for i, row in enumerate(batch.rows)
                if not self._take(
                    generator,
                    row,
                    likeliest[i] if row.sampler.greedy else row.sampler.choose(logits[i]),
                )
            ]
            size = len(batch.rows)
            self._keep(batch, going)
            self._observe(BatchStats("generate", size, time.perf_counter() - began))
        except Exception as error:  # raised to each that waits; the thread lives on
            logger.exception("a step of %d texts failed", len(batch.rows))
            self._batches.remove(batch)
            for row in batch.rows:
                _deliver(row.ticket, Piece(error=error))

    def _keep(self, batch: _Batch, places: Sequence[int]) -> None:
        if len(places) == len(batch.rows):
            return
        batch.rows = [batch.rows[i] for i in places]
        if batch.rows:
            batch.state = batch.state.selected(places)
        else:
            self._batches.remove(batch)

    def _take(self, generator: AnyGenerator, row: _Row, token: int) -> bool:
        """Add a token to a text and deliver what is new; whether the text is over."""
        ticket = row.ticket
        finish: Finish | None = None
        row.ids.append(token)
        ended = token in generator.ends
        text = "" if ended else row.text.push(token)
        if ended:
            finish = "stop"
        elif len(row.ids) >= ticket.sampling.max_new_tokens:
            finish = "length"
        if finish is not None:
            text += row.text.flush()
        if row.text.stopped:
            finish = "stop"
        if finish is not None:
            waited = (ticket.begun or ticket.came) - ticket.came
            _deliver(ticket, Piece(text, finish, tuple(row.ids), waited))
        elif text:
            _deliver(ticket, Piece(text))
        return finish is not None

    def _scoring(
        self,
        generator: AnyGenerator,
        prompts: Sequence[Prompt],
        answer: Sequence[int],
        future: Future[list[Scored]],
    ) -> Generated:
        import torch

        done: list[Scored] = []
        try:
            for prompt in prompts:
                read = yield from self._read(generator, prompt, future.cancelled)
                if read is None:
                    return
                state, first = read
                rows = first[None]
                if len(answer) > 1:
                    rows = torch.cat([rows, generator.decoder.follow(state, answer[:-1])])
                chances = torch.log_softmax(rows, -1)
                known = torch.tensor(list(answer), device=rows.device)[:, None]
                total = float(chances.gather(1, known).sum())
                done.append(Scored(total, tuple(rows.argmax(-1).tolist())))
                yield
            settle(lambda scores: scores, future, done)
        except Exception as error:  # noqa: BLE001  # raised to whoever waits
            fail(future, error)
        finally:
            if not future.done():
                fail(future, EngineClosed("the generator was closed"))

    def _fail(self, error: Exception) -> None:
        self._closed = True
        generating = [row.ticket for batch in self._batches for row in batch.rows]
        for ticket in (*self._waiting, *self._reading, *generating):
            _deliver(ticket, Piece(error=error))
        for task in self._tasks:
            task.close()
        for _, future in self._calls:
            fail(future, error)


def _deliver(ticket: Ticket, piece: Piece) -> None:
    """Deliver; where the event loop is gone the client disconnected."""
    try:
        ticket.deliver(piece)
    except RuntimeError:
        ticket.cancel()
