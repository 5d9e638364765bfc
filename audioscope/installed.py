"""What is installed: the version of this copy of audioscope, and its optional parts (extras)."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

DISTRIBUTION = "audioscope-diffusion"  # on PyPI, `audioscope` is another project
EXTRAS = {  # the modules that each extra of pyproject.toml brings
    "lab": ("jupyterlab",),
    "pages": ("ipykernel", "nbclient", "nbconvert", "nbformat", "vl_convert"),
    "muq": ("muq",),
    "ray": ("ray",),
}

_this = next(iter(distributions(name=DISTRIBUTION)), None)  # None: a checkout on the path that was never installed
__version__ = _this.version if _this else "0+unknown"


def share_cores() -> None:
    """Let threads that wait for work sleep, if torch is not loaded yet and the user has set nothing.

    By default they spin. On a machine that is busy otherwise, even with a second sweep, a sweep then takes many times as long as
    its share of the cores explains: benchmarks/busy.py measures it.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys() and "torch" not in sys.modules:
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}


def cache_somewhere() -> None:
    """Where neither the installation nor a home can be written, let numba (of librosa) cache in a temporary folder of this process."""
    spec = find_spec("librosa")
    places = [Path(spec.origin).parent if spec and spec.origin else Path(os.sep), Path(os.path.expanduser("~"))]
    if "NUMBA_CACHE_DIR" not in os.environ and not any(place.is_dir() and os.access(place, os.W_OK) for place in places):
        os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="audioscope-numba-")


def install_hint(extra: str) -> str:
    """The command that adds an extra to this copy, from the folder, repository or index that it was installed from."""
    if _this is None:
        return f"pip install -e '{Path(__file__).parents[1]}[{extra}]'"
    origin = json.loads(_this.read_text("direct_url.json") or "{}")  # PEP 610: absent if it came from an index
    url, name = origin.get("url", ""), f"{DISTRIBUTION}[{extra}]"
    if "dir_info" in origin:
        editable = "-e " if origin["dir_info"].get("editable") else ""
        return f"pip install {editable}'{url2pathname(urlsplit(url).path)}[{extra}]'"
    if version := origin.get("vcs_info"):
        url = f"{version['vcs']}+{url}@{version['commit_id']}"
    return f"pip install '{name} @ {url}'" if url else f"pip install '{name}'"


def need(extra: str, what: str) -> None:
    """Raise ImportError, with the command that adds it, if a module of an extra is missing; call it before any work."""
    if missing := [module for module in EXTRAS[extra] if find_spec(module) is None]:
        raise ImportError(f"{what} needs {', '.join(missing)}, which is not installed: {install_hint(extra)}")


def cores() -> int:
    """How many physical cores this process may use: also by a container's limits, and by LOKY_MAX_CPU_COUNT."""
    import loky

    with warnings.catch_warnings():  # where physical cores cannot be told from others, all count
        warnings.simplefilter("ignore")
        return int(loky.cpu_count(only_physical_cores=True))
