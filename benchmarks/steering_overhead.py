"""What steering costs at Stable Audio Open's full width: a steered generation beside the bare pipeline call, in one process.

Random weights; the denoiser is cut to a few layers and short latents on a CPU, and whole on a GPU. All make `--rows` clips in one
batch, in turn, without decoding:
- bare: the pipeline's own call;
- some, all: the same rows under a steering vector at a quarter of the layers, and at all of them, each row with a strength of
  its own, as a sweep has them.

    python benchmarks/steering_overhead.py [--layers 4] [--tokens 64] [--steps 3] [--rows 7] [--turns 7]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from real_width import PROMPTS, _timed, wide_model

from audioscope.steer.vectors import AddVector, SteeringVector
from audioscope.tracing import Row


def main() -> None:
    gpu = torch.cuda.is_available()
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--layers", type=int, default=24 if gpu else 4)
    options.add_argument("--tokens", type=int, default=1024 if gpu else 64)
    options.add_argument("--steps", type=int, default=2 if gpu else 3)
    options.add_argument("--rows", type=int, default=7)
    options.add_argument("--turns", type=int, default=7)
    chosen = options.parse_args()
    model = wide_model(chosen.layers, chosen.tokens)
    prompt = PROMPTS[0]
    settings = {"steps": chosen.steps, "guidance": 7.0, "seconds": 0.01, "decode": False}
    sigmas = model.run([Row(prompt, 0)], **settings).sigmas

    def vector(count: int) -> SteeringVector:
        sites = model.sites.cross[:count]
        directions = {s.path: torch.nn.functional.normalize(torch.randn(len(sigmas), s.width), dim=1) for s in sites}
        return SteeringVector(directions, {s.path: torch.ones(len(sigmas)) for s in sites}, sigmas, model.name, model.fingerprint)

    vectors = {"some": vector(max(1, chosen.layers // 4)), "all": vector(chosen.layers)}
    strengths = torch.linspace(-2, 2, chosen.rows).tolist()

    def bare(seed: int) -> None:
        model.pipe(
            [prompt] * chosen.rows, generator=[torch.Generator().manual_seed(seed) for _ in strengths],
            num_inference_steps=chosen.steps, guidance_scale=7.0, audio_end_in_s=0.01, output_type="latent",
        )  # fmt: skip

    def steered(name: str, seed: int) -> None:
        model.run([Row(prompt, seed, (AddVector(vectors[name], s or 1.0),)) for s in strengths], **settings)

    times: dict[str, list[float]] = {"bare": [], "some": [], "all": []}
    for turn in range(chosen.turns + 1):
        for name in times:
            seconds = _timed(bare if name == "bare" else lambda seed, name=name: steered(name, seed), turn)
            if turn:  # the first warms all up
                times[name].append(seconds)
    ratios = {name: [s / b for s, b in zip(times[name], times["bare"], strict=True)] for name in vectors}
    print(json.dumps({
        "device": torch.cuda.get_device_name() if gpu else f"cpu, {torch.get_num_threads()} threads", **vars(chosen),
        "sites": {name: len(v.paths) for name, v in vectors.items()},
        "seconds": {name: round(statistics.median(values), 3) for name, values in times.items()},
        "over_bare": {n: {"median": round(statistics.median(r), 3), "all": [round(x, 3) for x in r]} for n, r in ratios.items()},
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
