"""Models that tests share: the shipped `tiny`, and small random ones built from the real classes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.browsing import BROWSERS, LIMIT, REASON
from helpers.timed import named

if TYPE_CHECKING:  # torch and diffusers are imported by the processes that test, not by the one that hands out the tests
    from audioscope.model import Model

KINDS = ("stable_audio", "stable_audio_3", "audioldm2", "ace_step")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that tests/slow.txt names (helpers/timed.py writes it)."""
    import torch

    torch.set_num_threads(1)  # small tensors: threads cost more than they give, and tests may run side by side
    slow = set(named())
    for item in items:
        if item.nodeid in slow:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def tiny() -> Model:
    import audioscope

    return audioscope.load("tiny")


def _random(name: str):
    """A fixture: a small random pipeline of the real class, saved and loaded as a user's folder would be."""

    @pytest.fixture(scope="session", name=name)
    def made(tmp_path_factory) -> Model:
        from helpers.pipelines import BUILDERS

        import audioscope

        folder = tmp_path_factory.mktemp(name) / "pipe"
        BUILDERS[name]().save_pretrained(folder)
        return audioscope.load(folder)

    return made


stable_audio, stable_audio_3, audioldm2, ace_step = map(_random, KINDS)


@pytest.fixture(params=["tiny", *KINDS])
def model(request) -> Model:
    """Each law holds on all: tiny, Stable Audio with its SDE scheduler, Stable Audio 3 re-noising, AudioLDM2, ACE-Step 1.5."""
    return request.getfixturevalue(request.param)


# Put before a script that runs a sweep: it is killed in its third unit, after the clips and before the table.
KILLED = """
import os, signal
import audioscope.store as store

units, write = [], store.write_whole

def write_two(file, made, **how):
    units.extend([file] if file.parent.name == "units" else [])
    if len(units) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    write(file, made, **how)

store.write_whole = write_two
"""


class Nearness:
    """A scorer without weights: how near a unit's clips are to its first one, the clean clip (0 is equal)."""

    name = fingerprint = "nearness"
    units, needs, queries = "distance", "nothing", {}

    def __init__(self, concept: str):
        self.concepts = [concept]

    def check(self, model) -> None:
        pass

    def __call__(self, audio, rate):
        import pandas as pd

        return pd.DataFrame({self.concepts[0]: -(audio - audio[:1]).flatten(1).norm(dim=1).numpy()})


@pytest.fixture(scope="module")
def browser():
    """Chromium, for a module: without one its tests are skipped, and in CI they fail."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(REASON)
        pytest.skip(REASON)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        quiet = ["--disable-background-networking", "--disable-component-update", "--no-first-run", "--disable-sync"]
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *quiet], timeout=1000 * LIMIT)
        yield found
        found.close()


@pytest.fixture(scope="session")
def root() -> Path:
    return Path(__file__).resolve().parent.parent
