"""Sites: the attention modules of a denoiser and what is inside and around them, found in its module tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from audioscope.errors import UnknownName, index_of, said

if TYPE_CHECKING:
    from torch import nn

# The names of diffusers' attention modules; where the name alone does not decide, the class does.
CROSS_NAMES = ("cross_attn", "attn2")
SELF_NAMES = ("self_attn", "attn1")


FEED_FORWARD_NAMES = ("ff", "mlp")
HEADS, KEYS, VALUES, MEMORY = "heads", "keys", "values", "memory"
KINDS = (
    "cross", "self", *(f"{kind}.{part}" for kind in ("cross", "self") for part in (HEADS, KEYS, VALUES, MEMORY)), "feed_forward", "block",
)  # fmt: skip
MODULES = ("cross", "self", "feed_forward")  # that add what they put out to the stream


SAID = {"cross": "cross-attention", "self": "self-attention", "feed_forward": "feed-forward modules", "block": "blocks"}


def said_kind(kind: str) -> str:
    """A kind of sites in words."""
    attention, _, part = kind.partition(".")
    return f"{part} of {SAID[attention]}" if part else SAID.get(kind, kind)


@dataclass(frozen=True)
class Site:
    """One place in a model where a patch, a steering vector or an SAE acts.

    Most sites are whole attention modules. Inside each are its heads, its keys, its values and, where the model puts tokens before
    those of the music, what it gives to these: the memory, at which all of them together count as one token. Around it are the
    feed-forward module and the block, whose output is the residual stream.

    Args:
        path: The module path in the pipeline, with the part if it is one: "....cross_attn.heads.3".
        kind: "cross" or "self"; of a part "cross.heads", "cross.keys", "cross.values", "cross.memory" and so on; "feed_forward" or "block".
        layer: The layer, from 0: the place of its attention module among those of its kind, in running order. For a feed-forward
            module or a block, its place among these.
        width: The width of its output; of a head, the width of its part of the output projection's input; of a memory, that of all
            its tokens side by side.
        stream: Which text encoder a cross-attention site reads, if the model has several; otherwise empty.
        inside: Its keys, its values, its heads and its memory.

    Example:
        >>> site = model.sites[3]
        >>> site.path, site.kind, site.layer, site.width
        ('transformer.transformer_blocks.3.cross_attn', 'cross', 3, 128)
        >>> site.heads[1].path, site.heads[1].width
        ('transformer.transformer_blocks.3.cross_attn.heads.1', 32)
    """

    path: str
    kind: str
    layer: int
    width: int
    stream: str = ""
    inside: tuple[Site, ...] = field(default=(), compare=False, repr=False)

    @property
    def heads(self) -> tuple[Site, ...]:
        """The heads of an attention module, from 0; empty elsewhere."""
        return self._inside(HEADS)

    @property
    def keys(self) -> tuple[Site, ...]:
        """The keys of an attention module, one site; empty elsewhere."""
        return self._inside(KEYS)

    @property
    def values(self) -> tuple[Site, ...]:
        """The values of an attention module, one site; empty elsewhere."""
        return self._inside(VALUES)

    @property
    def memory(self) -> tuple[Site, ...]:
        """What an attention module gives to the tokens before those of the music, one site; empty where there are none."""
        return self._inside(MEMORY)

    def _inside(self, part: str) -> tuple[Site, ...]:
        return tuple(site for site in self.inside if site.kind.endswith(part))

    @property
    def head(self) -> int | None:
        """The number of a head, from 0; None for any other site."""
        return int(self.path.rsplit(".", 1)[1]) if self.kind.endswith(f".{HEADS}") else None

    @property
    def module(self) -> str:
        """The path of the attention module that it is in, or its own."""
        if "." not in self.kind:
            return self.path
        return self.path.rsplit(".", 1 if self.head is None else 2)[0]

    @property
    def label(self) -> str:
        """The layer as charts and tables show it: its number, and that of the head after a point."""
        return str(self.layer) if self.head is None else f"{self.layer}.{self.head}"

    @property
    def timed(self) -> bool:
        """Whether its tokens are those of the sound, in time, after those of the memory."""
        return not self.of_text and not self.is_memory

    @property
    def is_memory(self) -> bool:
        """Whether it is what an attention module gives to the tokens before those of the music."""
        return self.kind.endswith(f".{MEMORY}")

    @property
    def of_text(self) -> bool:
        """Whether its tokens are those of the text, as the keys and values of cross-attention are."""
        return self.kind in (f"cross.{KEYS}", f"cross.{VALUES}")

    def to_dict(self) -> dict[str, Any]:
        """The path, kind, layer, width and stream, as the files of an atlas keep them.

        Returns:
            A dict from which `Site` makes the site again, without what is inside.
        """
        return {"path": self.path, "kind": self.kind, "layer": self.layer, "width": self.width, "stream": self.stream}

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True)
class Sites:
    """The sites of a model in the order in which they run; prints as a table, filters by kind and layer.

    `sites[path]` is the site at a module path, `sites[3]` the cross-attention site of layer 3; an unknown one raises
    UnknownName (a KeyError). Its length, its table and "all" are the attention modules; their parts, the feed-forward modules and
    the blocks are selected by kind or path.

    Args:
        all: The attention modules, in running order.
        around: The feed-forward modules and the blocks that hold them.

    Example:
        >>> len(model.sites), len(model.sites.cross)
        (24, 12)
        >>> model.sites["transformer.transformer_blocks.0.self_attn"].layer
        0
        >>> len(model.sites.select("cross.heads")), model.sites.cross[0].heads[3].label
        (48, '0.3')
    """

    all: tuple[Site, ...]
    around: tuple[Site, ...] = ()

    @cached_property
    def every(self) -> tuple[Site, ...]:
        """All sites in running order: of each block what is inside its attention modules, and their output, then the others."""
        found: list[Site] = []
        for site, following in zip(self.all, (*self.all[1:], None), strict=True):
            found += [*site.inside, site]
            block = _block(site.path)
            if following is None or _block(following.path) != block:
                found += [other for other in self.around if block in (other.path, _block(other.path))]
        return tuple(found)

    @cached_property
    def _by_path(self) -> dict[str, Site]:
        return {site.path: site for site in self.every}

    def __iter__(self) -> Iterator[Site]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, path: str | int) -> Site:
        """The site at a module path, or the cross-attention site with a layer number, from 0, or its head with a label such as "0.3".

        Raises UnknownName (a KeyError) with the nearest paths, or the range of layer numbers.
        """
        number = int(path) if isinstance(path, str) and path.isdecimal() else index_of(path)
        if number is None and str(path) in self._by_path:
            return self._by_path[str(path)]
        if heads := [head for site in self.all if site.kind == "cross" for head in site.heads if head.label == str(path)]:
            return heads[0]
        for site in self.all:
            if site.kind == "cross" and site.layer == number:
                return site
        if number is not None:
            layers = [site.layer for site in self.all if site.kind == "cross"]
            has = f"it has layers {min(layers)} to {max(layers)}" if layers else "it has none"
            raise UnknownName(f"No cross-attention layer {number} here: {has}.")
        near = get_close_matches(str(path), [*KINDS, *(s.path for s in self.every)], n=3, cutoff=0.3)
        raise UnknownName(
            f"No site {path!r} in this model. Nearest: {', '.join(near) or 'none'}. `model.sites` lists the attention modules; "
            f"kinds of sites are {', '.join(KINDS)}."
        )

    def select(self, which: str | int | Site | Iterable[str | int | Site] | None) -> tuple[Site, ...]:
        """The sites that a selection names, always in running order.

        Args:
            which: A kind ("cross", "self", "cross.heads", "cross.keys", "cross.values", "cross.memory", the same of "self",
                "feed_forward", "block"), "all" attention modules, a path, the heads of one as "path.heads", the number of a
                cross-attention layer, the label of one of its heads ("0.3"), a `Site`, a list of these, or a table with a column
                path or site; None is all attention modules.

        Returns:
            The sites.

        Raises:
            UnknownName: A path or layer is unknown.
            ValueError: Nothing is selected.
            TypeError: The selection is of another type.

        Example:
            >>> [site.path for site in model.sites.select([3, 0])]
            ['transformer.transformer_blocks.0.cross_attn', 'transformer.transformer_blocks.3.cross_attn']
            >>> [site.label for site in model.sites.select([model.sites[3].heads, "transformer.transformer_blocks.5.cross_attn.heads"])]
            ['3.0', '3.1', '3.2', '3.3', '5.0', '5.1', '5.2', '5.3']
        """
        if isinstance(which, pd.DataFrame) and (column := next((name for name in ("path", "site") if name in which), "")):
            which = which[column]
        if which is None or (isinstance(which, str) and which == "all"):
            chosen = set(self.all)
        elif isinstance(which, str) and which in KINDS:
            chosen = {s for s in self.every if s.kind == which}
        elif isinstance(which, str) and which.endswith(f".{HEADS}"):
            chosen = set(self[which.removesuffix(f".{HEADS}")].heads)
        elif isinstance(which, str | Site):
            chosen = {self[str(which)]}
        elif (number := index_of(which)) is not None:
            chosen = {self[number]}
        elif not isinstance(which, Iterable) or isinstance(which, bytes) or getattr(which, "ndim", 1) == 0:
            raise TypeError(
                f"sites is {said(which)}, expected 'all', a kind ({', '.join(KINDS)}), a layer number, a module path, a Site, "
                "or a list of these."
            )
        else:
            chosen = {s for item in which for s in self.select(item)}
        if not chosen:
            raise ValueError(
                f"No sites selected by {said(which)}: give 'all', a kind ({', '.join(KINDS)}), or module paths from `model.sites`."
            )
        return tuple(s for s in self.every if s in chosen)

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
        return pd.DataFrame([s.to_dict() for s in self.all], columns=columns)

    def __repr__(self) -> str:
        return str(self.to_frame().to_string(index=False))

    def _repr_html_(self) -> str:
        return str(self.to_frame().to_html(index=False))


def labels_of(sites: Sequence[Site]) -> dict[str, str]:
    """How a table or a chart of these sites names each, by path: its label, after its kind where sites of several kinds meet."""
    several = len({site.kind for site in sites}) > 1
    return {site.path: f"{site.kind.removesuffix(f'.{HEADS}')} {site.label}" if several else site.label for site in sites}


def named(table: pd.DataFrame, sites: Sequence[Site]) -> pd.DataFrame:
    """A table with the columns site and layer, whose layers have names, in running order, unless numbers say which site is meant."""
    if len({site.kind for site in sites}) == 1 and sites[0].head is None:
        return table
    labels = labels_of(sites)
    order = list(dict.fromkeys(labels.values()))
    return table.assign(layer=pd.Categorical(table["site"].map(labels), order, ordered=True))


def find_sites(
    denoiser: nn.Module, prefix: str, stream: Callable[[str, Any], str] | None = None, leading: int = 0
) -> Sites:  # fmt: skip
    """Every attention module below `denoiser`, with what is inside and around it; paths begin with the denoiser's name, `prefix`.

    stream: names the text encoder that a site reads, from its path and the denoiser's configuration. leading: how many tokens there
    are before those of the music.
    Raises ValueError if there is none, so that a model without attention is refused rather than analyzed as empty.
    """
    sites: list[Site] = []
    around: list[Site] = []
    counts = {"cross": 0, "self": 0}
    blocks: dict[str, int] = {}
    running = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}  # a U-Net declares its middle last
    for name, module in sorted(denoiser.named_modules(), key=lambda item: running.get(item[0].split(".")[0], 0)):
        kind = _kind(name, module)
        if kind:
            reads = stream(name, denoiser.config) if stream and kind == "cross" else ""
            path, layer, width = f"{prefix}.{name}", counts[kind], output_projection(module).out_features
            sites.append(Site(path, kind, layer, width, reads, tuple(_inside(path, kind, layer, reads, module, leading))))
            counts[kind] += 1
            block = _block(name)
            if block and block not in blocks:
                number = blocks[block] = len(blocks)
                for child in FEED_FORWARD_NAMES:
                    if hasattr(denoiser.get_submodule(block), child):
                        around.append(Site(f"{prefix}.{block}.{child}", "feed_forward", number, width))
                around.append(Site(f"{prefix}.{block}", "block", number, width))
    if not sites:
        raise ValueError(f"{type(denoiser).__name__} has no attention module that audioscope knows ({CROSS_NAMES + SELF_NAMES}).")
    return Sites(tuple(sites), tuple(around))


def _kind(name: str, module: nn.Module) -> str | None:
    last = name.rsplit(".", 1)[-1]
    if last not in CROSS_NAMES + SELF_NAMES or not hasattr(module, "to_out"):
        return None
    if hasattr(module, "is_cross_attention"):  # diffusers' Attention: a block may use attn2 for a second self-attention
        return "cross" if module.is_cross_attention else "self"
    return "cross" if last in CROSS_NAMES else "self"


def _block(path: str) -> str:
    return path.rpartition(".")[0]


def output_projection(module: Any) -> Any:
    """The output projection of an attention module; diffusers mostly keeps a list of the projection and dropout."""
    return module.to_out if hasattr(module.to_out, "out_features") else module.to_out[0]


def _inside(path: str, kind: str, layer: int, stream: str, module: Any, leading: int) -> Iterator[Site]:
    """The keys, the values, the heads and the memory of an attention module."""
    for part in (KEYS, VALUES):
        if (columns := _projected(module, part)) is not None:
            yield Site(f"{path}.{part}", f"{kind}.{part}", layer, columns[1].stop - columns[1].start, stream)
    heads = getattr(module, "heads", 0)
    for head in range(heads):
        yield Site(f"{path}.{HEADS}.{head}", f"{kind}.{HEADS}", layer, output_projection(module).in_features // heads, stream)
    if leading:
        yield Site(f"{path}.{MEMORY}", f"{kind}.{MEMORY}", layer, leading * output_projection(module).out_features, stream)


def _projected(module: Any, part: str) -> tuple[str, slice] | None:
    """The name of the projection that makes keys or values, and their columns in its output; Stable Audio 3 makes all in one."""
    own = {KEYS: "to_k", VALUES: "to_v"}[part]
    if hasattr(module, own):
        return own, slice(0, getattr(module, own).out_features)
    width = output_projection(module).in_features
    for fused, before in (("to_kv", 0), ("to_qkv", 1)):
        if hasattr(module, fused):
            total = getattr(module, fused).out_features
            keys = (total - width) // (1 + before)  # differential attention has two sets of queries and of keys
            start = before * keys if part == KEYS else total - width
            return fused, slice(start, start + (keys if part == KEYS else width))
    return None


@dataclass(frozen=True)
class Place:
    """Where a site's values are in a run: at which end of which module of the denoiser, and in which columns (None is all).

    A memory is in all columns of the tokens before those of the music.
    """

    module: str
    end: Literal["input", "output"]
    columns: slice | None = None


def place(denoiser: nn.Module, site: Site) -> Place:
    """Where the values of a site are."""
    name = site.module.split(".", 1)[1]
    if site.module == site.path or site.is_memory:
        return Place(name, "output")
    module: Any = denoiser.get_submodule(name)
    if site.head is not None:  # heads lie side by side where they are projected together
        out = f"{name}.to_out" if hasattr(module.to_out, "out_features") else f"{name}.to_out.0"
        return Place(out, "input", slice(site.head * site.width, (site.head + 1) * site.width))
    projected = _projected(module, site.kind.rsplit(".", 1)[1])
    assert projected is not None  # otherwise there is no such site
    return Place(f"{name}.{projected[0]}", "output", projected[1])
