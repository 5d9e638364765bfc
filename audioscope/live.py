"""Work that answers while you wait, in a thread beside the kernel: the newest wish replaces an older one, and can be cancelled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeAlias

Step: TypeAlias = Callable[[float], None]


class Cancelled(Exception):
    """Ends a job that nobody waits for any more; raised by the `step` that the job was given."""


class Live:
    """Runs one job at a time and keeps at most one waiting, the newest.

    A job is called with `step`, and calls it with the share that is done, 0 to 1, as often as it can: that is where a job ends that was
    replaced or cancelled. `told` gets that share, and None when nothing is running any more; `failed` gets what a job raised. All three,
    and what is done with a result, are called in the thread of the jobs.
    """

    def __init__(self, told: Callable[[float | None], None], failed: Callable[[Exception], None]):
        self._told, self._failed = told, failed
        self._lock = threading.Condition()
        self._turn = 0  # counts wishes: a job that sees another number than its own is no longer wanted
        self._todo: tuple[int, Callable[[Step], Any], Callable[[Any], None]] | None = None
        self._running = False

    def ask(self, job: Callable[[Step], Any], done: Callable[[Any], None]) -> None:
        """Run a job as soon as the one that runs has noticed; `done` gets its result, if nothing newer was asked for."""
        with self._lock:
            self._turn += 1
            self._todo = self._turn, job, done
            if not self._running:
                self._running = True
                threading.Thread(target=self._work, name="audioscope", daemon=True).start()

    def cancel(self) -> bool:
        """Forget what runs and what waits; whether there was anything."""
        with self._lock:
            self._turn += 1
            self._todo = None
            return self._running

    def wait(self, seconds: float = 60.0) -> bool:
        """Wait until nothing is running; whether that came true in time."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._running, seconds)

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._todo is None:
                    self._running = False
                    self._lock.notify_all()
                    return
                (turn, job, done), self._todo = self._todo, None

            def step(share: float, turn: int = turn) -> None:
                if turn != self._turn:
                    raise Cancelled
                self._told(share)

            try:
                step(0.0)
                result = job(step)
                step(1.0)
                done(result)
            except Cancelled:
                pass
            except Exception as error:  # whatever it is, the widget says it and lives on
                self._failed(error)
            with self._lock:
                idle = self._todo is None
            if idle:
                self._told(None)
