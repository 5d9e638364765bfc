"""Train the copies of tiny in which the right map is known, see whether they keep to it, and name the labels that the judge no longer hears.

python tools/make_planted.py WORK [--hours 1]; resumes. Writes data/tiny-planted and data/tiny-planted-two, once they are judged.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audioscope.edits import PatchText
from audioscope.loading import load
from audioscope.model import Model
from audioscope.store import write_whole
from audioscope.tiny import listener
from audioscope.tiny.captions import caption
from audioscope.tiny.decoys import Plan, train_planted
from audioscope.tiny.evaluate import generated_clips, heard, held_out_captions
from audioscope.tiny.music import GROUPS, Song
from audioscope.tracing import Row

ROOT = Path(__file__).resolve().parent.parent
COPIES = {"tiny-planted": Plan.draw(25), "tiny-planted-two": Plan.draw(25, 2)}
HEARD, CLIPS = 0.7, 600  # the smallest share of clips in which the judge must hear a label; captions of held-out combinations
FOLLOWED = 60  # songs a group, of which two labels are told apart by layers


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("work", type=Path)
    options.add_argument("--hours", type=float, default=1.0)
    options.add_argument("--only", nargs="+", choices=COPIES, default=list(COPIES))
    chosen = options.parse_args()
    for name in chosen.only:
        work = chosen.work / name
        out = train_planted(COPIES[name], chosen.hours, work / "copy", work)
        judged(out)
        (ROOT / "data" / name).mkdir(exist_ok=True)
        for file in out.iterdir():
            shutil.copy(file, ROOT / "data" / name / file.name)


def judged(folder: Path) -> None:
    """Write to a copy's plan how well it plays each label, and whether it keeps to the plan; labels that it does not play are left out."""
    model, ear, captions = load(folder), listener.load("judge"), held_out_captions(CLIPS)
    facts = json.loads((folder / "plan.json").read_text())
    sound = generated_clips(model, captions)
    guess = torch.cat([ear.guess(part) for part in sound.split(100)])
    shares: dict[str, list[float]] = {}
    for number, (group, labels) in enumerate(GROUPS.items()):
        for index, label in enumerate(labels):
            rows = [row for row, (_, song, named) in enumerate(captions) if group in named and getattr(song, group) == label]
            if label in facts["groups"][group]:
                shares[label] = [round(float((guess[rows, number] == index).float().mean()) if rows else 0.0, 3), len(rows)]
    known = {label: facts["layers"][group] for group in GROUPS for label in facts["groups"][group] if shares[label][0] >= HEARD}
    facts |= {
        "labels": known, "unheard": [label for label in shares if label not in known], "judge": heard(ear, sound, captions),
        "judge_by_label": shares, "followed": {group: followed(model, group, facts["layers"][group]) for group in GROUPS},
    }  # fmt: skip
    write_whole(folder / "plan.json", lambda part: part.write_text(json.dumps(facts, indent=1) + "\n"))
    print(folder.parent.name, facts["judge"], "not heard:", ", ".join(facts["unheard"]) or "none")
    print(json.dumps(facts["followed"], indent=1))


def followed(model: Model, group: str, layers: list[int]) -> dict[str, float]:
    """Of songs whose layers read two labels of a group, how often the judge hears which.

    "planted": the label that the planted layers read, while all others read the other one; "elsewhere": the label that all others read.
    With two layers, "one of two": the label that one of them reads, while the other reads the other one.
    """
    ear, number, rng = listener.load("judge"), list(GROUPS).index(group), np.random.default_rng(number_of(group))
    rows: list[tuple[Row, int, int]] = []
    sites: dict[str, Any] = {"both": layers} | ({"one": [layers[0]]} if len(layers) > 1 else {})
    found: dict[str, float] = {}
    for name, at in sites.items():
        rows = []
        while len(rows) < FOLLOWED:
            song = Song.draw(rng)
            one, other = (str(label) for label in rng.choice(GROUPS[group], 2, replace=False))
            seed = int(rng.integers(2**31))
            texts = [
                caption(replace(song, **{group: label}), np.random.default_rng(seed), always=tuple(GROUPS))
                for label in (one, other)
            ]
            edits = (PatchText([model.sites.cross[layer].path for layer in at], texts[0]),)
            rows.append((Row(texts[1], seed, edits), GROUPS[group].index(one), GROUPS[group].index(other)))
        audio = torch.cat([model.run([row for row, *_ in rows[k : k + 12]]).audio for k in range(0, len(rows), 12)])
        guess = torch.cat([ear.guess(part) for part in audio[:, 0].split(60)])[:, number]
        mine, theirs = (float((guess == torch.tensor([row[k] for row in rows])).float().mean()) for k in (1, 2))
        found |= {"planted": round(mine, 3), "elsewhere": round(theirs, 3)} if name == "both" else {"one of two": round(mine, 3)}
    return found


def number_of(group: str) -> int:
    return 100 + list(GROUPS).index(group)


if __name__ == "__main__":
    main()
