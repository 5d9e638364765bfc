"""How much longer a generation takes while its attention is read: at most 1.3 times, side by side in one run."""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch

import audioscope
from audioscope import Row

PROMPT = "a slow happy jazz song with female vocals, saxophone and drums"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", default="tiny")
    options.add_argument("--times", type=int, default=7)
    options.add_argument("--threads", type=int, default=1)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    model = audioscope.load(chosen.model)
    model.run([Row(PROMPT, 0)], decode=False)
    for by in ((), ("layer",), ("layer", "head", "step")):
        bare, read = [], []
        for _ in range(chosen.times):
            began = time.perf_counter()
            model.run([Row(PROMPT, 0)], decode=False)
            middle = time.perf_counter()
            model.attention(PROMPT, by=by)
            bare.append(middle - began)
            read.append(time.perf_counter() - middle)
        ratios = [one / other for one, other in zip(read, bare, strict=True)]  # neighbors, so that a busy moment slows both
        print(
            f"by {', '.join(by) or 'nothing'}: {median(read):.3f} s, bare {median(bare):.3f} s, ratio {median(ratios):.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
