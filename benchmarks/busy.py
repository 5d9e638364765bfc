"""How much two sweeps on one machine slow each other down: python benchmarks/busy.py.

A unit of the atlas of `tiny` (14 rows), alone and with a second process that does the same, with threads that sleep while they
wait (audioscope's default) and with threads that spin (libgomp's default). Prints JSON: seconds a unit.
"""

import json
import os
import subprocess
import sys

UNIT = """
import time, audioscope
from audioscope import PatchText, Row
model = audioscope.load("tiny")
clean, corrupted = "a fast song with drums", "a slow song with drums"
rows = [Row(clean, 0), Row(corrupted, 0), *(Row(corrupted, 0, (PatchText(site, clean),)) for site in model.sites.cross)]
model.run(rows)
began = time.perf_counter()
for _ in range(3):
    model.run(rows)
print((time.perf_counter() - began) / 3)
"""


def seconds(processes: int, environment: dict[str, str]) -> float:
    """Seconds a unit, the mean over processes that run at the same time."""
    started = [
        subprocess.Popen([sys.executable, "-c", UNIT], stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
        for _ in range(processes)
    ]
    return round(sum(float(each.communicate()[0]) for each in started) / processes, 2)


ways = {"asleep": {}, "spinning": {"GOMP_SPINCOUNT": "300000"}}
print(json.dumps({f"{name}, {count} at once": seconds(count, how) for name, how in ways.items() for count in (1, 2)}, indent=1))
