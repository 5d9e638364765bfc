"""Four threads on one model, and many loads in one process: the same results as in turn, nothing left behind, memory flat.

python tests/campaigns/threads.py [--seconds 120] [--loads 200]
"""

from __future__ import annotations

import argparse
import gc
import random
import shutil
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch

import audioscope
from audioscope import datasets
from audioscope.audio import Clip

PROMPTS = ("a fast song with violin", "a slow sad song", "a song with drums and flute", "music")
LEAK = 0.05  # of the memory that may come on top


def memory() -> float:
    """What the process holds, in bytes, without what waits for the collector."""
    gc.collect()
    return float(psutil.Process().memory_info().rss)


def hooks(model: audioscope.Model) -> int:
    parts = [part for _, part in sorted(model.pipe.components.items()) if isinstance(part, torch.nn.Module)]
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for part in parts for m in part.modules())


def same(one: Any, other: Any) -> bool:
    """Whether two results are equal to the last bit."""
    if isinstance(one, Clip):
        return np.array_equal(one.samples, other.samples)
    if isinstance(one, pd.DataFrame):
        return one.equals(other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def tasks(model: audioscope.Model, root: Path) -> list[Callable[[int], Any]]:
    """What users do with a model, each from a thread of its own; the number says which of a few inputs."""
    vector, sae = datasets.vector("fast"), datasets.sae("transformer.transformer_blocks.6.cross_attn")
    widget = model.play(PROMPTS[0], seed=0, steps=2)
    one = threading.Lock()

    def generate(number: int) -> Any:
        prompt = PROMPTS[number % 4]
        with model.steer(vector, 1.0 + number % 2):
            steered = model.generate(prompt, seed=number, steps=2)
        return [steered, model.generate(prompt, seed=number, steps=2), model.unknown_words("a polka " + prompt), hooks_of_pipe()]

    def sweep(number: int) -> Any:
        out = Path(tempfile.mkdtemp(dir=root))
        atlas = audioscope.localize(
            model, ["fast"], 1, sites=[number % 4], seeds=1 + number % 2, steps=2, out=out, progress=False
        )
        shutil.rmtree(out)
        return atlas.table

    def play(number: int) -> Any:
        with one:  # a hand moves one slider at a time
            with widget.together():
                widget.seed.value = number % 4
            widget.prompt.value = f"{PROMPTS[number % 4]}{' ' * (number % 2)}"
            widget._asked()
            widget.wait(600)
            assert not widget.sounds.failed, widget.sounds.message
            return [each["sound"] for each in widget.sounds.sounds]

    def read(number: int) -> Any:
        model.check_prompt(PROMPTS[number % 4])
        activations = model.activations(PROMPTS[number % 4], [6], seeds=number, steps=2)
        edit = audioscope.SAEEdit(sae, (3, 7), "scale", 2.0) if number % 2 else audioscope.Ablate(number)
        edited = model.generate(PROMPTS[0], seed=number, steps=2, edits=edit)
        return [activations[6], edited]

    def hooks_of_pipe() -> str:
        return type(model.pipe).__name__

    return [generate, sweep, play, read]


def together(seconds: float, repeats: int = 3, seed: int = 0) -> Counter[str]:
    """Do all tasks from four threads, in three repeats of a third of the time. Returns how often each was done, and memory in MB.

    Raises AssertionError if a result is not that of the same task done alone, or if anything stays behind.
    """
    model, root = audioscope.load("tiny"), Path(tempfile.mkdtemp(prefix="audioscope-threads-"))
    done: Counter[str] = Counter()
    try:
        work = tasks(model, root)
        alone = {(do.__name__, number): do(number) for do in work for number in range(4)}
        before, levels = hooks(model), []

        def use(which: int, end: float, wrong: list[str]) -> None:
            chance = random.Random(seed + which)
            try:
                while time.monotonic() < end and not wrong:
                    do, number = chance.choice(work), chance.randrange(4)
                    if not same(do(number), alone[do.__name__, number]):
                        wrong.append(f"{do.__name__}({number}) is not what it is alone")
                    done[do.__name__] += 1
            except BaseException as error:
                wrong.append(f"{type(error).__name__}: {error}")

        for repeat in range(repeats):
            wrong: list[str] = []
            end = time.monotonic() + seconds / repeats
            threads = [threading.Thread(target=use, args=(4 * repeat + which, end, wrong)) for which in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not wrong, wrong
            assert hooks(model) == before, "hooks stay"
            levels.append(memory())
            done[f"MB after repeat {repeat + 1}"] = round(levels[-1] / 1e6)
        if seconds >= 60:  # before that, some of the tasks are done for the first time
            assert levels[-1] <= levels[0] * (1 + LEAK), f"memory grows: {levels}"
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return done


def loads(times: int, settled: int = 10) -> list[float]:
    """Load a model, run a unit of a sweep, delete both, again and again. Returns the memory after each, in bytes.

    Raises AssertionError if it grows by more than 5 % after the tenth.
    """
    levels = []
    for _ in range(times):
        model, root = audioscope.load("tiny"), tempfile.mkdtemp(prefix="audioscope-loads-")
        audioscope.localize(model, ["fast"], 1, sites=[6], steps=1, out=root, progress=False)
        shutil.rmtree(root)
        del model
        levels.append(memory())
    if times > settled:
        assert levels[-1] <= levels[settled - 1] * (1 + LEAK), (
            f"memory grows from {levels[settled - 1]:.3g} to {levels[-1]:.3g} bytes"
        )
    return levels


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=120)
    options.add_argument("--loads", type=int, default=200)
    given = options.parse_args()
    warnings.simplefilter("ignore")
    for what, count in together(given.seconds).items():
        print(f"{count:6}  {what}")
    levels = loads(given.loads)
    print(
        f"{given.loads} loads: {levels[min(9, len(levels) - 1)] / 1e6:.0f} MB after the tenth, {levels[-1] / 1e6:.0f} MB at the end"
    )
