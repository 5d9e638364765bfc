"""How long the live widgets take to answer on tiny, from a control's change to the sound in the widget (`python benchmarks/live_times.py`).

The way to the browser and back comes on top: tests/test_lab.py prints both together for a prompt and for the slider.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle

import numpy as np
import torch

import audioscope
from audioscope.widgets.base import Explorer

TURNS = 15


def answered(widget: Explorer, change: Callable[[], None]) -> float:
    """Seconds until a change is answered."""
    began = time.perf_counter()
    change()
    assert widget.wait(60) and not widget.sounds.failed, widget.sounds.message
    return time.perf_counter() - began


def main() -> None:
    model = audioscope.load("tiny")
    play, atlas = model.play("a jazz song"), audioscope.datasets.atlas().explore(model)
    sweep, sae = audioscope.datasets.steering("fast").explore(model), audioscope.datasets.sae("transformer.transformer_blocks.0.cross_attn").explore(model)  # fmt: skip
    prompts = cycle(["a slow song with cello", "a fast metal song", "a happy pop song with drums", "a sad opera song"])
    strengths, amounts = cycle([1.0, -2.0, 3.0]), cycle([0.5, 1.5, 3.0])
    layers = cycle(site.path for site in model.sites.cross)
    ways = iter([cell for cell in sweep.sweep.cells if cell != sweep.way.value])
    atlas.clean.value = "a jazz song with drums"
    atlas.wait()
    kinds: dict[str, tuple[Explorer, Callable[[], None], int]] = {
        "a typed prompt": (play, lambda: setattr(play.prompt, "value", next(prompts)), TURNS),
        "a strength, beside the plain clip": (play, lambda: setattr(play.strength, "value", next(strengths)), TURNS),
        "an atlas cell that was not kept": (atlas, lambda: setattr(atlas.site, "value", next(layers)), TURNS),
        "a feature turned": (sae, lambda: setattr(sae.amount, "value", next(amounts)), TURNS),
        "a way to steer, seven strengths": (sweep, lambda: setattr(sweep.way, "value", next(ways)), 5),
    }
    print(f"{torch.get_num_threads()} threads; seconds, median [least, largest]")
    for name, (widget, change, turns) in kinds.items():
        if name.startswith("a strength"):
            play.axis.value = "fast"
            play.wait()
        times = [answered(widget, change) for _ in range(turns)]
        print(f"{name}: {np.median(times):.2f} [{min(times):.2f}, {max(times):.2f}], {turns} turns")


if __name__ == "__main__":
    main()
