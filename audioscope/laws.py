"""The laws of tracing on a model of your own: do runs and edits do there what they say, and what would a sweep cost?"""

from __future__ import annotations

import math
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import pandas as pd
import psutil
import torch
from torch import Tensor

from audioscope.edits import Ablate, Edit, PatchOutput, PatchText
from audioscope.errors import of_kind
from audioscope.installed import __version__
from audioscope.model import Model
from audioscope.tracing import Read, Row, Run

A, B = "a fast happy song with violin", "a slow sad song with drums"
STEPS = 3
LIMIT = 0.001  # of what changing the prompt changes
HALF = 0.1  # the same with less than 32 bits
ACTS = 0.01  # the least that counts as an effect, of what changing the prompt changes
FRAMES = 16  # of the latents in which laws are tried, where a pipeline would take its full length
PATIENCE = 60.0  # s that timing a whole unit may take; beyond, one generation is timed
PAIRS, CONCEPTS = 34, 21  # of the sweep whose cost is told
LIBRARIES = ("torch", "diffusers", "transformers", "nnsight", "accelerate", "numpy")


@dataclass(frozen=True, eq=False)
class ModelReport:
    """What `check_model` found.

    Args:
        facts: What the adapter says about the model, and where and with what it runs: names, numbers and lists.
        laws: One row per law with the columns law, error (how far it is off), limit, and passes. Errors are fractions of what
            changing the prompt changes; for the law that edits act, the limit is the least.
        cost: Seconds and memory of a unit (all layers of one prompt pair), and hours of a sweep, both without scoring.

    Example:
        >>> report = audioscope.check_model(model)
        >>> report.passes, report.facts["cross_sites"]
        (True, 12)
    """

    facts: dict[str, Any]
    laws: pd.DataFrame
    cost: dict[str, Any]

    @property
    def passes(self) -> bool:
        """Whether all laws hold."""
        return bool(self.laws["passes"].all())

    def to_dict(self) -> dict[str, Any]:
        """Everything in values that JSON can represent.

        Returns:
            A dictionary with the keys passes, facts, laws (a list of rows) and cost.
        """
        laws = [{**row, "error": row["error"] if math.isfinite(row["error"]) else None} for row in self.laws.to_dict("records")]
        return {"passes": self.passes, "facts": self.facts, "laws": laws, "cost": self.cost}

    def __repr__(self) -> str:
        def listed(values: dict[str, Any]) -> list[str]:
            wide = max(map(len, values))
            return [
                f"  {name.replace('_', ' ').replace('gb', '(GB)'):<{wide + 2}}  {_shown(value)}" for name, value in values.items()
            ]

        lines = [
            f"  {'holds' if row.passes else 'FAILS'}  {row.error:8.1e} ({'at least' if row.limit == ACTS else 'at most'} {row.limit:g})  {row.law}"
            for row in self.laws.itertuples()
        ]
        verdict = "all laws hold" if self.passes else f"{int((~self.laws['passes']).sum())} of {len(self.laws)} laws FAIL"
        unit = "Laws (errors as fractions of what changing the prompt changes)"
        parts = [
            f"{self.facts['model']}: {verdict}",
            *listed(self.facts),
            unit,
            *lines,
            "Cost, without scoring",
            *listed(self.cost),
        ]
        return "\n".join(parts)


def check_model(model: Model) -> ModelReport:
    """Try the laws of tracing on a model, and measure what a unit of a sweep costs.

    It takes a few steps on short clips, and one unit at the model's own length. For other weights, devices or precisions than
    those that were tested, run it before you trust a result; its text is what a report of a fault should contain.

    Args:
        model: The model.

    Returns:
        The facts, the laws and the cost, which print as one page.

    Raises:
        ValueError: The model is being steered.

    Example:
        >>> report = audioscope.check_model(model)
        >>> report.laws["passes"].tolist()
        [True, True, True, True, True, True, True, True, True, True]
    """
    of_kind("model", model, Model).check_unsteered("a check")
    rows = [{"law": law, "error": error, "limit": limit, "passes": error >= limit if limit == ACTS else error <= limit}
            for law, error, limit in _laws(model)]  # fmt: skip
    return ModelReport(_facts(model), pd.DataFrame(rows), _cost(model))


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _facts(model: Model) -> dict[str, Any]:
    adapter, denoiser = model.adapter, model.denoiser
    weight = next(denoiser.parameters())
    where = (
        torch.cuda.get_device_name(weight.device) if weight.device.type == "cuda" else platform.processor() or platform.machine()
    )
    return {
        "model": model.name, "pipeline": adapter.pipeline, "fingerprint": model.fingerprint, "denoiser": adapter.denoiser,
        "parameters": sum(p.numel() for p in denoiser.parameters()), "cross_sites": len(model.sites.cross),
        "self_sites": len(model.sites) - len(model.sites.cross), "branches": ", ".join(adapter.branches),
        "leading_tokens": adapter.leading(denoiser), "scheduler": type(model.pipe.scheduler).__name__, "rate": model.rate,
        **asdict(model.sampling()), "dtype": str(weight.dtype).removeprefix("torch."), "device": f"{weight.device} ({where})",
        "threads": torch.get_num_threads(), "audioscope": __version__, "python": sys.version.split()[0], "system": platform.platform(),
        "libraries": {name: version(name) for name in LIBRARIES},
    }  # fmt: skip


def _laws(model: Model) -> Iterator[tuple[str, float, float]]:
    """Each law with its error and its limit."""
    adapter, sites = model.adapter, model.sites
    weight = next(model.denoiser.parameters())
    limit = LIMIT if weight.dtype in (torch.float32, torch.float64) else HALF
    guidance = 3.0 if len(adapter.branches) > 1 else 1.0
    longest = adapter.max_duration(model.pipe) or 1.0
    how = model.sampling(STEPS, guidance, min(1.0, longest))

    def started(rows: list[Row]) -> Tensor | None:
        """Starting noise for a pipeline that would otherwise take its full length."""
        if not adapter.fixed_length:
            return None
        shape = model.denoiser.config.in_channels, FRAMES
        return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(row.seed)) for row in rows]).to(
            weight.dtype
        )

    def run(*rows: Row, sources: int = 0, **more: Any) -> Run:
        """sources: how many rows are added for patches to copy from; they share the first row's seed."""
        given = started([*rows, *[rows[0]] * sources])
        return model.run(list(rows), decode=False, latents=given, **how, **more)

    def bare() -> Tensor:
        """The pipeline's own call."""
        given = started([Row(A, 0)])
        call = {"prompt": [A], "generator": [torch.Generator().manual_seed(0)], "num_inference_steps": STEPS, "output_type": "latent",
                "guidance_scale": guidance, adapter.seconds: how.seconds, **({} if given is None else {"latents": given}),
                **{name: [value] for name, value in adapter.each}}  # fmt: skip
        with model.turn:
            latents: Tensor = model.pipe(**call)[0]
        return latents[0]

    def edited(*edits: Edit) -> Row:
        return Row(B, 0, edits)

    first, last = sites.cross[0], sites.cross[-1]
    expected = bare()
    clean, corrupted = run(Row(A, 0), Row(B, 0)).latents
    scale = float((clean - corrupted).float().norm())

    def off(one: Tensor, other: Tensor) -> float:
        return float((one - other).float().norm()) / scale if scale else float("inf")

    alone, read = run(Row(A, 0)).latents[0], run(Row(A, 0), read=Read(tuple(sites))).latents[0]
    yield (
        "a run without edits, or one that reads every site, is the pipeline's own call",
        max(off(alone, expected), off(read, expected)),
        limit,
    )
    swapped = run(Row(A, 0), Row(B, 0), edited(PatchText("cross", A))).latents
    yield "with the text of A at every cross-attention site, B becomes A", off(swapped[2], swapped[0]), limit
    itself = run(Row(B, 0), edited(PatchText("cross", B)), edited(PatchOutput("all", B))).latents
    yield (
        "a prompt's own text, or its own outputs, change nothing",
        max(off(itself[1], itself[0]), off(itself[2], itself[0])),
        limit,
    )
    if last.heads and last.keys and last.values:  # an attention module of another make may hide them
        inside = run(
            Row(A, 0), Row(B, 0), edited(PatchOutput(last, A)), edited(PatchOutput(last.heads, A)), edited(PatchText(last, A)),
            edited(PatchOutput([*last.keys, *last.values], A)),
        ).latents  # fmt: skip
        yield (
            "all heads of a layer together are its output, its keys and values together its text",
            max(off(inside[3], inside[2]), off(inside[5], inside[4])),
            limit,
        )
    if adapter.denoiser != "unet" and any(
        site.kind == "block" for site in sites.every
    ):  # skip connections lead around a U-Net's blocks
        place = {site: number for number, site in enumerate(sites.every)}
        blocks = [(b, [site for site in sites.cross if place[site] > place[b]]) for b in sites.every if b.kind == "block"]
        patched = run(Row(A, 0), *(
            edited(PatchOutput(block, A), *([PatchText(later, A)] if later else [])) for block, later in blocks
        )).latents  # fmt: skip
        yield (
            "with the output of a block in A, and the text of A after it, B becomes A",
            max(off(one, patched[0]) for one in patched[1:]),
            limit,
        )
    rows = [Row(A, 0), Row(B, 1), edited(PatchText(first, A)), edited(Ablate(last))]
    packed = run(*rows).latents
    each = [run(row, sources=len({e.prompt for e in row.edits if isinstance(e, PatchText)})).latents[0] for row in rows]
    yield "rows of one batch are as if run alone", max(off(one, other) for one, other in zip(packed, each, strict=True)), limit
    windows = tuple(PatchText(first, A, steps=(step, step + 1)) for step in range(STEPS))
    whole = run(Row(A, 0), edited(PatchText(first, A)), edited(*windows)).latents
    yield "an edit in every step is the edit", off(whole[2], whole[1]), limit
    seen = run(Row(A, 0), Row(B, 0), edited(PatchText(last, A)), read=Read(sites.cross, steps=(0,))).reads
    change = {
        site.path: float((seen[site.path][2] - seen[site.path][1]).norm() / seen[site.path][1].norm()) for site in sites.cross
    }
    own = change.pop(last.path)
    yield (
        "an edit at the last layer leaves the layers before it as they were, in its first step",
        max(change.values(), default=0.0),
        limit,
    )
    silent = run(Row(A, 0), edited(Ablate("cross"))).latents[1]
    yield "edits act: at that layer, and where all cross-attention is silenced", min(own, off(silent, corrupted)), ACTS
    hooks = sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.denoiser.modules())
    yield "afterward, the pipeline is as before, without hooks", off(bare(), expected) + hooks, limit


def _cost(model: Model) -> dict[str, Any]:
    """What a unit takes at the model's own length and steps: all layers of one prompt pair, in one batch."""
    how = model.sampling()
    sites = model.sites.cross
    rows = [Row(A, 0), Row(B, 0), *(Row(B, 0, (PatchText(site, A),)) for site in sites)]
    device = next(model.denoiser.parameters()).device

    def timed(rows: list[Row], steps: int) -> float:
        began = time.perf_counter()
        model.run(rows, **{**dict(how), "steps": steps})
        return time.perf_counter() - began

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    timed(rows[:1], 1)  # warms up
    alone = timed(rows[:1], 1)
    many = rows if alone * len(rows) * 4 < PATIENCE else rows[:1]
    one, three = timed(many, 1), timed(many, STEPS)
    step = max(0.0, (three - one) / (STEPS - 1))
    unit = (one - step + step * how.steps) * len(rows) / len(many)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak()
    return {
        "rows_a_unit": len(rows), "seconds_a_unit": unit, "estimated_from": f"{len(many)} of {len(rows)} rows at 1 and {STEPS} steps",
        "peak_memory_gb": peak / 1e9, "memory_of": "the GPU" if device.type == "cuda" else "the process",
        "units_of_a_sweep": CONCEPTS * PAIRS, "hours_of_a_sweep": CONCEPTS * PAIRS * unit / 3600,
        "disk_gb_of_a_sweep": CONCEPTS * PAIRS * len(rows) * how.seconds * model.rate * 1.2 / 1e9,
    }  # fmt: skip


def _peak() -> float:
    """The largest memory that this process has had, in bytes, where the system tells; else what it has now."""
    try:
        import resource
    except ImportError:  # Windows
        return float(getattr(psutil.Process().memory_info(), "peak_wset", 0))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)
