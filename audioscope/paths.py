"""Where the shipped data lies, and how files are written whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _shipped(name: str, mark: str) -> Path:
    """A folder that lies beside the package in a checkout, and in it in a wheel; mark: what it must hold."""
    package = Path(__file__).resolve().parent
    for folder in (package / name, package.parent / name):
        if any(folder.glob(mark)):
            return folder
    raise FileNotFoundError(f"No folder {name}/ in {package} or beside it: reinstall audioscope or use a full checkout.")


def data_folder() -> Path:
    """The folder `data/` with the tiny model, the concepts and the shipped atlas. Raises FileNotFoundError where there is none."""
    return _shipped("data", "tiny")


def notebooks_folder() -> Path:
    """The folder of the notebooks. Raises FileNotFoundError where there is none."""
    return _shipped("notebooks", "00_*.ipynb")


def write_whole(file: Path, write: Callable[[Path], Any]) -> None:
    """Write a file under another name and rename it, so that it is there whole or not at all.

    Raises OSError with advice when the disk is full.
    """
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        write(part)
        part.replace(file)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            advice = f"The disk of {file.parent} is full. What is done is kept: free some space and run again"
            raise OSError(errno.ENOSPC, advice) from error
        raise
    finally:
        part.unlink(missing_ok=True)


def save_array(file: Path, values: Any) -> None:
    """np.save under exactly this name: given a path, it would add a suffix."""
    import numpy as np

    with open(file, "wb") as handle:
        np.save(handle, values, allow_pickle=False)
