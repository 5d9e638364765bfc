"""What ears from outside hear in the tiny model's music, and what the model's own classifiers hear in real recordings.

The listener and the judge learned from rendered music alone. Two things show how far they can be trusted: musicnn, which never heard that
music, and recordings of real instruments, of which they heard some, as notes of a bank.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
import soundfile as sf
import torch
from scipy.stats import binomtest
from torch import Tensor

from audioscope.errors import listed, real, said, whole, with_columns
from audioscope.scoring.measures import measure
from audioscope.scoring.scorers import Musicnn
from audioscope.stats import auroc, auroc_interval
from audioscope.store import data_folder
from audioscope.tiny import listener, pool
from audioscope.tiny.bank import RATE, NoteBank
from audioscope.tiny.evaluate import Caption
from audioscope.tiny.music import BPM, GROUPS, SAMPLES, Song, render

RENDERED, RENDERED_POOL = 300, 77  # songs, half of them of held-out combinations; no training renders this pool
LEAST = 0.75  # AUROC in rendered music at which an outside ear's score of a concept is worth reading


def outside(sound: Tensor, captions: Sequence[Caption], ceilings: pd.DataFrame | None = None) -> pd.DataFrame:
    """Compare what is heard in clips with their captions: by the judge, by musicnn, and by a measurement where there is one.

    Args:
        sound: Clips, float32 [clips, 65536] at 16 kHz.
        captions: One (text, song, named groups) per clip, as `audioscope.tiny.evaluate` draws them.
        ceilings: What is measured in rendered songs (`measured_ceilings`); None is what ships.

    Returns:
        One row for each question, over the clips whose caption names the group (none if no caption does), with these columns.

        - group, concept (empty for a whole group), ear ("judge", "musicnn" or "beat"), clips;
        - figure: what the value is. "accuracy" of the judge; "AUROC" of musicnn, for each concept that it has a tag for; for the
          tempo, the share of clips whose measured beat lies "in the band" asked for, or there "up to an octave" (doubled or halved);
        - value, with its 95 % interval low, high (Clopper and Pearson; Newcombe for an AUROC);
        - ceiling: the same in 300 rendered songs, which certainly have what their labels say.

    Raises:
        ValueError: An argument has another form.

    Example:
        >>> from audioscope.tiny.evaluate import generated_clips, held_out_captions
        >>> captions = held_out_captions(6)
        >>> table = audioscope.scoring.outside(generated_clips(model, captions, steps=2), captions)
        >>> table["ear"].unique().tolist()
        ['judge', 'musicnn', 'beat']
    """
    told = listed("captions", captions, "a list of (text, song, named groups)")
    if wrong := [each for each in told if not isinstance(each, tuple) or len(each) != 3 or not isinstance(each[1], Song)]:
        raise ValueError(f"captions contains {said(wrong[0])}, expected (text, song, named groups).")
    if not isinstance(sound, Tensor) or sound.ndim != 2 or len(sound) != len(told) or not told:
        raise ValueError(f"sound is {said(sound)}, expected a tensor [{len(told)} clips, samples], one clip for each caption.")
    if sound.dtype != torch.float32 or sound.shape[1] != SAMPLES or not bool(torch.isfinite(sound).all()):
        what = f"{str(sound.dtype).removeprefix('torch.')} [{len(sound)}, {sound.shape[1]}]"
        raise ValueError(f"sound is {what}, expected finite float32 [clips, {SAMPLES}], as `generated_clips` gives them.")
    if wrong := [
        each[2]
        for each in told
        if isinstance(each[2], str) or not isinstance(each[2], Collection) or set(map(str, each[2])) - set(GROUPS)
    ]:
        raise ValueError(f"captions names the groups {said(wrong[0])}, expected some of {', '.join(GROUPS)}.")
    known = _checked_ceilings(ceilings, ("group", "concept", "ear", "figure", "ceiling"))
    found = _heard(sound.detach(), [song for _, song, _ in told], [named for _, _, named in told])
    return found.merge(known, how="left", on=["group", "concept", "ear", "figure"])


def measured_ceilings() -> pd.DataFrame:
    """What `outside` measures in any clips, in 300 rendered songs: the most to expect of generated ones. It takes two minutes."""
    songs = [pool.song(number, RENDERED_POOL, bool(number % 2)) for number in range(RENDERED)]
    sound = np.stack([pool.clip(number, RENDERED_POOL, bool(number % 2)) for number in range(RENDERED)])
    found = _heard(torch.from_numpy(sound), songs, [frozenset(GROUPS)] * RENDERED)
    return found.rename(columns={"value": "ceiling"})[["group", "concept", "ear", "figure", "ceiling"]]


def _shipped_ceilings() -> pd.DataFrame:
    told = json.loads((data_folder() / "tiny" / "evaluation.json").read_text(encoding="utf-8"))["outside"]
    return pd.DataFrame(told)[["group", "concept", "ear", "figure", "ceiling"]]


def trusted(least: float = LEAST, ceilings: pd.DataFrame | None = None) -> list[str]:
    """Name the concepts that musicnn tells apart in rendered music well enough for its scores of them to be read.

    Args:
        least: The smallest AUROC.
        ceilings: As for `outside`.

    Returns:
        Names of concepts.

    Raises:
        ValueError: `least` is no number, or `ceilings` is another table.

    Example:
        >>> sorted(audioscope.scoring.trusted())
        ['fast', 'flute', 'metal', 'opera', 'slow', 'techno']
    """
    table, least = _checked_ceilings(ceilings, ("concept", "ear", "ceiling")), real("least", least)
    return table[(table["ear"] == "musicnn") & (table["ceiling"] >= least)]["concept"].tolist()


def _checked_ceilings(ceilings: pd.DataFrame | None, needed: Sequence[str]) -> pd.DataFrame:
    if ceilings is None:
        return _shipped_ceilings()
    found = with_columns("ceilings", ceilings, needed, "measured_ceilings")[list(needed)].reset_index(drop=True)
    twice = "figure" in needed and found.drop(columns="ceiling").duplicated().any()
    if found["ceiling"].dtype.kind not in "fi" or twice:
        raise ValueError("ceilings has a line twice, or a ceiling that is no number: expected the table of `measured_ceilings`.")
    return found


def _heard(sound: Tensor, songs: Sequence[Song], named: Sequence[Collection[str]]) -> pd.DataFrame:
    judge, ear = listener.load("judge"), Musicnn()
    guess = torch.cat([judge.guess(part) for part in sound.split(100)]).numpy()
    scores = pd.concat([ear(part[:, None], RATE) for part in sound.split(100)], ignore_index=True)
    beat = measure(sound[:, None], RATE)["tempo"].to_numpy()
    rows: list[dict[str, Any]] = []
    for column, (group, classes) in enumerate(GROUPS.items()):
        asked = np.array([group in each for each in named])
        if not asked.any():
            continue
        labels = np.array([getattr(song, group) for song in songs])[asked]
        rows.append({"group": group, "concept": "", "ear": "judge"} | _share(np.array(classes)[guess[asked, column]] == labels))
        for concept in (each for each in classes if each in ear.concepts and 0 < (labels == each).sum() < len(labels)):
            area = _area(scores[concept].to_numpy()[asked], labels == concept)
            rows.append({"group": group, "concept": concept, "ear": "musicnn"} | area)
        if group == "tempo":
            for figure, factors in (("in the band", (1.0,)), ("up to an octave", (1.0, 2.0, 0.5))):
                inside = [
                    any(_in_band(bpm * by, label) for by in factors) for bpm, label in zip(beat[asked], labels, strict=True)
                ]
                rows.append({"group": group, "concept": "", "ear": "beat"} | _share(np.array(inside), figure))
    return pd.DataFrame(rows, columns=None if rows else ["group", "concept", "ear", "clips", "figure", "value", "low", "high"])


def _in_band(bpm: float, tempo: str, slack: float = 0.05) -> bool:
    low, high = BPM[tempo]
    return bool((1 - slack) * low <= bpm <= (1 + slack) * high)


def _share(right: np.ndarray, figure: str = "accuracy") -> dict[str, Any]:
    """The share of True, with its exact interval."""
    exact = binomtest(int(right.sum()), len(right)).proportion_ci()
    return {"clips": len(right), "figure": figure, "value": float(right.mean()), "low": exact.low, "high": exact.high}


def _area(values: np.ndarray, has: np.ndarray) -> dict[str, Any]:
    """The AUROC of values for what some of them have, with its interval."""
    value = float(auroc(values[has], values[~has]))
    low, high = auroc_interval(value, int(has.sum()), int((~has).sum()))
    return {"clips": len(has), "figure": "AUROC", "value": value, "low": low, "high": high}


def recordings() -> list[dict[str, Any]]:
    """Read the real recordings that ship: nine instruments, five notes each (xylophone: four), and parts of four metal songs.

    26 of the 44 notes are in the note bank "recorded", too, and the others are of the same collections: to what learned from
    that bank, as the judge and the listener that ship did, they are not new.

    Returns:
        One dict per recording, with file, group, label, source, license and credit, for an instrument notes (MIDI pitches, each
        `seconds_per_note` long), and wave, float32 [samples] at 16 kHz.

    Example:
        >>> flute = next(each for each in audioscope.scoring.recordings() if each["label"] == "flute")
        >>> flute["notes"], flute["license"]
        ([69, 72, 76, 84, 88], 'CC-BY-3.0')
    """
    folder = data_folder() / "real"
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    return [each | {"wave": sf.read(folder / each["file"], dtype="float32")[0]} for each in index]


def on_recordings() -> pd.DataFrame:
    """Ask the judge, the listener and musicnn about each real recording by itself.

    Returns:
        One row per recording, with the columns file, group and label, and what each ear takes it for, which is the class of the
        group that it finds most likely (for musicnn, of those that it has a tag for, the one with the largest log-odds; tags differ in
        how often they were given, so this leans to the common ones).

    Example:
        >>> table = audioscope.scoring.on_recordings()
        >>> table.loc[table["label"] == "flute", "musicnn"].tolist()
        ['flute']
    """
    ears, ear, rows = {name: listener.load(name) for name in ("judge", "listener")}, Musicnn(), []
    for each in recordings():
        wave, classes = torch.from_numpy(each["wave"][:SAMPLES])[None], GROUPS[each["group"]]
        scores = ear(torch.from_numpy(each["wave"])[None, None], RATE)[[name for name in classes if name in ear.concepts]]
        said = {name: classes[int(own.guess(wave)[0, list(GROUPS).index(each["group"])])] for name, own in ears.items()}
        rows.append({key: each[key] for key in ("file", "group", "label")} | said | {"musicnn": str(scores.iloc[0].idxmax())})
    return pd.DataFrame(rows)


def cut(wave: np.ndarray, samples: int) -> np.ndarray:
    """The first `samples` of a note from where it sounds, at one level, faded out: the form of the notes in data/real."""
    start = int(np.argmax(np.abs(wave) > 0.02 * np.abs(wave).max()))
    wave = np.pad(wave, (0, samples))[start : start + samples]
    wave[-800:] *= np.linspace(1, 0, 800)
    return wave * 0.1 / np.sqrt((wave[: RATE // 2] ** 2).mean())


def _banks() -> dict[str, NoteBank]:
    """The banks that `real_leads` compares, by the column of its table."""
    real = {
        each["label"]: dict(zip(each["notes"], np.split(each["wave"], len(each["notes"])), strict=True))
        for each in recordings() if each["group"] == "lead"
    }  # fmt: skip
    # one source of each instrument: a choice of several takes a draw, after which the player would play otherwise
    rendered = NoteBank(only=["fluid"])
    few = {lead: {pitch: cut(rendered.note(lead, pitch), len(note)) for pitch, note in of.items()} for lead, of in real.items()}
    return {"value": rendered, "few": rendered.with_notes(few), "real": rendered.with_notes(real)}


def real_leads(songs: int = 200) -> pd.DataFrame:
    """Render songs with the lead that the renderer plays, with a few of its notes, and with notes of a real recording.

    All else is equal. Five short notes of an instrument, resampled to the pitches between them, sound odd whoever plays them:
    what the recordings change is the difference between the few and the real ones.

    Args:
        songs: How many, at least 20; they have one of the nine leads that there are recordings of.

    Returns:
        One row for each ear and concept, with the figure and the clips. It is the accuracy of the lead by the judge and by the
        listener, and the AUROC of each lead that musicnn has a tag for. value, low and high are with the notes of the bank
        "fluid"; few, few_low and few_high with those of them at the pitches of the recordings, cut as these are; real, real_low
        and real_high with the recordings.

    Raises:
        ValueError: There are too few songs.

    Example:
        >>> table = audioscope.scoring.real_leads(20)
        >>> judge = table[table["ear"] == "judge"].iloc[0]
        >>> bool(judge["value"] >= judge["real"])
        True
    """
    songs = whole("songs", songs, 20, why=": the accuracy of fewer says little")
    leads, banks = [each["label"] for each in recordings() if each["group"] == "lead"], _banks()
    numbers = [number for number in range(3 * songs) if pool.song(number, RENDERED_POOL).lead in leads][:songs]
    drawn = [pool.song(number, RENDERED_POOL) for number in numbers]
    truth, column = np.array([song.lead for song in drawn]), list(GROUPS).index("lead")
    ears, ear = {name: listener.load(name) for name in ("judge", "listener")}, Musicnn()
    found = []
    for which, bank in banks.items():
        waves = [
            render(song, np.random.default_rng([RENDERED_POOL, number, 1]), bank)
            for song, number in zip(drawn, numbers, strict=True)
        ]
        sound, rows = torch.from_numpy(np.stack(waves)), []
        for name, own in ears.items():
            guess = torch.cat([own.guess(part) for part in sound.split(100)])[:, column].numpy()
            rows.append({"ear": name, "concept": ""} | _share(np.array(GROUPS["lead"])[guess] == truth))
        scores = pd.concat([ear(part[:, None], RATE) for part in sound.split(100)], ignore_index=True)
        for lead in (each for each in leads if each in scores and each in truth):
            rows.append({"ear": "musicnn", "concept": lead} | _area(scores[lead].to_numpy(), truth == lead))
        names = {} if which == "value" else {"value": which, "low": f"{which}_low", "high": f"{which}_high"}
        found.append(pd.DataFrame(rows).set_index(["ear", "concept", "clips", "figure"]).rename(columns=names))
    return pd.concat(found, axis=1).reset_index()
