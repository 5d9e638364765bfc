"""Make torchaudio importable with a CPU-only torch: `python -m audioscope.fix_torchaudio`.

PyPI's Linux wheel of torchaudio is compiled for CUDA. With a CPU build of torch, its compiled files fail to load, so
`import torchaudio` fails, and with it transformers and diffusers. torchaudio treats a missing compiled file as "no
extension" and does everything that audioscope needs in Python, so those files are set aside (renamed, not deleted).
Nothing is touched if torch has CUDA or torchaudio already imports.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path


def _folder(package: str) -> Path | None:
    spec = find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None


def fix(torch: Path | None = None, torchaudio: Path | None = None) -> list[Path]:
    """Set aside torchaudio's compiled files if torch is a CPU build and they fail to load; returns their new paths.

    torch, torchaudio: the packages' folders, found on the import path if None. Neither is imported here.
    """
    torch, torchaudio = torch or _folder("torch"), torchaudio or _folder("torchaudio")
    if torch is None or torchaudio is None:
        return []
    version: dict[str, object] = {}
    exec((torch / "version.py").read_text(), version)  # torch's own file; importing torch would take seconds
    if version.get("cuda") or version.get("hip"):
        return []
    libraries = sorted((torchaudio / "lib").glob("*.so"))
    if not libraries or not any(b"libc10_cuda" in library.read_bytes() for library in libraries):
        return []
    aside = [library.rename(library.with_suffix(".so.cuda")) for library in libraries]
    print(
        f"torch {version['__version__']} has no CUDA, but torchaudio's compiled files need it and would make every import fail.\n"
        f"Set aside {len(aside)} files in {torchaudio / 'lib'} (*.so -> *.so.cuda). What they provide beyond\n"
        "audioscope's needs (forced alignment, RNN-T loss, overdrive) is unavailable; the rest of torchaudio runs in Python."
    )
    return aside


def main() -> int:
    fix()
    if find_spec("torchaudio") is None:
        print("torchaudio is not installed: pip install torchaudio", file=sys.stderr)
        return 1
    return subprocess.run([sys.executable, "-c", "import torchaudio"]).returncode


if __name__ == "__main__":
    raise SystemExit(main())
