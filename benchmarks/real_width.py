"""What our sweep costs at Stable Audio Open's full width, beside the bare pipeline and beside the published protocol.

Random weights; the denoiser is cut to a few layers and short latents on a CPU, and whole on a GPU. All three make their clips in
batches of L + 2, unit by unit in turn, in one process, without decoding:
- bare: the pipeline's own call on as many prompts as our sweep has rows;
- ours: clean, corrupted, and each single layer patched, in one batch;
- published: one layer a run, with the clean clip made again for each, as the paper's code does (2L clips where ours are L + 2).

    python benchmarks/real_width.py [--layers 4] [--tokens 64] [--steps 3] [--units 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from helpers.pipelines import PROMPTS, build_stable_audio

from audioscope.edits import PatchText
from audioscope.model import Model
from audioscope.tracing import Row


def main() -> None:
    gpu = torch.cuda.is_available()
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--layers", type=int, default=24 if gpu else 4)
    options.add_argument("--tokens", type=int, default=1024 if gpu else 64)
    options.add_argument("--steps", type=int, default=2 if gpu else 3)
    options.add_argument("--units", type=int, default=3)
    chosen = options.parse_args()
    model = wide_model(chosen.layers, chosen.tokens)
    clean, corrupted = PROMPTS
    size = chosen.layers + 2
    settings = {"steps": chosen.steps, "guidance": 7.0, "seconds": 0.01, "decode": False}

    def bare(seed: int) -> None:
        model.pipe(
            [clean] + [corrupted] * (size - 1), generator=[torch.Generator().manual_seed(seed) for _ in range(size)],
            num_inference_steps=chosen.steps, guidance_scale=7.0, audio_end_in_s=0.01, output_type="latent",
        )  # fmt: skip

    def ours(seed: int) -> None:
        patched = [Row(corrupted, seed, (PatchText(site, clean),)) for site in model.sites.cross]
        model.run([Row(clean, seed), Row(corrupted, seed), *patched], **settings)

    def published(seed: int) -> None:
        """As many units as fill whole batches are run at once; the time of one is counted."""
        rows = [row for s in range(size // 2) for site in model.sites.cross
                for row in (Row(clean, seed + s), Row(corrupted, seed + s, (PatchText(site, clean),)))]  # fmt: skip
        for start in range(0, len(rows), size):
            model.run(rows[start : start + size], **settings)

    if size % 2:
        raise SystemExit("--layers must be even, so that the published protocol's pairs fill batches of L + 2")
    times: dict[str, list[float]] = {"bare": [], "ours": [], "published": []}
    for unit in range(chosen.units + 1):
        for name, do, units in (("bare", bare, 1), ("ours", ours, 1), ("published", published, size // 2)):
            seconds = _timed(do, unit) / units
            if unit:  # the first warms all up
                times[name].append(seconds)
    overhead = [o / b for o, b in zip(times["ours"], times["bare"], strict=True)]
    faster = [p / o for p, o in zip(times["published"], times["ours"], strict=True)]
    limit = 2 * chosen.layers / (chosen.layers + 2)
    print(json.dumps({
        "device": torch.cuda.get_device_name() if gpu else f"cpu, {torch.get_num_threads()} threads", **vars(chosen), "batch_size": size,
        "seconds_a_unit": {name: round(statistics.median(values), 3) for name, values in times.items()},
        "ours_over_bare": {"median": round(statistics.median(overhead), 3), "all": [round(x, 3) for x in overhead]},
        "published_over_ours": {"median": round(statistics.median(faster), 3), "all": [round(x, 3) for x in faster]},
        "limit_2L_over_L_plus_2": round(limit, 3),
    }, indent=1))  # fmt: skip


def _timed(do: Callable[[int], None], seed: int) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    do(seed)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def wide_model(layers: int, tokens: int) -> Model:
    """The pipeline at full width: in bfloat16 on a GPU, else in float32 on the CPU."""
    home = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    return Model(_wide(layers, tokens).to(*home), "stable audio at full width")


def _wide(layers: int, tokens: int):
    """The test's random pipeline with a denoiser of the published width."""
    from diffusers import StableAudioDiTModel
    from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel

    pipe = build_stable_audio()
    width = pipe.text_encoder.config.d_model
    pipe.tokenizer.model_max_length = 128  # and so 130 text tokens, with the two of the duration
    torch.manual_seed(0)
    denoiser = StableAudioDiTModel(
        sample_size=tokens, num_layers=layers, cross_attention_input_dim=width,
        global_states_input_dim=2 * width,
    )  # fmt: skip
    pipe.register_modules(transformer=denoiser.eval(), projection_model=StableAudioProjectionModel(width, width, 0, 10))
    pipe.rotary_embed_dim = denoiser.config.attention_head_dim // 2
    return pipe


if __name__ == "__main__":
    main()
