"""What the promises about the tiny model's speed rest on: seconds a clip to decode, and to generate from the command line.

python benchmarks/tiny_times.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time

import torch

import audioscope


def main() -> None:
    model = audioscope.load("tiny")
    latents = torch.randn(14, model.pipe.vae.config.latent_dim, 64, generator=torch.Generator().manual_seed(0))
    decode = []
    for _ in range(6):
        began = time.perf_counter()
        with torch.no_grad():
            model.pipe.vae.decode(latents)
        decode.append((time.perf_counter() - began) / len(latents))
    command = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            arguments = ["generate", "a slow sad song with violin", "--seed", "0", "--out", f"{folder}/clip.flac"]
            subprocess.run([sys.executable, "-m", "audioscope", *arguments], check=True, capture_output=True)
            command.append(time.perf_counter() - began)
    result = {
        "threads": torch.get_num_threads(),
        "decode_seconds_a_clip_median": round(statistics.median(decode[1:]), 3),  # the first call warms up
        "generate_command_seconds_median": round(statistics.median(command), 2),
        "generate_command_seconds_max": round(max(command), 2),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
