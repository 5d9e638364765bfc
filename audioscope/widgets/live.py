"""Work in a thread next to the kernel's own: the latest request supersedes earlier ones, and can be canceled."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

Step: TypeAlias = Callable[[float], None]

_lives: weakref.WeakSet[Live] = weakref.WeakSet()


class Cancelled(Exception):
    """Ends a job that nobody is waiting for anymore; raised by the `step` that was passed to the job."""


class Live:
    """Runs one job at a time and keeps at most one waiting: the latest.

    A job is called with `step` and calls it, as often as it can, with the share that is done, 0 to 1: a job that was superseded
    or canceled ends there. `told` gets that share, and None when nothing is running anymore; `failed` gets what a job raised.
    All three, and whatever handles a result, are called in the jobs' thread.
    """

    def __init__(self, told: Callable[[float | None], None], failed: Callable[[Exception], None]):
        self._told, self._failed = told, failed
        self._lock = threading.Condition()  # held while a result is shown, so that nothing is canceled halfway
        self._turn = 0  # counts requests: a job that sees a number other than its own is no longer wanted
        self._open = False  # whether the latest request has been neither answered nor canceled
        self._todo: tuple[int, Callable[[Step], Any], Callable[[Any], None]] | None = None
        self._running = False
        self._thread: threading.Thread | None = None  # the last one that was started
        _lives.add(self)

    def ask(self, job: Callable[[Step], Any], done: Callable[[Any], None]) -> None:
        """Run a job as soon as the running one has ended; `done` gets its result, unless there was a newer request."""
        with self._lock:
            self._turn += 1
            self._open = True
            self._todo = self._turn, job, done
            if not self._running:
                self._start()

    def cancel(self) -> bool:
        """Drop the running and the waiting job; returns whether a request was open."""
        with self._lock:
            self._turn += 1
            self._todo = None
            was, self._open = self._open, False
            return was

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until nothing is running, as long as it takes or at most some seconds; returns whether that happened in time."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._running, seconds)

    def end(self) -> None:
        """Cancel everything and wait until the thread has ended."""
        self.cancel()
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> None:
        self._running = True
        self._thread = threading.Thread(target=self._work, name="audioscope", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            while True:
                with self._lock:
                    if self._todo is None:  # and no request can come in before we have announced that we stop
                        self._running = False
                        self._lock.notify_all()
                        return
                    (turn, job, done), self._todo = self._todo, None
                self._do(turn, job, done)
        except BaseException:  # raised by an observer: another thread does the waiting job
            with self._lock:
                self._running = False
                if self._todo is not None:
                    self._start()
                self._lock.notify_all()
            raise

    def _do(self, turn: int, job: Callable[[Step], Any], done: Callable[[Any], None]) -> None:
        def step(share: float) -> None:
            if turn != self._turn:
                raise Cancelled
            self._told(share)

        try:
            step(0.0)
            result = job(step)
        except Cancelled:
            return self._answer(turn, None)
        except Exception as error:  # whatever it is, the widget shows it and keeps working
            return self._answer(turn, partial(self._failed, error))
        return self._answer(turn, lambda: done(result))

    def _answer(self, turn: int, answer: Callable[[], None] | None) -> None:
        """Deliver the answer to a request, if it is still the latest."""
        with self._lock:
            if answer is not None and turn == self._turn:
                self._open = False
                try:
                    answer()
                except Exception as error:
                    self._failed(error)
            if self._todo is None:
                self._told(None)


@atexit.register
def _end_all() -> None:
    """Let no thread outlive Python, which would end it in torch's C++ code and abort the process (std::terminate, status 134)."""
    for live in list(_lives):
        live.end()
