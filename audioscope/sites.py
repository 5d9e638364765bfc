"""Sites: the attention modules of a denoiser, found in its module tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import pandas as pd

from audioscope.errors import UnknownName, index_of

if TYPE_CHECKING:
    from torch import nn

# The names of diffusers' attention modules; where the name alone does not decide, the class does.
CROSS_NAMES = ("cross_attn", "attn2")
SELF_NAMES = ("self_attn", "attn1")


@dataclass(frozen=True)
class Site:
    """One attention module of a model: where a patch, a steering vector or an SAE acts.

    Args:
        path: The module path in the pipeline.
        kind: "cross" or "self".
        layer: The layer, from 0: its place among the sites of its kind, in running order.
        width: The width of its output.
        stream: Which text encoder a cross-attention site reads, if the model has several; otherwise empty.

    Example:
        >>> site = model.sites[3]
        >>> site.path, site.kind, site.layer, site.width
        ('transformer.transformer_blocks.3.cross_attn', 'cross', 3, 128)
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
    """The sites of a model in the order in which they run; prints as a table, filters by kind and layer.

    `sites[path]` is the site at a module path, `sites[3]` the cross-attention site of layer 3; an unknown one raises
    UnknownName (a KeyError).

    Args:
        all: The sites, in running order.

    Example:
        >>> len(model.sites), len(model.sites.cross)
        (24, 12)
        >>> model.sites["transformer.transformer_blocks.0.self_attn"].layer
        0
    """

    all: tuple[Site, ...]

    def __iter__(self) -> Iterator[Site]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, path: str | int) -> Site:
        """The site at a module path, or the cross-attention site with a layer number, from 0.

        Raises UnknownName (a KeyError) with the nearest paths, or the range of layer numbers.
        """
        number = index_of(path)
        for site in self.all:
            if site.path == path or (site.kind == "cross" and site.layer == number):
                return site
        if number is not None:
            layers = [site.layer for site in self.all if site.kind == "cross"]
            has = f"it has layers {min(layers)} to {max(layers)}" if layers else "it has none"
            raise UnknownName(f"No cross-attention layer {number} here: {has}.")
        near = get_close_matches(str(path), [s.path for s in self.all], n=3, cutoff=0.3)
        raise UnknownName(f"No site {path!r} in this model. Nearest: {', '.join(near) or 'none'}. `model.sites` lists all.")

    def select(self, which: str | int | Site | Iterable[str | int | Site] | None) -> tuple[Site, ...]:
        """The sites that a selection names, always in running order.

        Args:
            which: A kind ("cross", "self", "all"), a path, the number of a cross-attention layer, a `Site`, or a list of these;
                None is all.

        Returns:
            The sites.

        Raises:
            UnknownName: A path or layer is unknown.
            ValueError: Nothing is selected.
            TypeError: The selection is of another type.

        Example:
            >>> [site.path for site in model.sites.select([3, 0])]
            ['transformer.transformer_blocks.0.cross_attn', 'transformer.transformer_blocks.3.cross_attn']
        """
        if which is None or (isinstance(which, str) and which == "all"):
            chosen = set(self.all)
        elif isinstance(which, str) and which in ("cross", "self"):
            chosen = {s for s in self.all if s.kind == which}
        elif isinstance(which, str | Site):
            chosen = {self[str(which)]}
        elif (number := index_of(which)) is not None:
            chosen = {self[number]}
        elif not isinstance(which, Iterable) or isinstance(which, bytes) or getattr(which, "ndim", 1) == 0:
            raise TypeError(
                f"sites is {which!r}, expected 'cross', 'self', 'all', a layer number, a module path, a Site, or a list of these."
            )
        else:
            chosen = {s for item in which for s in self.select(item)}
        if not chosen:
            raise ValueError(f"No sites selected by {which!r}: give 'cross', 'self', 'all', or module paths from `model.sites`.")
        return tuple(s for s in self.all if s in chosen)

    @property
    def cross(self) -> tuple[Site, ...]:
        """The cross-attention sites, in running order."""
        return self.select("cross")

    def to_frame(self) -> pd.DataFrame:
        """The sites as a table, to filter with pandas.

        Returns:
            A table with one row per site; the columns are path, kind, layer, width, and stream if the model has several.
        """
        columns = ["path", "kind", "layer", "width"] + ["stream"] * any(s.stream for s in self.all)
        return pd.DataFrame([asdict(s) for s in self.all], columns=columns)

    def __repr__(self) -> str:
        return str(self.to_frame().to_string(index=False))

    def _repr_html_(self) -> str:
        return str(self.to_frame().to_html(index=False))


def find_sites(denoiser: nn.Module, prefix: str, stream: Callable[[str, Any], str] | None = None) -> Sites:
    """Every attention module below `denoiser`, with paths that begin with `prefix` (the denoiser's name in the pipeline).

    stream: names the text encoder that a site reads, from its path and the denoiser's configuration.
    Raises ValueError if there is none, so that a model without attention is refused rather than analyzed as empty.
    """
    sites: list[Site] = []
    counts = {"cross": 0, "self": 0}
    running = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}  # a U-Net declares its middle last
    for name, module in sorted(denoiser.named_modules(), key=lambda item: running.get(item[0].split(".")[0], 0)):
        kind = _kind(name, module)
        if kind:
            reads = stream(name, denoiser.config) if stream and kind == "cross" else ""
            sites.append(Site(f"{prefix}.{name}", kind, counts[kind], _width(module), reads))
            counts[kind] += 1
    if not sites:
        raise ValueError(f"{type(denoiser).__name__} has no attention module that audioscope knows ({CROSS_NAMES + SELF_NAMES}).")
    return Sites(tuple(sites))


def _kind(name: str, module: nn.Module) -> str | None:
    last = name.rsplit(".", 1)[-1]
    if last not in CROSS_NAMES + SELF_NAMES or not hasattr(module, "to_out"):
        return None
    if hasattr(module, "is_cross_attention"):  # diffusers' Attention: a block may use attn2 for a second self-attention
        return "cross" if module.is_cross_attention else "self"
    return "cross" if last in CROSS_NAMES else "self"


def _width(module: nn.Module) -> int:
    out: Any = module.to_out
    linear: Any = out if hasattr(out, "out_features") else out[0]  # diffusers keeps a list: the projection, then dropout
    return int(linear.out_features)
