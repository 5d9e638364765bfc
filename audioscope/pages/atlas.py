"""The atlas as an interactive page with sound: one file small enough to email, or a folder for any web server."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pandas as pd
from markupsafe import Markup
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from audioscope.atlas.atlas import Atlas, Scale, ends
from audioscope.atlas.charts import PLANTED_SAID, agreement_table, impact_table, noun
from audioscope.atlas.robustness import CENSORED
from audioscope.errors import all_of, as_path, named, one_or_more, quiet, real
from audioscope.installed import cores, need
from audioscope.pages.atlas_data import PATCHES, Piece, agreements_of, atlas_data, charts_of, names_of, scale_on, steering_data
from audioscope.pages.html import LOUDNESS, PACK, asset, check_page, json_for_html, page, render, save_page
from audioscope.steer.results import SteeringSweep
from audioscope.store import made_folder
from audioscope.theme import chart_theme, reading

if TYPE_CHECKING:
    from audioscope.pages.features import FeatureSet

SIZE = 12_000_000  # bytes of a page in one file, small enough to email
LONGEST = 12.0  # s of a clip in one file
SHARES = (("s", 0.5), ("f", 0.1))  # the largest shares of the space for sound that steering and features get; cells get the rest
QUESTION = {
    "sufficient": "if this layer alone is patched from the prompt that names the concept, does the music gain the concept?",
    "necessary": "if this layer alone is patched from the prompt without the concept, does the music lose the concept?",
}
FEATURE = "#view=features&sae={}&feature={{}}"  # the address of a feature on the page
PLANTED = {
    "each": " Here the truth is known: the words of each concept reach only the layers with a dashed outline.",
    "all": " Where a concept needs all of its layers, none is enough by itself, and only patches into the clean run find them.",
    "any": " Where any of its layers will do, none is necessary, and only patches into the corrupted run find them.",
    "trained": " Here the truth is known: the model was trained so that the words of each concept tell something only at the layers with "
    "a dashed outline. All other layers read them, too, but in training they read words that were drawn by lot.",
}
SCALE_SAID = {
    "raw": "raw: unmodified log-odds, or the scorer's own units",
    "clipped": "clipped: log-odds clipped where the scorer's calibration ends",
    "probability": "probability",
}
VERSIONS = (("clean", "A", "with the concept"), ("corrupted", "B", "without the concept"), ("patched", "X", ""))


def save_html(
    atlas: Atlas,
    path: str | Path,
    others: Sequence[Atlas] = (),
    *,
    steering: Sequence[SteeringSweep] = (),
    features: Sequence[FeatureSet] = (),
    scale: Scale | None = None,
    size: int = SIZE,
    progress: bool = True,
) -> Path:
    """Write the atlas as one HTML file that opens offline, with as many of the best clips as its size allows.

    Clips of cells and axes are cut to 12 s.

    Args:
        atlas: The atlas that the page shows first.
        path: The file.
        others: Atlases that can be selected on the page, of this model (another patch, another part of the steps) or of other
            models, which are then also shown side by side.
        steering: Sweeps with clips.
        features: SAEs whose features have pages, from `feature_set`.
        scale: Of the impacts, one of `Atlas.scales`; None is "raw".
        size: The maximum file size, in bytes.
        progress: Show a progress bar.

    Returns:
        The file.

    Raises:
        FileNotFoundError: A clip is missing.
        ImportError: The extra `pages` is not installed.
        ValueError: The atlas is empty, does not have this scale, the page is larger than size even without any sound, or the file is a
            page of something else.

    Example:
        >>> atlas = audioscope.datasets.atlas()
        >>> file = audioscope.pages.save_html(atlas, "atlas.html", size=2_000_000, progress=False)
        >>> file.stat().st_size <= 2_000_000
        True
    """
    need("pages", "The atlas page")
    path = as_path(path)
    check_page(path)
    size = int(real("size", size))
    quiet(progress)
    made_folder(path.parent)
    whole = _Page(atlas, others, steering, features, scale)
    body = whole.body(one_file=True)
    room = size - len(whole.html(body, {}).encode()) - 2000
    if room < 0:
        raise ValueError(
            f"size is {size}, but the page has {size - room} bytes without any sound: allow more, or give fewer atlases."
        )
    kept = _best(whole.pieces, room, progress)
    return save_page(path, whole.html(body, kept))


def save_site(
    atlas: Atlas,
    folder: str | Path,
    others: Sequence[Atlas] = (),
    *,
    steering: Sequence[SteeringSweep] = (),
    features: Sequence[FeatureSet] = (),
    scale: Scale | None = None,
    links: Mapping[str, str] | None = None,
    progress: bool = True,
) -> Path:
    """Write the atlas as folder/index.html with all its sound in folder/packs, for any static host or a local disk.

    Every link is relative, and a pack is loaded when it is first played.

    Args:
        atlas: The atlas that the page shows first.
        folder: The folder; sound of an older page in it is deleted.
        others: Atlases that can be selected on the page, of this model (another patch, another part of the steps) or of other
            models, which are then also shown side by side.
        steering: Sweeps with clips.
        features: SAEs whose features have pages, from `feature_set`.
        scale: Of the impacts, one of `Atlas.scales`; None is "raw".
        links: Addresses of other pages, by the texts that lead to them, beside the page's views.
        progress: Show a progress bar.

    Returns:
        The path of the page, index.html.

    Raises:
        FileNotFoundError: A clip is missing.
        ImportError: The extra `pages` is not installed.
        ValueError: The atlas is empty, does not have this scale, or the folder holds a page of something else.

    Example:
        >>> atlas = audioscope.localize(model, ["violin"], pairs=1, steps=1, progress=False)
        >>> page = audioscope.pages.save_site(atlas, "site", progress=False)
        >>> sorted(file.name for file in page.parent.iterdir())
        ['index.html', 'packs']
    """
    need("pages", "The atlas page")
    folder = as_path(folder)
    quiet(progress)
    check_page(folder / "index.html")
    whole = _Page(atlas, others, steering, features, scale, links)
    packs = _packs(whole.pieces)
    # each version gets its own folder: an older page, on this disk or in a browser's cache, never plays the sound of a newer one
    held = {name: [piece.name for piece in pieces] for name, pieces in packs.items()}
    body = whole.body(one_file=False)
    version = f"packs/atlas-{crc32(whole.html(body, held, folder='packs').encode()):08x}"
    made_folder(folder / version)

    sounds, models = ([(name, packs[name]) for name in packs if (name[0] == "f") is runs] for runs in (False, True))
    write = partial(_write_pack, folder / version)
    # encoding sound is C code, which does not hold Python's lock; each thread with threads of its own for numpy would be slower
    with threadpool_limits(1), ThreadPoolExecutor(cores()) as pool:
        done = pool.map(write, *zip(*sounds, strict=True)) if sounds else ()
        list(tqdm(done, desc="sound for the page", total=len(sounds), unit="pack", disable=quiet(progress)))
    if models:
        from audioscope.workers import collect  # with the models, which a page without features does without

        list(collect(features[0].model, None, partial(_nothing, write), models, "feature pages", "page", progress))
    path = save_page(folder / "index.html", whole.html(body, held, folder=version))
    for old in (folder / "packs").iterdir():
        if old.is_dir() and re.fullmatch("atlas-[0-9a-f]{8}", old.name) and old.name != Path(version).name:
            shutil.rmtree(old)
    return path


def planted_said(atlases: Sequence[Atlas]) -> str:
    """What a page says of planted truth, where there is any."""
    needs = list(dict.fromkeys(atlas.settings["planted"]["needs"] for atlas in atlases if "planted" in atlas.settings))
    return "".join(PLANTED[each] for each in (["each"] if {"all", "any"} & {*needs} and "each" not in needs else []) + needs)


def _sets(features: Any) -> list[FeatureSet]:
    several = one_or_more(features)
    if several:
        from audioscope.pages.features import FeatureSet  # with the models, which a page without features does without

        all_of("features", several, FeatureSet)
    return several


class _Page:
    """Everything on the page except the sound."""

    def __init__(
        self,
        atlas: Atlas,
        others: Sequence[Atlas],
        steering: Sequence[SteeringSweep],
        features: Sequence[FeatureSet],
        scale: Scale | None,
        links: Mapping[str, str] | None = None,
    ):
        self.links = dict(named("links", {} if links is None else links, str))
        steering = all_of("steering", steering, SteeringSweep)
        self.atlas, self.atlases, self.features = (atlas, [atlas, *all_of("others", others, Atlas)], _sets(features))
        self.scale = atlas.scale_of(scale)
        self.title = f"{'Known answers: a' if 'planted' in atlas.settings else 'Concept a'}tlas of {atlas.settings['model']}"
        self.names = names_of(self.atlases)
        self.agreements = agreements_of(self.atlases)
        self.charts = list(charts_of(self.atlases, self.names, self.agreements, self.scale))
        self.maps: list[dict[str, Any]] = []
        self.axes: list[dict[str, Any]] = []
        self.pieces: list[Piece] = []
        for number, each in enumerate(self.atlases):
            metadata, pieces = atlas_data(each, number, self.names[number], scale_on(each, self.scale))
            self.maps.append(metadata)
            self.pieces += pieces
        for sweep in steering:
            found = steering_data(sweep, len(self.axes))
            if found is not None:
                self.axes.append(found[0])
                self.pieces += found[1]
        for number, shown in enumerate(features):
            for place, feature in enumerate(shown.features):
                make = partial(_body, shown, feature, number)
                self.pieces.append(Piece(f"f{number}-{feature}", "html", make, (float(place),)))

    def _cut(self) -> bool:
        return any((each.get("seconds") or 0) > LONGEST for each in (*self.maps, *self.axes))

    def body(self, one_file: bool) -> Markup:
        """Everything on the page before its script runs."""
        atlas, settings = self.atlas, self.atlas.settings
        means = atlas.layer_means(self.scale).sort_values("layer", kind="stable", ignore_index=True)
        zero, one = ends(settings["direction"])
        several = len({each.settings["direction"] for each in self.atlases}) > 1
        return render(
            "atlas.html", title=self.title, charts=self.charts, versions=VERSIONS, loudness=f"{LOUDNESS:.0f}".replace("-", "−"),
            question=f"{'In the first map, each' if several else 'Each'} cell asks: {QUESTION[settings['direction']]} With an impact of 0, the music sounds like the {zero} "
            f"prompt, with 1 like the {one} prompt; below 0, it moves the other way."
            + planted_said(self.atlases), links=self.links,
            settings=[*_settings(settings), ("scale", SCALE_SAID[self.scale])], functional=_functional(means),
            tables=[
                *(_table(each, place, self.names[place], scale_on(each, self.scale)) for place, each in enumerate(self.atlases)),
                *(_agreement(cells, place, self.names[place]) for place, cells in self.agreements.items()),
            ],
            functional_sites=list(atlas.functional_on(self.scale)), undefined=_undefined(atlas, self.scale),
            all_settings=[(name, value if isinstance(value, str) else json.dumps(value)) for name, value in settings.items()],
            axes=[{"title": axis["title"], "track": axis["methods"][0]} for axis in self.axes],
            lists=[each.listed(FEATURE.format(number)) for number, each in enumerate(self.features)],
            longest=f"{LONGEST:.0f}" if one_file and self._cut() else None,
        )  # fmt: skip

    def html(self, body: Markup, packs: Mapping[str, Iterable[str]], folder: str = "") -> str:
        """The document. packs: what can be opened, by name, of each pack; folder: where the packs are, if not in the document."""
        first, strongest = self.maps[0], self.atlas.examples(self.scale)
        concept = strongest.loc[strongest["impact"].idxmax(), "concept"] if len(strongest) else self.atlas.concepts[0]
        start = {"concept": concept, "site": first["best"].get(concept, first["sites"][0][0]), "map": 0}
        known = {
            "maps": self.maps, "charts": self.charts, "steering": self.axes,
            "saes": [{"site": each.site} for each in self.features],
            "packs": {name: list(content) for name, content in packs.items()}, "start": start, "folder": folder,
            "longest": None if folder else LONGEST, "themes": [chart_theme(), chart_theme(dark=True)],
        }  # fmt: skip
        inside = {} if folder else {f"pack-{name}": content for name, content in packs.items()}
        data = {"atlas": known, **inside}
        return page("atlas", self.title, body, data=data, charts=True, packs=bool(folder), style=asset("atlas.css"))


def _body(shown: FeatureSet, feature: int, number: int, longest: float | None) -> str:
    return str(shown.body(feature, link=FEATURE.format(number)))


def _best(pieces: Sequence[Piece], room: int, progress: bool) -> dict[str, dict[str, Any]]:
    """As many pieces as fit in `room` bytes: the examples of all concepts, then axes, features, and the other cells by impact."""
    ranked = sorted(pieces, key=lambda piece: piece.rank)
    cells = [piece for piece in ranked if piece.pack[0] == "m"]
    # clean, corrupted and the best layer together: each is useless without the others
    first = _packs(piece for piece in cells if not any(piece.rank[:2]))
    shared = [(list(_packs(piece for piece in ranked if piece.pack[0] == kind).values()), share) for kind, share in SHARES]
    layers = [[piece] for piece in cells if not piece.rank[0] and piece.rank[1]]
    units = list(_packs(piece for piece in cells if piece.rank[0]).values())  # other pairs and seeds
    rounds = [(list(first.values()), 1.0), *shared, (layers, 1.0), (units, 1.0)]
    kept: dict[str, dict[str, Any]] = {}
    used = 0
    with tqdm(desc="sound for the page", total=room, unit="B", unit_scale=True, disable=quiet(progress)) as bar:
        for wanted, share in rounds:
            border = min(room, used + share * room)
            for group in wanted:
                if len(group) == 1 and group[0].pack in first and group[0].pack not in kept:
                    continue  # a patched clip without the clips to compare it with
                made = {piece.name: piece.make(LONGEST) for piece in group}
                size = len(json_for_html(made).encode()) + 200
                if used + size > border:
                    break
                kept.setdefault(group[0].pack, {}).update(made)
                used += size
                bar.update(size)
    return kept


def _write_pack(folder: Path, name: str, pieces: Sequence[Piece]) -> None:
    text = json_for_html({piece.name: piece.make(None) for piece in pieces})
    save_page(folder / f"{name}.js", f"{PACK}{json.dumps(name)},{text});\n")


def _nothing(write: Callable[..., None], pack: tuple[str, list[Piece]]) -> dict[str, Any]:
    """Write a pack, and return no tensors, for `collect`."""
    write(*pack)
    return {}


def _packs(pieces: Iterable[Piece]) -> dict[str, list[Piece]]:
    packs: dict[str, list[Piece]] = {}
    for piece in pieces:
        packs.setdefault(piece.pack, []).append(piece)
    return packs


def _undefined(atlas: Atlas, scale: Scale) -> list[str]:
    defined = atlas.impacts(scale).groupby("concept", sort=False)["defined"].any()
    return list(defined.index[~defined])


def _functional(means: pd.DataFrame) -> str:
    """A sentence that says which layers carry the concepts, with the numbers behind it."""
    one = noun(means.layer)
    rule = f"the threshold of {means.threshold.iloc[0]:.2f} (2.5 over {len(means)} {one}s)"
    control = f"The largest mean control of any {one} is {means.control.max():.2f}." if means.control.notna().any() else ""
    chosen = means[means.functional]
    if chosen.empty:
        best = means.loc[means.impact.idxmax()] if means.impact.notna().any() else None
        tail = "" if best is None else f"; the highest, {one} {best.layer}, has {reading(best.impact, best.low, best.high)}"
        return f"No {one} is functional: none reaches {rule} with an interval above the control{tail}. {control}"
    each = [f"{one} {row.layer} with a mean impact of {reading(row.impact, row.low, row.high)}" for row in chosen.itertuples()]
    named = each[0] if len(each) == 1 else ", ".join(each[:-1]) + " and " + each[-1]
    verb = f"One {one} reaches" if len(each) == 1 else f"{len(each)} {one}s reach"
    beyond = " with an interval above the control" if chosen.low.notna().all() else ""
    return f"{verb} {rule}{beyond}: {named}. {control}"


def _settings(settings: dict) -> list[tuple[str, str]]:
    """The settings worth reading first, in words; the rest are in the table at the end of the page."""
    shown = settings | {"patch": PATCHES.get(settings.get("patch", ""), settings.get("patch"))}
    words = {"pairs": "pairs per concept", "seeds": "seeds per pair"}
    first = ("model", "patch", "direction", "when", "steps", "guidance", "seconds", "pairs", "seeds")
    return [(words.get(name, name), str(shown[name])) for name in first if shown.get(name) is not None]


def _table(atlas: Atlas, place: int, name: str, scale: Scale | None) -> dict[str, Any]:
    """The heatmap as a table: columns of (site, layer), rows of (concept, cells of (impact, interval)).

    Impact and interval are empty where undefined; a censored cell says so in place of its number.
    """
    impacts = atlas.impacts(scale)
    text = [
        ("", "") if not ok else ("censored", f"{part:.0%} of pairs") if part > CENSORED else reading(*row).partition(" ")[::2]
        for ok, part, *row in zip(
            impacts.defined, impacts.get("censored", 0.0 * impacts.impact), impacts.impact, impacts.low, impacts.high, strict=True
        )
    ]
    if "planted" in impacts:
        text = [(value or "undefined", (more + PLANTED_SAID).strip()) if here else (value, more)
                for (value, more), here in zip(text, impacts.planted, strict=True)]  # fmt: skip
    about = {"kind": "impact", "map": place, "label": f"Table of impacts: {name}", "none": "undefined",
             "caption": "Impact with its 95 % interval, by concept and layer"}  # fmt: skip
    return about | _rows(impact_table(impacts.assign(text=text), values="text"), impacts)


def _agreement(cells: pd.DataFrame, place: int, name: str) -> dict[str, Any]:
    """How many views agree on each cell, as a table like that of the impacts."""
    about = {"kind": "agreement", "map": place, "label": f"Table of agreement: {name}", "none": "not asked",
             "caption": "How many views (scorers on scales) agree, of those that could be asked, by concept and layer"}  # fmt: skip
    return about | _rows(agreement_table(cells), cells)


def _rows(table: pd.DataFrame, cells: pd.DataFrame) -> dict[str, Any]:
    """A table of pairs of texts for the page: columns of (site, layer), rows of (concept, pairs), empty where there is none."""
    labels = dict(zip(cells.site, cells.layer, strict=True))
    rows = [
        (concept, [cell if isinstance(cell, tuple) else ("", "") for cell in row])
        for concept, row in zip(table.index, table.values, strict=True)
    ]
    return {"columns": [(site, labels[site]) for site in table.columns], "rows": rows}
