"""How much longer the atlas takes than bare pipeline calls that make the same clips in the same batches.

Both are run in turn, unit by unit, in one process: python benchmarks/atlas_overhead.py [--units 6] [--sites cross.heads]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time

import torch

import audioscope
from audioscope.concepts import Concept


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--units", type=int, default=6)
    options.add_argument("--sites", default="cross")
    chosen = options.parse_args()
    units = chosen.units
    torch.set_num_threads(1)  # a sweep in its own process takes one, so the bare calls may have no more
    model = audioscope.load("tiny")
    concept = audioscope.datasets.concepts()["female"]
    pairs = concept.split("localize")[: units + 1]
    settings = model.sampling()
    scorer = audioscope.scoring.listener_scorer()
    ratios, bare_times, atlas_times = [], [], []
    rows = 2 + len(model.sites.select(chosen.sites))
    for number, pair in enumerate(pairs):
        prompts = [pair.clean] + [pair.corrupted] * (rows - 1)
        began = time.perf_counter()
        model.pipe(
            prompts, generator=[torch.Generator().manual_seed(0) for _ in prompts], duration=settings["seconds"],
            num_inference_steps=settings["steps"], guidance_scale=settings["guidance"],
        )  # fmt: skip
        bare = time.perf_counter() - began
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            female = Concept("female", (pair,), "voice")
            audioscope.localize(model, [female], 1, sites=chosen.sites, scorer=scorer, out=folder, progress=False)
            atlas = time.perf_counter() - began
        if number:  # the first pair warms both up
            ratios.append(atlas / bare)
            bare_times.append(bare)
            atlas_times.append(atlas)
    print(json.dumps({
        "units": len(ratios), "sites": chosen.sites, "rows_a_unit": rows, "threads": torch.get_num_threads(), "settings": dict(settings),
        "bare_seconds_median": round(statistics.median(bare_times), 3), "atlas_seconds_median": round(statistics.median(atlas_times), 3),
        "ratio_median": round(statistics.median(ratios), 3), "ratio_min": round(min(ratios), 3), "ratio_max": round(max(ratios), 3),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
