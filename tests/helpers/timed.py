"""Which tests are too slow for `make check`, measured: PYTHONPATH=tests python -m pytest tests -m "not slow" -p helpers.timed writes slow.txt.

Counted is the time of the processor, of this process and those that it started, so that other work on the machine does not change it. A
test that is marked `slow` in the code stays so; tests/slow.txt adds those that took more than `MOST`. Fixtures do not count, since the next
test would pay for them: a module whose fixtures are slow is marked in the code.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest

MOST = 0.5  # s
KEPT = ("tests/test_laws.py",)  # what a push must pass, however long it takes
FILE = Path(__file__).resolve().parent.parent / "slow.txt"
taken: Counter[str] = Counter()


def spent() -> float:
    """Seconds of the processor so far."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    before = spent()
    try:
        yield
    finally:
        taken[item.nodeid] += spent() - before


def pytest_sessionfinish() -> None:
    slow = {test for test, seconds in taken.items() if seconds > MOST and not test.startswith(KEPT)} | (set(named()) - set(taken))
    FILE.write_text("".join(f"{test}\n" for test in sorted(slow)))


def named() -> list[str]:
    """The tests that tests/slow.txt names."""
    return FILE.read_text().splitlines() if FILE.exists() else []
