"""Sites: the attention modules of a denoiser, found in its module tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

import pandas as pd
from torch import nn

from audioscope.errors import UnknownName

# diffusers names its attention modules by these; the class decides where a name alone does not.
CROSS_NAMES = ("cross_attn", "attn2")
SELF_NAMES = ("self_attn", "attn1")


@dataclass(frozen=True)
class Site:
    """One attention module: its path in the pipeline, kind ("cross" or "self"), layer (from 0) and output width.

    stream: which text encoder a cross-attention site reads, where a model has several.
    """

    path: str
    kind: str
    layer: int
    width: int
    stream: str = ""

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True)
class Sites:
    """The sites of a model in the order in which they run; prints as a table, filters by kind and layer."""

    all: tuple[Site, ...]

    def __iter__(self) -> Iterator[Site]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, path: str) -> Site:
        """The site of that module path. Raises UnknownName (a KeyError) with the nearest paths."""
        for site in self.all:
            if site.path == path:
                return site
        near = get_close_matches(str(path), [s.path for s in self.all], n=3, cutoff=0.3)
        raise UnknownName(f"No site {path!r} in this model. Nearest: {', '.join(near) or 'none'}. `model.sites` lists all.")

    def select(self, which: str | Site | Iterable[str | Site] | None) -> tuple[Site, ...]:
        """Sites by kind ("cross", "self", "all"), by path, or by a list of either; always in running order.

        Raises UnknownName for an unknown path, ValueError when nothing is selected.
        """
        if which is None or which == "all":
            chosen = set(self.all)
        elif isinstance(which, str) and which in ("cross", "self"):
            chosen = {s for s in self.all if s.kind == which}
        elif isinstance(which, (str, Site)):
            chosen = {self[str(which)]}
        else:
            chosen = {s for item in which for s in self.select(item)}
        if not chosen:
            raise ValueError(f"No sites selected by {which!r}: give 'cross', 'self', 'all', or module paths of `model.sites`.")
        return tuple(s for s in self.all if s in chosen)

    @property
    def cross(self) -> tuple[Site, ...]:
        return self.select("cross")

    def frame(self) -> pd.DataFrame:
        """A DataFrame with columns path, kind, layer, width, and stream where the model has several."""
        columns = ["path", "kind", "layer", "width"] + ["stream"] * any(s.stream for s in self.all)
        return pd.DataFrame([asdict(s) for s in self.all], columns=columns)

    def __repr__(self) -> str:
        return self.frame().to_string(index=False)

    def _repr_html_(self) -> str:
        return self.frame().to_html(index=False)


def find_sites(denoiser: nn.Module, prefix: str, stream: Callable[[str, Any], str] | None = None) -> Sites:
    """Every attention module below `denoiser`, with paths that begin with `prefix` (the denoiser's name in the pipeline).

    stream: names the text encoder that a site reads, from its path and the denoiser's configuration.
    Raises ValueError when there is none, so that a model without attention is refused and not analysed as empty.
    """
    found: list[Site] = []
    counts = {"cross": 0, "self": 0}
    running = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}  # a U-Net declares its middle last
    for name, module in sorted(denoiser.named_modules(), key=lambda item: running.get(item[0].split(".")[0], 0)):
        kind = _kind(name, module)
        if kind:
            reads = stream(name, denoiser.config) if stream and kind == "cross" else ""
            found.append(Site(f"{prefix}.{name}", kind, counts[kind], _width(module), reads))
            counts[kind] += 1
    if not found:
        raise ValueError(f"{type(denoiser).__name__} has no attention module that audioscope knows ({CROSS_NAMES + SELF_NAMES}).")
    return Sites(tuple(found))


def _kind(name: str, module: nn.Module) -> str | None:
    last = name.rsplit(".", 1)[-1]
    if last not in CROSS_NAMES + SELF_NAMES or not hasattr(module, "to_out"):
        return None
    if hasattr(module, "is_cross_attention"):  # diffusers' Attention: a block may use attn2 for a second self-attention
        return "cross" if module.is_cross_attention else "self"
    return "cross" if last in CROSS_NAMES else "self"


def _width(module: nn.Module) -> int:
    out: Any = module.to_out
    linear: Any = out[0] if isinstance(out, nn.ModuleList) else out
    return int(linear.out_features)
