"""A resumable table: independent units of work, each written when done, in a folder that knows its settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import pandas as pd
from tqdm.auto import tqdm

from audioscope.paths import write_whole


def key(unit: Any) -> str:
    """A short name of a unit that depends on its content only."""
    return hashlib.sha256(json.dumps(unit, sort_keys=True).encode()).hexdigest()[:16]


def seed_of(concept: str, pair: int, number: int) -> int:
    """Another piece of noise for every unit, so that pairs are independent draws of it, too."""
    return crc32(f"{concept}/{pair}/{number}".encode())


def safe_name(name: str) -> str:
    """A name as part of a file's name."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Make a folder this sweep's, or check that it is. Raises ValueError when it holds another model's or settings' results."""
    file = folder / "settings.json"
    wanted = json.loads(json.dumps(settings))
    if file.exists():
        try:
            found = json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(f"{file} is damaged: delete {folder}, or choose another folder.") from error
        differ = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
        if differ:
            name = differ[0]
            raise ValueError(
                f"{folder} holds a sweep with other settings ({', '.join(differ)}; {name}: {_short(found.get(name))} there, "
                f"{_short(wanted.get(name))} now): choose another folder, or delete it."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(file, lambda path: path.write_text(json.dumps(wanted, indent=1) + "\n"))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."


def _read(file: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(file)
    except (ValueError, OSError) as error:
        raise ValueError(f"{file} is damaged: delete it and run again, that unit will be made anew.") from error


def run_units(
    folder: Path,
    settings: dict[str, Any],
    units: Sequence[dict[str, Any]],
    work: Callable[[dict[str, Any]], pd.DataFrame],
    progress: bool = True,
    desc: str = "sweep",
) -> pd.DataFrame:
    """Do every unit that the folder lacks and return all tables in the units' order.

    A unit's table is one Parquet file, written by rename: a run that is killed anywhere loses at most the unit it was at,
    and a rerun goes on from there. Results do not depend on where runs were cut, since `work` sees one unit at a time.
    """
    claim(folder, settings)
    (folder / "units").mkdir(exist_ok=True)
    files = {key(unit): folder / "units" / f"{key(unit)}.parquet" for unit in units}
    if len(files) != len(units):
        raise ValueError("Two units of the sweep are equal: every unit must be listed once.")
    todo = [unit for unit in units if not files[key(unit)].exists()]
    with tqdm(total=len(units), initial=len(units) - len(todo), desc=desc, unit="unit", disable=not progress) as bar:
        for unit in todo:
            table = work(unit)
            write_whole(files[key(unit)], table.to_parquet)
            bar.update()
    return pd.concat([_read(file) for file in files.values()], ignore_index=True)
