"""One sweep in parts, for batch systems: each part does its units in a folder of its own, or all in one, and merging puts them together."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from audioscope.errors import Damaged, as_path, index_of, listed, said
from audioscope.store import (
    FORMAT,
    Unit,
    check_same,
    check_settings,
    content_hash,
    copy_clips,
    finished,
    read_json,
    refuse_foreign,
    unit_file,
    usual_columns,
    write_json,
)

Part = str | tuple[int, int] | None
WHOLE = "whole.json"  # what the whole sweep is, in the folder of each part


def checked_part(part: Any) -> tuple[int, int] | None:
    """The number of a part, from 1, and how many there are, from "3/8" or (3, 8). Raises ValueError for anything else."""
    if part is None:
        return None
    pieces = part.split("/") if isinstance(part, str) else part
    if isinstance(pieces, list | tuple) and len(pieces) == 2:
        number, many = (
            int(piece) if isinstance(piece, str) and piece.strip().isdecimal() and len(piece) < 10 else index_of(piece)
            for piece in pieces
        )
        if number is not None and many is not None and 1 <= number <= many:
            return number, many
    raise ValueError(f"part is {said(part)}, expected the part's number and how many there are, such as '3/8'.")


def units_of(
    part: tuple[int, int] | None,
    units: Sequence[Unit],
    folder: Path,
    kind: str,
    settings: Mapping[str, Any],
    result: Mapping[str, Any],
) -> Sequence[Unit]:
    """The units of a part, or all of them; the part's folder then says what the whole sweep is.

    settings: as for `run_units`, result: those of the whole sweep's result. Raises ValueError if there are more parts than units.
    """
    mine = share_of(part, units)
    if part is None:
        return mine
    check_settings(folder, dict(settings))
    write_json(folder / WHOLE, {"format": FORMAT, "kind": kind, "parts": part[1], "units": list(units), "result": dict(result)})
    return mine


def share_of(part: tuple[int, int] | None, units: Sequence[Unit]) -> Sequence[Unit]:
    """The units of a part, or all of them. Raises ValueError if there are more parts than units."""
    if part is None:
        return units
    number, many = part
    if many > len(units):
        raise ValueError(
            f"part is '{number}/{many}', but the sweep has only {len(units)} units: divide it into as many parts at most."
        )
    return units[number - 1 :: many]


def kind_of(folder: Path, known: Sequence[str]) -> str:
    """The kind of the sweep of which a folder holds a part. Raises FileNotFoundError if it holds none, ValueError for another kind."""
    if not (folder / WHOLE).is_file() or not (folder / "settings.json").is_file():
        raise FileNotFoundError(f"{folder} holds no part of a sweep: expected a folder that a run with --part, or part=, wrote.")
    kind = read_json(folder / WHOLE, FORMAT).get("kind")
    if kind not in known:
        raise ValueError(f"{folder} holds a part of a sweep of kind {kind!r}, expected {' or '.join(known)}.")
    return str(kind)


def _sweep(file: Path) -> dict[str, Any]:
    """What a part says of the whole sweep. Raises ValueError if it is damaged."""
    about = read_json(file, FORMAT)
    kinds = {"parts": int, "units": list, "result": dict}
    if not all(isinstance(about.get(name), kind) for name, kind in kinds.items()) or not about["units"] or about["parts"] < 1:
        raise Damaged(f"{file} is damaged (it does not say what the whole sweep is).")
    return about


def _asked(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """What all parts have in common, but for how each spells the model's folder: the settings have its weights."""
    return {"units": content_hash(sweep["units"]), "result": {**sweep["result"], "model": None}}


def merge_parts(
    folders: str | Path | Iterable[str | Path], out: str | Path, kind: str, needed: Collection[str]
) -> tuple[pd.DataFrame, dict[str, Any], Path]:
    """The table of a whole sweep, the settings of its result, and its folder, from the folders of its parts.

    Units and clips are copied to `out`, from which the sweep can also be resumed. kind: of the sweep, such as "atlas". needed: the
    columns of its tables. Raises FileNotFoundError for a folder without a part, and ValueError if parts are of different sweeps or
    units are missing, before anything is copied.
    """
    several = [folders] if isinstance(folders, str | Path) else listed("folders", folders, "the folders of the parts")
    places, to = [as_path(folder).resolve() for folder in several], as_path(out).resolve()
    if not places:
        raise ValueError("folders is empty, expected the folders of the parts.")
    for place in places:
        kind_of(place, [kind])
    sweeps = [_sweep(place / WHOLE) for place in places]
    settings = [read_json(place / "settings.json", FORMAT) for place in places]
    for place, sweep, set_ in zip(places, sweeps, settings, strict=True):
        advice = "merge the parts of one sweep only"
        check_same(f"{place} holds a part of a sweep", {**set_, "model": None}, {**settings[0], "model": None}, advice)
        check_same(f"{place} holds a part of a sweep", _asked(sweep), _asked(sweeps[0]), advice)
    units, many = sweeps[0]["units"], max(sweep["parts"] for sweep in sweeps)
    found = [next(((place, table) for place in places if (table := finished(place, unit)) is not None), None) for unit in units]
    usual = usual_columns(table for _, table in filter(None, found))
    if usual and (wrong := sorted(set(needed) - set(usual))):
        raise ValueError(f"The units in {places[0]} lack {', '.join(wrong)}: they are of something else, or damaged.")
    found = [each if each is not None and tuple(each[1]) == usual else None for each in found]
    if lacks := Counter(number % many + 1 for number, each in enumerate(found) if each is None):
        named = [
            f"part {part}/{many} lacks {count} of {len(share_of((part, many), units))}" for part, count in sorted(lacks.items())
        ]
        more = f", and {len(named) - 20} more parts" if len(named) > 20 else ""
        raise ValueError(
            f"{sum(lacks.values())} of {len(units)} units are missing: {'; '.join(named[:20])}{more}. Run these parts (again)."
        )
    refuse_foreign(to / f"{kind}.json", ("model",))
    check_settings(to, settings[0])
    (to / "units").mkdir(exist_ok=True)
    tables = []
    for unit, each in zip(units, found, strict=True):
        assert each is not None
        place, table = each
        if place != to:
            copy_clips(table, place, to)
            shutil.copy2(unit_file(place, unit), unit_file(to, unit))
        tables.append(table)
    return pd.concat(tables, ignore_index=True), sweeps[0]["result"], to
