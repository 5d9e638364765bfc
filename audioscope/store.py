"""Where the shipped data is, how files are written whole, and how sweeps resume."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import platform
import shutil
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from glob import escape
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TypeVar
from zlib import crc32

import numpy as np
import pandas as pd
import psutil
import soundfile as sf
from tqdm.auto import tqdm

from audioscope.errors import Damaged, as_path, of_kind, plain_name, quiet, said, whole
from audioscope.installed import __version__

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")
Unit = dict[str, Any]
Do = Callable[[Unit, Path], object]  # does a unit and writes what it makes into a folder
# Held while a network is loaded: accelerate then replaces a method of torch for the whole process, and of two threads the second
# would put the first one's replacement back, so that nothing could ever be loaded again.
LOADING = threading.RLock()

FORMAT = 1  # the version of a folder of unfinished work, raised with every change with which it cannot be resumed


def _shipped(name: str, mark: str) -> Path:
    """A folder that is next to the package in a checkout, and inside it in a wheel; mark: what it must contain."""
    package = Path(__file__).resolve().parent
    for folder in (package / name, package.parent / name):
        if any(folder.glob(mark)):
            return folder
    raise FileNotFoundError(f"No folder {name}/ in {package} or next to it: reinstall audioscope or use a full checkout.")


def data_folder() -> Path:
    """Find the folder `data/` with the tiny model, the concepts and the shipped atlas.

    Returns:
        The folder, which is next to the package in a checkout and inside it in a wheel.

    Raises:
        FileNotFoundError: The folder is missing.

    Example:
        >>> (audioscope.datasets.data_folder() / "concepts.yaml").exists()
        True
    """
    return _shipped("data", "tiny")


def notebooks_folder() -> Path:
    """The folder of the notebooks. Raises FileNotFoundError if it is missing."""
    return _shipped("notebooks", "00_*.ipynb")


def write_whole(file: Path, write: Callable[[Path], Any], *, lasting: bool = False) -> None:
    """Write a file under another name and rename it, so that it exists whole or not at all.

    lasting: it also outlives a power failure, for a few ms; for what cannot simply be made again. Raises OSError with advice if the
    disk is full.
    """
    write_together({file: write}, lasting=lasting)


def write_together(files: Mapping[Path, Callable[[Path], Any]], *, lasting: bool = True) -> None:
    """Write files that belong together: each under another name, and when all are whole, renamed, the last one last.

    Whoever may read other new files may read these, though safetensors keeps its own to their owner. Raises OSError with advice if the
    disk is full; the older files are then untouched.
    """
    mine = f"{safe_name(platform.node())}.{os.getpid()}.{threading.get_ident()}"
    parts = {file: file.with_name(f"{file.name}.{mine}.part") for file in files}
    try:
        for file, write in files.items():
            _drop_stale_parts(file)
            parts[file].touch()
            usual = parts[file].stat().st_mode
            write(parts[file])
            if parts[file].stat().st_mode != usual:
                parts[file].chmod(usual)
            if lasting:  # a rename may reach the disk before its data
                with open(parts[file], "rb+") as written:
                    os.fsync(written)
        for file, part in parts.items():
            part.replace(file)
    except Exception as error:  # safetensors and parquet have errors of their own for a full disk
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            advice = f"The disk of {next(iter(files)).parent} is full. Finished work is kept: free some space and run again"
            raise OSError(errno.ENOSPC, advice) from error
        raise
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def _drop_stale_parts(file: Path) -> None:
    """Delete what runs that were killed had begun to write in place of a file: of this machine, by processes that ended."""
    for part in file.parent.glob(f"{escape(file.name)}.{safe_name(platform.node())}.*.part"):
        try:
            process = int(part.name.split(".")[-3])
            if not psutil.pid_exists(process) or psutil.Process(process).create_time() > part.stat().st_mtime:
                part.unlink(missing_ok=True)
        except (ValueError, OSError, psutil.Error):  # not ours, or gone meanwhile
            continue


def write_json(file: Path, value: Any) -> None:
    """Write a value as JSON, one line for each of its parts, whole or not at all."""
    write_whole(file, as_json(value), lasting=True)


def as_json(value: Any) -> Callable[[Path], Any]:
    """What writes a value as JSON, for `write_together`."""
    text = json.dumps(value, indent=1, default=plain) + "\n"
    return lambda part: part.write_text(text)


def checked_format(file: Path, about: Mapping[str, Any], known: int) -> dict[str, Any]:
    """What a file says, without the version of its format; without a version, it is older than all of them, and is read.

    Raises ValueError if a newer audioscope wrote it. known: the newest version that this one reads.
    """
    version = about.get("format", 0)
    if isinstance(version, bool) or not isinstance(version, int):
        raise Damaged(f"{file} has the format {version!r}, expected a number: it is damaged.")
    if version > known:
        raise ValueError(
            f"{file} has format {version}, but this audioscope ({__version__}) reads up to {known}: update audioscope."
        )
    return {name: value for name, value in about.items() if name != "format"}


def read_json(file: Path, known: int) -> dict[str, Any]:
    """A file with a JSON object, without the version of its format. Raises ValueError if it is damaged, or newer than known."""
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of json, or of the encoding
        raise Damaged(f"{file} is damaged ({error}).") from error
    if not isinstance(about, dict):
        raise Damaged(f"{file} is damaged (it contains no JSON object).")
    return checked_format(file, about, known)


def refuse_foreign(file: Path, keys: Iterable[str]) -> None:
    """Raise ValueError for a JSON file of something else, which would be overwritten: ours has these keys, or was cut short."""
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return
    if not isinstance(about, dict) or not set(keys) <= about.keys():
        raise ValueError(f"{file} is of something else, and would be overwritten: choose another folder.")


def save_small(table: pd.DataFrame, file: Path | io.BytesIO) -> None:
    """Write a table that ships, as Parquet in few bytes: its float32 columns keep 11 bits, right to 1 part in 2,048.

    So does half precision, which has no room for large numbers. Bytes of floats are stored apart, since those that are rounded repeat.
    """

    def kept(values: pd.Series[Any]) -> np.ndarray:
        part, power = np.frexp(values.to_numpy())
        return np.asarray(np.ldexp(np.round(part * 2**11), power - 11), np.float32)

    floats = [*table.select_dtypes("float32").columns]
    table.assign(**{name: kept(table[name]) for name in floats}).to_parquet(
        file, compression="zstd", compression_level=19, index=False, use_byte_stream_split=floats,
        use_dictionary=[name for name in table.columns if name not in floats],
    )  # fmt: skip


def write_table(table: pd.DataFrame, file: Path) -> None:
    """Write a table as Parquet, whole or not at all, in few bytes and without loss."""
    write_whole(file, partial(table.to_parquet, compression="zstd", compression_level=19))


def save_table(
    table: pd.DataFrame, file: Path, settings: Mapping[str, Any], about: Path, version: int, small: bool = False
) -> None:
    """Write a table as Parquet and its settings, with the version of their format and a hash of both, as JSON: both or neither."""
    refuse_foreign(about, ("model",))
    content = io.BytesIO()
    if small:
        save_small(table, content)
    else:  # what was dropped from a table left gaps in its index
        table.to_parquet(content, compression="zstd", compression_level=19, index=False)
    whole = {"format": version, **settings, "content": _content(content.getvalue(), settings)}
    write_together({file: lambda part: part.write_bytes(content.getvalue()), about: as_json(whole)})


def _content(table: bytes, settings: Mapping[str, Any]) -> str:
    """A hash of a table and its settings, as they are read again."""
    same = json.loads(json.dumps(settings, default=plain))
    return content_hash([hashlib.sha256(table).hexdigest(), same])


def load_table(file: Path, about: Path, known: int, needed: Collection[str]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read what `save_table` wrote; known: the newest version of the format; needed: the columns and settings without which it is
    something else.

    Raises ValueError if a file is damaged, is something else, was written by a newer audioscope, or names clips outside its folder.
    """
    settings = read_json(about, known)
    content = settings.pop("content", None)  # files of older versions have none
    try:
        if content is not None and content != _content(file.read_bytes(), settings):
            raise ValueError(f"{about.name} beside it is of another table, or one of them changed since they were written")
        table = pd.read_parquet(file)
    except Exception as error:  # pyarrow and pandas raise many kinds
        raise Damaged(f"{file} is damaged ({error}).") from error
    if lacking := sorted(set(needed) - set(table) - set(settings)):
        raise ValueError(f"{file} and {about.name} lack {', '.join(lacking)}: they are of something else, or damaged.")
    for column in ("concept", "scored", "cell", "site"):
        for name in table[column].unique() if column in table else ():
            plain_name(f"{column} in {file}", str(name))
    groups = settings.get("groups") or {}
    if not isinstance(groups, dict) or not all(isinstance(each, dict) for each in groups.values()):
        raise Damaged(f"{about} is damaged (its groups are no table).")
    for concept, each in groups.items():
        plain_name(f"group of {concept!r} in {about}", str(each.get("group", "")))
    if "clip" in table and (wrong := outside(map(str, table["clip"].unique()))):
        raise ValueError(f"{file} names the clip {wrong[0]!r}, which is not in its folder: it was not written by audioscope.")
    return table, settings


def save_array(file: Path, values: Any) -> None:
    """np.save under exactly this name: given a path, it would add a suffix."""
    with open(file, "wb") as handle:
        np.save(handle, values, allow_pickle=False)


def plain(value: Any) -> Any:
    """Convert a numpy number to a Python number, for JSON. Raises TypeError for anything else."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{said(value)} is a {type(value).__name__}, which JSON cannot represent.")


def batches(items: Sequence[T], size: int, desc: str = "", unit: str = "prompt", progress: bool = False) -> Iterator[Sequence[T]]:
    """Parts of at most `size` items, in order, with an optional progress bar over all items."""
    size = whole("batch_size", size, 1)
    with tqdm(total=len(items), desc=desc, unit=unit, disable=quiet(progress)) as bar:
        for start in range(0, len(items), size):
            part = items[start : start + size]
            yield part
            bar.update(len(part))


def default_device(device: str | None) -> str:
    """The named device; if None, a GPU if there is one, else the CPU. Raises ValueError for one that torch cannot use here."""
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except Exception as error:  # an unknown name, or a device that is not there: torch raises several kinds
        why = next(iter(str(error).splitlines()), type(error).__name__).split(". ")[0]
        raise ValueError(f"device is {said(device)}, which torch cannot use here ({why}): try 'cpu'.") from error
    return device


def check_same(what: str, there: Mapping[str, Any], now: Mapping[str, Any], advice: str) -> None:
    """Raise ValueError if stored work was made with other settings than those requested now.

    The message names all of them, and the first with both values. what: begins the message ("runs/x holds a sweep"); advice:
    ends it. Values that JSON cannot tell apart (a tuple and a list) count as the same.
    """
    now = json.loads(json.dumps(now, default=plain))
    differ = sorted(name for name in there.keys() | now.keys() if there.get(name) != now.get(name))
    if differ:
        values = f"{differ[0]}: {_short(there.get(differ[0]))} there, {_short(now.get(differ[0]))} now"
        raise ValueError(f"{what} with other settings ({', '.join(differ)}; {values}): {advice}.")


def plain_rows(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose index is that of its rows, and whose numbers of pairs, seeds and steps are whole, as after a merge they are not."""
    of_kind("table", table, pd.DataFrame)
    if table.index.names != [None] or not table.index.is_unique:
        table = table.reset_index(drop=True)
    counted = [name for name in ("pair", "seed", "step") if name in table and table[name].dtype.kind == "f"]
    whole_ones = {name: "int64" for name in counted if (table[name] % 1 == 0).all()}
    return table.astype(whole_ones) if whole_ones else table


def content_hash(unit: Any) -> str:
    """A short name for a unit that depends only on its content."""
    return hashlib.sha256(json.dumps(unit, sort_keys=True, default=plain).encode()).hexdigest()[:16]


def seed_of(concept: str, pair: int, number: int) -> int:
    """The seed of a unit: different noise for every unit, so that pairs are independent draws of noise, too."""
    return crc32(f"{concept}/{pair}/{number}".encode())


def safe_name(name: str) -> str:
    """A name made safe for use in a file name: different names stay different."""
    safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:80]
    plain = "_" not in name and name.replace(" ", "_") == safe  # what is common stays readable
    return safe if plain else f"{safe}-{content_hash(name)[:6]}"


def results_folder(out: str | Path | None, kind: str) -> Path:
    """The folder that a sweep was told to use, or a new temporary one. Raises ValueError for a file."""
    if out is None:
        return Path(tempfile.mkdtemp(prefix=f"audioscope-{kind}-"))
    folder = as_path(out).absolute()
    if folder.is_file():
        raise ValueError(f"{folder} is a file, expected a folder: choose another name.")
    return folder


def made_folder(folder: Path) -> Path:
    """Make a folder for results, before the work for them. Raises ValueError if it is a file, or cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"{folder} is a file, or lies in one: choose another folder.") from error
    except OSError as error:
        raise ValueError(f"{folder} cannot be made ({error.strerror or error}): choose another folder.") from error
    return folder


def copy_clips(table: pd.DataFrame, folder: Path, to: Path) -> None:
    """Copy the clips that a table names from one folder to another, so that a saved copy plays too."""
    for clip in table.get("clip", pd.Series(dtype=str)).astype(str).unique() if folder.resolve() != to.resolve() else []:
        if clip and (folder / clip).is_file():
            (to / clip).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(folder / clip, to / clip)


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Claim a folder for this sweep, or check that it is this sweep's already.

    Raises ValueError if it holds results of another model or of other settings.
    """
    file = folder / "settings.json"
    if file.exists():
        stored = read_json(file, FORMAT)
        # a model is known by its weights: its folder may be spelled otherwise, or lie elsewhere
        spelt = {"model": None} if "fingerprint" in settings else {}
        # older folders do not say it
        known_parts = settings if "components" in stored else {k: v for k, v in settings.items() if k != "components"}
        check_same(f"{folder} holds a sweep", stored | spelt, known_parts | spelt, "choose another folder, or delete it")
        known = {settings.get(who): settings.get(f"{who}_fingerprint") for who in ("scorer", "price")}
        for who, about in settings.get("also", {}).items():
            facts = about if isinstance(about, dict) else {"fingerprint": about}
            known[who] = facts.get("fingerprint", facts.get("scorer_fingerprint"))
        for who in (who for who, mark in known.items() if str(mark).startswith("unknown")):
            warnings.warn(
                f"The scorer {who!r} has no fingerprint: if it was changed since {folder} was begun, the scores there are of the "
                "older one.",
                stacklevel=4,
            )
        return
    write_json(made_folder(folder) / "settings.json", {"format": FORMAT, **settings})


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."


def unit_file(folder: Path, unit: Unit) -> Path:
    """Where the table of a finished unit is."""
    return folder / "units" / f"{content_hash(unit)}.parquet"


def finished(folder: Path, unit: Unit) -> pd.DataFrame | None:
    """The table of a finished unit; None if it must be made again: it is not there, is damaged, or lacks one of its clips."""
    try:
        table = pd.read_parquet(unit_file(folder, unit), page_checksum_verification=True)
    except Exception:  # not there, cut short when the power failed, or changed: pyarrow and pandas raise many kinds
        return None
    clips = set(table["clip"].map(str)) if "clip" in table else set()  # a clip has a row for each scored concept
    return table if not outside(clips) and all(_sounds(folder / clip) for clip in clips if clip) else None


def usual_columns(tables: Iterable[pd.DataFrame | None]) -> tuple[str, ...]:
    """The columns that most of some units have, those that are finished: a unit with others is of something else, or damaged."""
    found = Counter(tuple(table) for table in tables if table is not None).most_common(1)
    return found[0][0] if found else ()


def outside(clips: Iterable[str]) -> list[str]:
    """Those of some paths of clips that lead out of their folder, as a table that audioscope wrote never has."""
    paths = [PurePath(clip) for clip in clips]
    return [str(path) for path in paths if path.is_absolute() or ".." in path.parts]


def _sounds(file: Path) -> bool:
    """Whether a sound file is there to its end, which takes less than 1 ms."""
    try:
        with sf.SoundFile(file) as sound:
            sound.seek(sound.frames - 1)
            return len(sound.read(1)) == 1
    except (sf.SoundFileError, ValueError, OSError):
        return False


def in_turn(do: Do, units: Sequence[Unit], folder: Path) -> Iterator[tuple[Unit, str]]:
    """Do units one after the other; yields each with the reason why it failed, which is "" here."""
    for unit in units:
        do(unit, folder)
        yield unit, ""


def run_units(
    folder: Path,
    settings: dict[str, Any],
    units: Sequence[Unit],
    work: Callable[..., pd.DataFrame],
    progress: bool = True,
    desc: str = "sweep",
    spread: Callable[[Do, Sequence[Unit], Path], Iterator[tuple[Unit, str]]] = in_turn,
) -> pd.DataFrame:
    """Compute every unit that the folder lacks and return all tables, in the order of the units.

    A unit's table is one Parquet file, written by rename: a run that is killed anywhere loses at most the units in progress,
    and a rerun resumes from there. Results do not depend on where runs were interrupted, since `work` sees one unit at a time.
    work: makes the table of a unit, and its clips in the folder that it is given. spread: does units like `in_turn`, in any order.
    Of a unit that failed, `work(unit, folder, lost=True)` gives the table, which is not kept, so that a rerun tries it again.
    """
    check_settings(folder, settings)
    (folder / "units").mkdir(exist_ok=True)
    files = {content_hash(unit): unit_file(folder, unit) for unit in units}
    if len(files) != len(units):
        raise ValueError("Two units of the sweep are equal: expected each unit only once.")
    tables = {content_hash(unit): finished(folder, unit) for unit in units}
    usual = usual_columns(tables.values())
    tables = {name: table if table is not None and tuple(table) == usual else None for name, table in tables.items()}
    todo = [unit for unit, table in zip(units, tables.values(), strict=True) if table is None]
    with tqdm(total=len(units), initial=len(units) - len(todo), desc=desc, unit="unit", disable=quiet(progress)) as bar:
        for unit, reason in spread(partial(_make, work), todo, folder) if todo else ():
            name = content_hash(unit)
            if reason:
                warnings.warn(f"The unit {unit} failed: {reason}. Run it again to try once more.", stacklevel=3)
                tables[name] = work(unit, folder, lost=True)
            else:
                tables[name] = pd.read_parquet(files[name])  # as it is read when the sweep is resumed
            bar.update()
    return pd.concat(tables.values(), ignore_index=True)


def _make(work: Callable[..., pd.DataFrame], unit: Unit, folder: Path) -> None:
    """Do a unit and write its table."""
    write_whole(unit_file(folder, unit), partial(work(unit, folder).to_parquet, write_page_checksum=True))


def fingerprint(*modules: nn.Module) -> str:
    """A short hash of samples of all weights and buffers: it tells two models of the same shape apart."""
    digest = hashlib.sha256()
    for module in modules:
        for name, weight in module.state_dict().items():
            digest.update(name.encode())
            digest.update(weight.flatten()[:: max(1, weight.numel() // 64)].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
