"""What a screen by gradients costs beside the exact sweep over the same heads: time and the largest memory.

For `tiny` with the listener, and for Stable Audio Open's full width with random weights, cut to a few layers on a CPU, where the
score is a projection of the latents. Each case is a process of its own, since memory that was taken is not given back:

    python benchmarks/screen.py [--layers 4] [--tokens 64] [--pairs 2]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from real_width import PROMPTS, wide_model

import audioscope
from audioscope.edits import PatchOutput
from audioscope.gates import gradients, outputs
from audioscope.tracing import Row

CASES = ("tiny sweep", "tiny quick", "tiny path", "wide sweep", "wide quick", "wide recompute")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--layers", type=int, default=24 if torch.cuda.is_available() else 4)
    options.add_argument("--tokens", type=int, default=1024 if torch.cuda.is_available() else 64)
    options.add_argument("--pairs", type=int, default=2)
    options.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.case is None:
        for case in CASES:
            subprocess.run([sys.executable, *sys.argv, "--case", case], check=True)
        return
    name, how = chosen.case.split()
    seconds, before, heads = (_tiny if name == "tiny" else _wide)(how, chosen)
    peak = _loaded()
    gpu = {"gpu_peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2)} if torch.cuda.is_available() else {}
    print(json.dumps({
        "case": chosen.case, "heads": heads, "seconds_a_pair": round(seconds, 2), "peak_gb": round(peak / 1e6, 2),
        "more_than_the_model_gb": round((peak - before) / 1e6, 2), **gpu,
    }), flush=True)  # fmt: skip


def _loaded() -> int:
    """The largest memory so far, in KB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _tiny(how: str, chosen: argparse.Namespace) -> tuple[float, int, int]:
    model = audioscope.load("tiny")
    model.generate("a song", steps=1)
    before, began = _loaded(), time.perf_counter()
    shared = {"pairs": chosen.pairs, "sites": "cross.heads", "workers": 1, "progress": False}
    if how == "sweep":
        audioscope.localize(model, ["fast"], also=(), clips=False, **shared)
    else:
        audioscope.screen(model, ["fast"], mode=how, **shared)
    return (time.perf_counter() - began) / chosen.pairs, before, len(model.sites.select("cross.heads"))


def _wide(how: str, chosen: argparse.Namespace) -> tuple[float, int, int]:
    model = wide_model(chosen.layers, chosen.tokens)
    heads, run = model.sites.select("cross.heads"), model.sampling(3, 7.0, 0.01)
    (clean, corrupted), began = PROMPTS, 0.0
    before = _loaded()
    for warm in (True, False):
        began = time.perf_counter()
        if how == "sweep":
            rows = [Row(clean, 0), Row(corrupted, 0), *(Row(corrupted, 0, (PatchOutput(head, clean),)) for head in heads)]
            for start in range(2, 6 if warm else len(rows), 8):
                model.run([*rows[:2], *rows[start : start + 8]], decode=False, **run)
        else:
            goal = outputs(model, [Row(clean, 0)], heads, run)
            closed = torch.zeros(1, run.steps, len(heads))
            gradients(
                model,
                [Row(corrupted, 0)],
                closed,
                goal,
                run,
                lambda latents: latents.float().flatten(1).sum(1),
                how == "recompute",
            )
    return time.perf_counter() - began, before, len(heads)


if __name__ == "__main__":
    main()
