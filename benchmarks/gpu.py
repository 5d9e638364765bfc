"""What a GPU must show, in one table and at most five minutes: the laws, half precision, CPU offload, and the cost at full width.

- laws: tests/test_laws.py on this device, and `check_model` in float32, bfloat16 and float16 on all pipelines, also with weights
  that wait on the CPU (offload);
- cost at the full width of Stable Audio Open (24 layers, random weights): atlas over bare, published over ours, steered over bare,
  and memory;
- an SAE's training step beside SAELens's, where that is installed.

Without a GPU, it says so and ends with status 0.

    python benchmarks/gpu.py [--seconds 300] [--rehearse]     (rehearse: the same on a CPU, cut short)
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from diffusers import AutoencoderOobleck

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests"), str(HERE.parent)]

from helpers.pipelines import BUILDERS  # noqa: E402
from real_width import _wide  # noqa: E402

import audioscope  # noqa: E402

DTYPES = ("float32", "bfloat16", "float16")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=300, help="when to stop beginning new measurements")
    options.add_argument("--rehearse", action="store_true", help="on a CPU, cut short, to test this script")
    chosen = options.parse_args()
    if not torch.cuda.is_available() and not chosen.rehearse:
        print("No CUDA device: nothing was measured.")
        return 0
    warnings.simplefilter("ignore")
    end, failed = time.monotonic() + chosen.seconds, 0
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU (rehearsal)"
    print(f"{device}, torch {torch.__version__}\n{'what':<58}{'result':<44}seconds")
    began = time.monotonic()
    for what, result, fine in measured(end, chosen.rehearse):
        print(f"{what:<58}{result:<44}{time.monotonic() - began:7.1f}", flush=True)
        failed += not fine
        began = time.monotonic()
        if began > end:
            print(f"Stopped after {chosen.seconds:g} s: what follows was not measured.")
            break
    print("everything holds" if not failed else f"{failed} lines FAIL")
    return int(bool(failed))


def measured(end: float, rehearse: bool) -> Iterator[tuple[str, str, bool]]:
    """Each line of the table: what, the result, and whether it is as it must be."""
    home = "cuda" if torch.cuda.is_available() else "cpu"
    small = ["--layers", "2", "--tokens", "32", "--steps", "1"] if rehearse else []
    for dtype in DTYPES:
        yield _line(f"laws of tiny, {dtype}", lambda dtype=dtype: audioscope.load("tiny", device=home, dtype=dtype))
    for dtype in DTYPES[:1] if rehearse else ("bfloat16", "float32"):
        yield _line(f"laws and cost at full width, {dtype}", lambda dtype=dtype: _full(rehearse, home, dtype))
    atlas = _asked("real_width.py", end, *small, "--units", "1")
    yield "atlas unit over bare calls, full width", _ratio(atlas, "ours_over_bare"), atlas is not None
    yield "published protocol over ours (limit 2L/(L+2))", _ratio(atlas, "published_over_ours"), atlas is not None
    steering = _asked("steering_overhead.py", end, *small, "--turns", "3")
    for sites in ("some", "all"):
        part = steering and {"over_bare": steering["over_bare"][sites]}
        yield f"steered at {sites} layers over bare, full width", _ratio(part, "over_bare"), steering is not None
    for name in BUILDERS:
        with tempfile.TemporaryDirectory() as folder:
            BUILDERS[name]().save_pretrained(folder)
            for dtype in DTYPES:
                yield _line(
                    f"laws of a small random {name}, {dtype}",
                    lambda dtype=dtype, folder=folder: audioscope.load(folder, device=home, dtype=dtype),
                )
            if home == "cuda":
                yield _line(f"laws of a small random {name}, CPU offload", lambda folder=folder: _offloaded(folder))
    if find_spec("pytest"):
        told = _run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-x" if rehearse else "-q",
                str(HERE.parent / "tests" / "test_laws.py"),
                "-p",
                "no:cacheprovider",
            ],
            end,
        )
        said = re.findall(r"\d+ (?:passed|failed|error)[^\n]*", told)
        yield (
            "tests/test_laws.py on this device",
            said[-1] if said else "did not end in time",
            bool(said) and "failed" not in said[-1] and "error" not in said[-1],
        )
    else:
        yield "tests/test_laws.py on this device", "not run: pytest is not installed", True
    if find_spec("sae_lens"):
        step = _asked("sae_step.py", end, "--width", "1024", "--turns", "20")
        said = step and f"{step['time_ratio']['median']} of the time, {step['memory_ratio']} of the memory"
        yield "SAE step, ours over SAELens's (width 1024)", said or "did not end in time", step is not None
    else:
        yield "SAE step, ours over SAELens's", "not run: SAELens is not installed", True


def _full(rehearse: bool, home: str, dtype: str) -> audioscope.Model:
    """Stable Audio Open with random weights: its denoiser and its codec as published."""
    pipe = _wide(2, 32) if rehearse else _wide(24, 1024)
    small = {
        "encoder_hidden_size": 8,
        "downsampling_ratios": [2, 4],
        "channel_multiples": [1, 2],
        "decoder_channels": 8,
        "decoder_input_channels": 64,
    }
    pipe.register_modules(vae=AutoencoderOobleck(**(small if rehearse else {})).eval())
    return audioscope.Model(pipe.to(home, getattr(torch, dtype)), "stable audio at full width")


def _offloaded(folder: str) -> audioscope.Model:
    model = audioscope.load(folder, device="cpu")
    model.pipe.enable_model_cpu_offload()
    return model


def _line(what: str, load: Callable[[], audioscope.Model]) -> tuple[str, str, bool]:
    try:
        report = audioscope.check_model(load())
    except Exception as error:  # whatever a device does: the next line is measured all the same
        return what, f"{type(error).__name__}: {' '.join(str(error).split())[:120]}", False
    held, cost = int(report.laws["passes"].sum()), report.cost
    said = f"{held} of {len(report.laws)} hold, {cost['peak_memory_gb']:.2f} GB, {cost['seconds_a_unit']:.2f} s a unit"
    failing = [f"{row.law}: {row.error:.2g}, limit {row.limit:.2g}" for row in report.laws.itertuples() if not row.passes]
    return what, "; ".join([said, *failing]), report.passes


def _asked(script: str, end: float, *options: str) -> dict | None:
    """What a benchmark prints as JSON; None if it failed or took too long."""
    told = _run([sys.executable, str(HERE / script), *options], end)
    return json.loads(told[told.index("{") :]) if "{" in told else None


def _run(command: list[str], end: float) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=max(1.0, end - time.monotonic())).stdout
    except subprocess.TimeoutExpired:
        return ""


def _ratio(told: dict | None, name: str) -> str:
    return f"{told[name]['median']} {told[name]['all']}" if told else "did not end in time"


if __name__ == "__main__":
    raise SystemExit(main())
