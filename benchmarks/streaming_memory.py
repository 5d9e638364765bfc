"""Peak memory of streaming means of activations over 8 and over 64 prompts, each in a process of its own.

python benchmarks/streaming_memory.py [--prompts 8 64]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

WORK = """
import resource, sys
import audioscope
model = audioscope.load("tiny")
texts = [pair.clean for concept in audioscope.datasets.concepts().values() for pair in concept.split("build")]
mean, count = 0.0, 0
for reading in model.activations(texts[: int(sys.argv[1])], "all", pool=False, steps=4, batch_size=8):
    count += 1
    mean = mean + (sum(float(v.mean()) for v in reading.values.values()) - mean) / count
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--prompts", type=int, nargs=2, default=(8, 64))
    few, many = options.parse_args().prompts
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes there and in KiB here
    peak = {n: int(subprocess.check_output([sys.executable, "-c", WORK, str(n)], text=True)) / unit for n in (few, many)}
    print(json.dumps({"peak_mib": {n: round(p) for n, p in peak.items()}, "ratio": round(peak[many] / peak[few], 4)}, indent=1))


if __name__ == "__main__":
    main()
