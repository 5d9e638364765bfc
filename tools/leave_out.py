"""How well the judge and the listener name leads of a bank of notes that they never heard: python tools/leave_out.py WORK [--train].

WORK holds ears that were trained without a bank, in folders such as judge-no-recorded; with --train, what is missing there is trained
first (an hour or two each on one core; --ears judge, --banks third limit it). Only the notes of the lead differ: all others are those
of one bank that the ears know. Writes data/tiny/left_out.json; what that says of other ears and banks stays.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from audioscope.loading import load
from audioscope.scoring.outside_ears import RENDERED_POOL, _banks, _share
from audioscope.store import fingerprint, write_whole
from audioscope.tiny import listener, pool
from audioscope.tiny.bank import NoteBank
from audioscope.tiny.listener import Listener
from audioscope.tiny.music import GROUPS, render

ROOT = Path(__file__).resolve().parent.parent
EARS, SONGS = ("judge", "listener"), 200
BANKS = {"recorded": "fluid", "third": "fluid", "fluid": "recorded"}  # a bank, and the one that plays all else


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("work", type=Path)
    options.add_argument("--train", action="store_true")
    options.add_argument("--ears", nargs="+", choices=EARS, default=EARS)
    options.add_argument("--banks", nargs="+", choices=BANKS, default=list(BANKS))
    chosen = options.parse_args()
    lines: list[dict[str, Any]] = []
    for bank in chosen.banks:
        ears, other = {}, BANKS[bank]
        for name in chosen.ears:
            folder = chosen.work / f"{name}-no-{bank}"
            if not folder.exists() and chosen.train:
                listener.train(name, folder, chosen.work, load("tiny").pipe.vae, without=(bank,))
            if folder.exists():
                ears[name, "left out"], ears[name, "all"] = Listener.from_pretrained(folder).eval(), listener.load(name)
        if not ears:
            continue
        known, theirs = NoteBank(only=[other]), NoteBank(only=[bank])
        leads = [lead for lead in GROUPS["lead"] if lead != "none" and bank in theirs.sources(lead)]
        sounds = {"known": known, "unknown": known.with_notes({lead: theirs._notes[lead][bank] for lead in leads})}
        if bank == "recorded":
            sounds["real"] = _banks()["real"]
        for songs, notes in sounds.items():
            lines += [{"bank": bank, "songs": songs, **line} for line in heard(ears, leads, notes)]
    if not lines:
        raise SystemExit(f"{chosen.work} holds no ears that were trained without a bank, such as judge-no-recorded: use --train.")
    print(pd.DataFrame(lines).round(3).to_string(index=False))
    file = ROOT / "data/tiny/left_out.json"
    new = {(line["bank"], line["ear"]) for line in lines}
    before = json.loads(file.read_text()) if file.exists() else []
    lines = [line for line in before if (line["bank"], line["ear"]) not in new] + lines
    write_whole(file, lambda path: path.write_text(json.dumps(lines, indent=1) + "\n"))


def heard(ears: dict[tuple[str, str], Listener], leads: list[str], notes: NoteBank) -> list[dict[str, Any]]:
    """How often each ear names the lead of songs with one of these leads, played with these notes."""
    numbers = [number for number in range(4 * SONGS) if pool.song(number, RENDERED_POOL).lead in leads][:SONGS]
    songs = [pool.song(number, RENDERED_POOL) for number in numbers]
    waves = [render(song, np.random.default_rng([RENDERED_POOL, n, 1]), notes) for song, n in zip(songs, numbers, strict=True)]
    truth, column, sound = np.array([song.lead for song in songs]), list(GROUPS).index("lead"), torch.from_numpy(np.stack(waves))
    found = []
    for (name, trained), ear in ears.items():
        guess = torch.cat([ear.guess(part) for part in sound.split(100)])[:, column].numpy()
        right = _share(np.array(GROUPS["lead"])[guess] == truth)
        found.append({"ear": name, "trained": trained, "fingerprint": fingerprint(ear), **right})
    return found


if __name__ == "__main__":
    main()
