"""How many units of the atlas of `tiny` a machine does in a second: python benchmarks/workers.py [--units 12] [--ray].

One process with all cores as its threads, one with a single thread, and as many single-threaded workers as cores; idle, and with two
busy loops beside them. Starting the workers is not counted. Prints JSON, with the model of more cores: workers times the rate of one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager

import torch

import audioscope
from audioscope import workers
from audioscope.concepts import shipped_concepts

LOOP = "while True: pass"


@contextmanager
def beside(count: int):
    """Busy loops in other processes."""
    loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def rate(model: audioscope.Model, units: int, count: int | str, seeds: int = 0) -> float:
    """Units a second of a sweep with so many workers; seeds: to make another sweep."""
    names = list(shipped_concepts())[: max(2, units // 2)]
    with tempfile.TemporaryDirectory() as out:
        began = time.perf_counter()
        atlas = audioscope.localize(model, names, 2, seeds=1 + seeds, workers=count, out=out, clips=True, progress=False)
        took = time.perf_counter() - began
    return atlas.table.drop_duplicates(["concept", "pair", "seed"]).shape[0] / took


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--units", type=int, default=24)
    options.add_argument("--ray", action="store_true", help="also on a Ray started for this, which must be installed")
    chosen = options.parse_args()
    model, many = audioscope.load("tiny"), workers.cores()
    ways: dict[str, int | str] = {f"1 x {many} threads": 1, "1 x 1 thread": 1, f"{many} x 1 thread": many}
    if chosen.ray:
        import ray

        ways[f"Ray {many} x 1 thread"] = "ray"
        os.environ.update(RAY_worker_niceness="0")  # it would wait for the busy loops
        ray.init(num_cpus=many, include_dashboard=False, log_to_driver=False, logging_level="WARNING")
    found: dict[str, dict[str, float]] = {}
    own = workers.threads
    for loops in (0, 2):
        units = chosen.units if not loops else max(4, chosen.units // 3)  # these take several times as long
        with beside(loops):
            for name, count in ways.items():
                workers.threads = (lambda model: many) if name == f"1 x {many} threads" else own  # type: ignore[assignment]
                rate(model, 2, count)  # starts and warms up
                found.setdefault(name, {})["idle" if not loops else "beside 2 loops"] = round(rate(model, units, count), 3)
                print(name, found[name], file=sys.stderr)
    one, all_ = found["1 x 1 thread"], found[f"{many} x 1 thread"]
    print(json.dumps({
        "cores": many, "units": chosen.units, "torch": torch.__version__, "units_a_second": found,
        "workers_over_threads": round(all_["idle"] / found[f"1 x {many} threads"]["idle"], 2),
        "workers_beside_loops_over_idle_time": round(all_["idle"] / all_["beside 2 loops"], 2),
        **({"ray_over_workers": round(found[f"Ray {many} x 1 thread"]["idle"] / all_["idle"], 2)} if chosen.ray else {}),
        "modelled_on_16_cores": round(16 * one["idle"], 1),
    }, indent=1))  # fmt: skip
    workers.end_workers()


if __name__ == "__main__":
    main()
