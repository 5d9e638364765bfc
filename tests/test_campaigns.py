"""The campaigns of tests/campaigns, cut short: `make campaign` runs them at length."""

import os
import signal
import sys

import numpy as np
import pytest
from campaigns import fuzz, kill, odd, pages, threads

from audioscope import edits

pytestmark = pytest.mark.slow


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_work_that_is_killed_or_cut_short_ends_as_if_nothing_had_happened():
    seen = kill.kill(kills=3, cuts=2)
    assert seen["kills"] >= 2


@pytest.mark.skipif(sys.platform == "win32", reason="memory is measured by Unix's means")
def test_inputs_of_every_kind_are_taken_or_refused_in_one_line():
    counts, found = fuzz.fuzz(inputs=250)
    assert not found, found
    assert sum(counts.values()) >= 243


def test_the_fuzzer_finds_what_it_looks_for(monkeypatch):
    """Two faults on purpose: an error that nobody documents, and one that says nothing."""
    monkeypatch.setattr(fuzz.datasets, "published", lambda name: {}["x"])
    monkeypatch.setattr(fuzz.Clip, "load", lambda path: exec("raise ValueError('')"))
    found = fuzz.fuzz(inputs=1200, only="names")[1]
    assert any("KeyError" in what for what in found) and any("ValueError" in what for what in found)


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs SIGALRM")
def test_odd_values_end_in_errors_of_ours(monkeypatch):
    """And one that a library raises is found."""
    assert odd.campaign("audioscope.Ablate") == {}
    monkeypatch.setattr(edits, "choice", lambda name, value, options: None if value in options else np.zeros(value))
    assert ("audioscope.Ablate", "branch", "a table") in odd.campaign("audioscope.Ablate")


def test_hostile_words_run_nothing_and_request_nothing(browser):
    assert pages.campaign(browser, pages.WORDS[:4] + ("__proto__", "&"), each=6) >= 15


def test_four_threads_get_what_each_gets_alone():
    done = threads.together(seconds=5, repeats=2)
    assert all(done[name] for name in ("generate", "sweep", "play", "read"))


def test_models_that_are_deleted_give_their_memory_back():
    threads.loads(12)
