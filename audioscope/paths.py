"""Where the shipped data lies: beside the package in a checkout, inside it in a wheel."""

from pathlib import Path


def data_folder() -> Path:
    """The folder `data/` with the tiny model, the concepts and the shipped atlas.

    Raises FileNotFoundError when neither place has it.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "data", package.parent / "data"):
        if (folder / "tiny").is_dir():
            return folder
    raise FileNotFoundError(f"No data folder in {package} or beside it: reinstall audioscope or use a full checkout.")
