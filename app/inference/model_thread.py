"""A model on one thread, which alone touches it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from app.metrics import Observe

M = TypeVar("M")
T = TypeVar("T")
E = TypeVar("E")


class EngineClosed(RuntimeError):
    """The engine has ended; whoever still waits for it gets this error."""


class ModelThread(ABC, Generic[M]):
    """The thread of one model.

    Args:
        name: Of the thread.
        load: Makes the model; called on the thread.
        observe: Called with every batch.
    """

    def __init__(self, name: str, load: Callable[[], M], observe: Observe | None) -> None:
        self._load = load
        self._observe: Observe = observe or (lambda stats: None)
        self._wake = threading.Condition()
        self._calls: deque[tuple[Callable[[M], Any], Future[Any]]] = deque()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._loaded: Future[M] = Future()

    def start(self) -> Future[M]:
        """Begin loading. The future tells when it is done, or why it failed.

        Of the model only what never changes (version, sha256, heads) may be read elsewhere.
        """
        self._thread.start()
        return self._loaded

    def call(self, function: Callable[[M], T]) -> Future[T]:
        """Run ``function`` on the thread, before anything that waits."""
        future: Future[T] = Future()
        self._put(self._calls, (function, future))
        return future

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread to end; False when it has not in time."""
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _put(self, queue: deque[E], entry: E) -> E:
        with self._wake:
            self._check_open()
            queue.append(entry)
            self._wake.notify()
        return entry

    def _run(self) -> None:
        try:
            model = self._load()
        except Exception as error:  # noqa: BLE001  # handed over whole to whoever waits for the model
            self._fail(error)
            self._loaded.set_exception(error)
            return
        self._loaded.set_result(model)
        self._serve(model)

    @abstractmethod
    def _check_open(self) -> None:
        """Raise :class:`EngineClosed` where nothing more is taken. Called under the lock."""

    @abstractmethod
    def _serve(self, model: M) -> None:
        """Do what waits, until the thread is to end."""

    @abstractmethod
    def _fail(self, error: Exception) -> None:
        """Take nothing more, and give an error to everyone who waits."""


def settle(work: Callable[[M], T], future: Future[T], model: M) -> None:
    """Do a piece of work on the thread of a model, unless whoever waits for it cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work(model))
    except Exception as error:  # noqa: BLE001  # raised to whoever waits
        future.set_exception(error)


def fail(future: Future[Any], error: BaseException) -> None:
    """Raise an error to whoever waits, unless that one cancelled."""
    if future.set_running_or_notify_cancel():
        future.set_exception(error)
