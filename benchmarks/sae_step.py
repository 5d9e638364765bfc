"""Our SAE training step beside SAELens's: time and memory at equal width, expansion, k and batch, on the same activations.

It needs SAELens, which is no dependency of audioscope (it brings 55 packages), so run it in an environment of its own:

    python -m venv /tmp/saelens && /tmp/saelens/bin/pip install torch==2.13.0 sae-lens
    PYTHONPATH=. /tmp/saelens/bin/python benchmarks/sae_step.py [--width 128] [--expansion-factor 8] [--k 8] [--batch-size 2048] [--turns 40] [--dead .1]

Both train a BatchTopK SAE with its auxiliary loss, optimizer and threshold. Steps alternate in one process; memory is measured in one
process each, as the growth of the largest resident size during ten steps (on a GPU, of the allocator's peak).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def tokens(width: int, count: int) -> Tensor:
    """Sparse mixtures of random directions with some noise, float32 [count, width]."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(4 * width, width, generator=generator), dim=1)
    active = torch.rand(count, 4 * width, generator=generator) < 6 / (4 * width)
    x = (active * torch.rand(active.shape, generator=generator)) @ directions
    return (x + 0.02 * torch.randn(x.shape, generator=generator)).to(DEVICE)


def ours(options: argparse.Namespace, x: Tensor) -> Callable[[Tensor], None]:
    from audioscope.sae.training import _fresh, _step

    training = {
        "expansion_factor": options.expansion_factor, "k": options.k, "kind": "batchtopk", "seed": 0, "learning_rate": 3e-4, "training_tokens": 10**9,
        "dead_feature_window": 10**9, "aux": 0.25,
    }  # fmt: skip
    state = _fresh(x, training)

    def step(batch: Tensor) -> None:
        state.since[: int(options.dead * len(state.since))] = 2e9  # as many dead features for both
        _step(state, batch, training)

    return step


def saelens(options: argparse.Namespace, x: Tensor) -> Callable[[Tensor], None]:
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    config = BatchTopKTrainingSAEConfig(d_in=options.width, d_sae=options.width * options.expansion_factor, k=options.k, device=DEVICE,
                                        use_sparse_activations=options.sparse)  # fmt: skip
    sae = BatchTopKTrainingSAE(config)
    trainer = SAETrainer(
        SAETrainerConfig(total_training_samples=10**9, train_batch_size_samples=options.batch_size, lr_end=3e-5, device=DEVICE),
        sae,
        iter(()),
    )

    def step(batch: Tensor) -> None:
        trainer.n_forward_passes_since_fired[: int(options.dead * len(trainer.n_forward_passes_since_fired))] = 10**6
        trainer._train_step(sae, batch)
        trainer.n_training_steps += 1

    return step


SIDES = {"ours": ours, "saelens": saelens}


def _timed(step: Callable[[Tensor], None], batch: Tensor) -> float:
    start = time.perf_counter()
    step(batch)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _peak(fresh: bool = False) -> int:
    """The largest memory in use so far, in bytes; fresh: counted anew from now on."""
    if DEVICE == "cuda":
        if fresh:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    if fresh:  # Linux: sets the high-water mark back to what is in use
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _memory(options: argparse.Namespace, side: str) -> float:
    """MiB by which ten steps raise the peak above that of everything loaded."""
    x = tokens(options.width, 2 * options.batch_size)
    step = SIDES[side](options, x)
    before = _peak(fresh=True)
    for _ in range(10):
        step(x[: options.batch_size])
    return (_peak() - before) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in (("width", 128), ("expansion_factor", 8), ("k", 8), ("batch_size", 2048), ("turns", 40)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=usual)
    parser.add_argument("--dead", type=float, default=0.1, help="share of features that get the auxiliary loss")
    parser.add_argument("--sparse", action="store_true", help="SAELens's sparse activations")
    parser.add_argument("--memory-of", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(_memory(options, options.memory_of))
        return
    x = tokens(options.width, 16 * options.batch_size)
    steps = {name: make(options, x) for name, make in SIDES.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(options.turns + 3):
        batch = x[turn % 16 * options.batch_size :][: options.batch_size]
        for name in sorted(steps, reverse=bool(turn % 2)):
            seconds = _timed(steps[name], batch)
            if turn >= 3:  # the first warm up
                times[name].append(seconds)
    ratios = [a / b for a, b in zip(times["ours"], times["saelens"], strict=True)]
    memory = {
        side: round(float(subprocess.run([sys.executable, *sys.argv, "--memory-of", side], check=True, capture_output=True, text=True).stdout.split()[-1]), 1)
        for side in SIDES
    }  # fmt: skip
    print(json.dumps({
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        **{k: v for k, v in vars(options).items() if k != "memory_of"},
        "milliseconds": {name: round(1000 * statistics.median(values), 2) for name, values in times.items()},
        "time_ratio": {"median": round(statistics.median(ratios), 3), "quartiles": [round(q, 3) for q in statistics.quantiles(ratios, n=4)]},
        "memory_mib": memory, "memory_ratio": round(memory["ours"] / memory["saelens"], 3),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
