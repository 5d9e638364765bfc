"""The atlas: what follows from a finished sweep. Which layer carries which concept, with intervals and controls."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from audioscope.audio import Clip
from audioscope.errors import UnknownName
from audioscope.paths import data_folder, write_whole
from audioscope.ratios import Ratio, mean_of_ratios, ratio_of_means
from audioscope.sites import Site

Scale = Literal["score", "probability"]
THRESHOLD = 2.5  # over the number of sites: the paper's .10 at 24 layers


def ends(direction: str) -> tuple[str, str]:
    """The run that is patched, which an impact of 0 sounds like, and the one that it is patched from, which 1 sounds like."""
    return ("corrupted", "clean") if direction == "sufficient" else ("clean", "corrupted")


@dataclass(eq=False)
class Atlas:
    """A finished sweep and what follows from it.

    table: one line per cell and scored concept: model, concept, pair, seed, row ("clean", "corrupted", "patched"), site,
    layer, scored, score (in settings["units"]), clip, failed, and both prompts. folder: where the clips lie.
    """

    table: pd.DataFrame
    settings: dict[str, Any]
    folder: Path

    @property
    def concepts(self) -> list[str]:
        return list(self.settings["concepts"])

    @property
    def sites(self) -> list[Site]:
        return [Site(**s) for s in self.settings["sites"]]

    @property
    def threshold(self) -> float:
        """The least mean impact of a functional layer: 2.5 / L."""
        return THRESHOLD / len(self.settings["sites"])

    @cached_property
    def _swings(self) -> dict[Scale, dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]]:
        """By scale, then (swapped concept, scored concept): shifts and clean - corrupted, both [pairs, sites].

        A shift is patched - corrupted, or clean - patched where the clean run was patched. Means over seeds; where a patched
        clip failed, both leave that seed out.
        """
        paths = [s.path for s in self.sites]
        table = self.table[self.table["scored"].isin(self.concepts)]
        text = {name: table[name].astype(str) for name in ("concept", "scored", "site", "row")}
        cell = text["site"].where(text["row"] == "patched", text["row"])
        frame = table[["pair", "seed", "score"]].assign(cell=cell, concept=text["concept"], scored=text["scored"])
        scores = frame.pivot(index=["concept", "scored", "pair", "seed"], columns="cell", values="score")
        scales: dict[Scale, pd.DataFrame] = {"score": scores}
        if self.settings["units"] == "log-odds":
            scales["probability"] = 1 / (1 + np.exp(-scores))
        result: dict[Scale, dict] = {}
        for scale, wide in scales.items():
            shift = wide[paths].sub(wide["corrupted"], axis=0)
            if self.settings["direction"] == "necessary":
                shift = -wide[paths].sub(wide["clean"], axis=0)
            whole = shift.mul(0).add(wide["clean"] - wide["corrupted"], axis=0)
            means = [frame.groupby(level=["concept", "scored", "pair"]).mean() for frame in (shift, whole)]
            both = zip(*(frame.groupby(level=["concept", "scored"]) for frame in means), strict=True)
            result[scale] = {names: (tops.to_numpy(float), wholes.to_numpy(float)) for (names, tops), (_, wholes) in both}
        return result

    def _on(self, scale: Scale) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
        if scale not in self._swings:
            raise ValueError(
                f"scale is {scale!r}, expected one of {', '.join(self._swings)}: scores are in {self.settings['units']}."
            )
        return self._swings[scale]

    def check_concept(self, concept: str) -> None:
        """Raise UnknownName for a concept that the atlas does not have."""
        if concept not in self.concepts:
            raise UnknownName(f"No concept {concept!r} in this atlas. There are: {', '.join(self.concepts)}.")

    def _control(self, concept: str, scale: Scale) -> np.ndarray:
        """How far swaps of unrelated concepts move this one: mean over them of |mean shift| [sites], in the score's units.

        A swap that names this concept's own group (drums for a saxophone) is no control and is left out. The absolute value
        of a mean over few pairs has a floor of noise: the control is the stricter for it. NaN where there is no such concept.
        """
        groups = self.settings["groups"]
        own = groups[concept]["group"]
        shifts = [
            np.abs(np.nanmean(shift, axis=0))
            for (other, scored), (shift, _) in self._on(scale).items()
            if scored == concept and other != concept and (not own or own not in groups[other]["changes"])
        ]
        return np.nanmean(shifts, axis=0) if shifts else np.full(len(self.sites), np.nan)

    def _ratios(self, concept: str, scale: Scale) -> list[Ratio]:
        shift, denominator = self._on(scale)[concept, concept]
        return [ratio_of_means(shift[:, i], denominator[:, i]) for i in range(shift.shape[1])]

    def impacts(self, scale: Scale = "score") -> pd.DataFrame:
        """One row per concept and site: impact with interval, numerator and denominator, control, and whether it is defined.

        impact = (patched - corrupted) / (clean - corrupted), a ratio of means over pairs; signed, not floored (TADA, eq. 2,
        floors at 0). Where the clean run was patched ("necessary"), it is (clean - patched) / (clean - corrupted). control: the same numerator under swaps of unrelated concepts, in absolute value.
        """
        lines = []
        for concept in self.concepts:
            control = self._control(concept, scale)
            for i, (site, ratio) in enumerate(zip(self.sites, self._ratios(concept, scale), strict=True)):
                lines.append(
                    {
                        "concept": concept,
                        "group": self.settings["groups"][concept]["group"],
                        "site": site.path,
                        "layer": site.layer,
                        "impact": ratio.value,
                        "low": ratio.low,
                        "high": ratio.high,
                        "numerator": ratio.numerator,
                        "denominator": ratio.denominator,
                        "denominator_low": ratio.denominator_low,
                        "denominator_high": ratio.denominator_high,
                        "control": control[i] / ratio.denominator if ratio.defined else np.nan,
                        "pairs": ratio.pairs,
                        "defined": ratio.defined,
                    }
                )
        return pd.DataFrame(lines)

    def layer_means(self, scale: Scale = "score") -> pd.DataFrame:
        """One row per site: impact averaged over defined concepts with interval, control, and whether it is functional.

        Functional: mean impact at least 2.5 / L and its interval above the control (above 0 where there is none).
        """
        impacts = self.impacts(scale)
        lines = []
        for i, site in enumerate(self.sites):
            here = impacts[(impacts["site"] == site.path) & impacts["defined"]]
            swings = [self._on(scale)[c, c] for c in here["concept"]]
            mean, low, high = mean_of_ratios([s[0][:, i] for s in swings], [s[1][:, i] for s in swings])
            control = float(here["control"].mean())
            functional = bool(mean >= self.threshold and low > np.nan_to_num(control))
            lines.append({"site": site.path, "layer": site.layer, "impact": mean, "low": low, "high": high, "control": control,
                          "threshold": self.threshold, "functional": functional})  # fmt: skip
        return pd.DataFrame(lines)

    @property
    def functional(self) -> list[str]:
        """Module paths of the functional layers, shared by the concepts."""
        means = self.layer_means()
        return means.loc[means["functional"], "site"].tolist()

    def own_layers(self, concept: str, scale: Scale = "score") -> list[str]:
        """Module paths of one concept's own layers, by the same rule; empty where its impacts are undefined."""
        self.check_concept(concept)
        rows = self.impacts(scale).query("concept == @concept and defined")
        return rows.loc[(rows["impact"] >= self.threshold) & (rows["low"] > rows["control"].fillna(0.0)), "site"].tolist()

    def additivity(self, scale: Scale = "score") -> pd.DataFrame:
        """Per defined concept: the impacts of single sites added up, beside that of all together.

        That is 1 where the sweep swapped the text of every cross-attention site (the swap everywhere is the clean run), and
        was not measured elsewhere (NaN).
        """
        impacts = self.impacts(scale)
        total = impacts[impacts["defined"]].groupby("concept", sort=False)["impact"].sum()
        return pd.DataFrame(
            {"sum_of_single": total, "all_together": 1.0 if self.settings["swaps_all_text"] else np.nan}
        ).reset_index()

    def compare(self, other: Atlas) -> pd.DataFrame:
        """How alike two atlases are, layers matched by relative depth: one row for the layer means, then one per shared concept.

        rank_correlation: Spearman's, of the impacts over depth. overlap: shared part of the depth that functional layers (own
        layers, for a concept) cover, 0 to 1; NaN where neither has any. Undefined concepts are left out.
        """
        count, others = len(self.sites), len(other.sites)

        def row(name: str, mine: pd.DataFrame, theirs: pd.DataFrame, own: list[str], their_own: list[str]) -> dict[str, Any]:
            # a fine grid of depth, which both numbers of layers divide
            mine, theirs = mine.sort_values("layer"), theirs.sort_values("layer")
            here, there = (frame["impact"].repeat(n).to_numpy() for frame, n in ((mine, others), (theirs, count)))
            both = pd.DataFrame({"here": here, "there": there}).dropna().rank().corr().iloc[0, 1]
            held = (
                np.repeat(mine["site"].isin(own).to_numpy(), others),
                np.repeat(theirs["site"].isin(their_own).to_numpy(), count),
            )
            union = (held[0] | held[1]).sum()
            overlap = float((held[0] & held[1]).sum() / union) if union else np.nan
            return {"concept": name, "rank_correlation": float(both), "overlap": overlap}

        impacts, theirs = (
            frame.assign(impact=frame["impact"].where(frame["defined"])) for frame in (self.impacts(), other.impacts())
        )
        lines = [row("layer means", self.layer_means(), other.layer_means(), self.functional, other.functional)]
        for concept in [c for c in self.concepts if c in other.concepts]:
            mine, part = (frame[frame["concept"] == concept] for frame in (impacts, theirs))
            if mine["defined"].any() and part["defined"].any():
                lines.append(row(concept, mine, part, self.own_layers(concept), other.own_layers(concept)))
        return pd.DataFrame(lines)

    def examples(self) -> pd.DataFrame:
        """One row per defined concept: its best site, chosen on even pairs, and the middle one of the odd pairs to listen to.

        `impact` is of the odd pairs, so choosing did not flatter it. Empty where no clips were kept.
        """
        lines = []
        for concept in self.concepts:
            shift, denominator = self._on("score")[concept, concept]
            if len(shift) < 4 or not np.isfinite(shift[0::2]).any(axis=0).all():
                continue
            best = int(np.argmax(np.nanmean(shift[0::2], axis=0)))
            shown = ratio_of_means(shift[1::2, best], denominator[1::2, best])
            if not ratio_of_means(shift[:, best], denominator[:, best]).defined or not shown.denominator > 0:
                continue
            part = self.table[(self.table["concept"] == concept) & (self.table["scored"] == concept)]
            odd = sorted(part["pair"].unique())[1::2]
            order = np.argsort(np.nan_to_num(shift[1::2, best], nan=-np.inf))
            pair = odd[int(order[len(order) // 2])]
            site = self.sites[best]
            rows = part[part["pair"] == pair]
            rows = rows[(rows["seed"] == rows["seed"].min()) & ((rows["row"] != "patched") | (rows["site"] == site.path))]
            rows = rows.set_index("row")
            if rows["clip"].eq("").any() or rows["failed"].any():
                continue
            lines.append(
                {
                    "concept": concept,
                    "site": site.path,
                    "layer": site.layer,
                    "impact": shown.numerator / shown.denominator,
                    "pair": pair,
                    "seed": int(rows["seed"].iloc[0]),
                    "clean_prompt": rows["clean_prompt"].iloc[0],
                    "corrupted_prompt": rows["corrupted_prompt"].iloc[0],
                    **{row: rows.loc[row, "clip"] for row in ("clean", "corrupted", "patched")},
                    **{f"{row}_score": float(rows.loc[row, "score"]) for row in ("clean", "corrupted", "patched")},
                }
            )
        columns = ["concept", "site", "layer", "impact", "pair", "seed", "clean_prompt", "corrupted_prompt"]
        columns += ["clean", "corrupted", "patched", "clean_score", "corrupted_score", "patched_score"]
        return pd.DataFrame(lines, columns=columns)

    def heatmap(self) -> Any:
        """The atlas as an altair chart."""
        from audioscope.atlas_charts import heatmap

        direction = self.settings["direction"]
        return heatmap(self.impacts(), self.layer_means(), f"Atlas of {self.settings['model']}", direction)

    def play(self, concept: str) -> Any:
        """Players for a concept's example: clean, corrupted and patched at its best site."""
        from audioscope.audio import in_a_row

        row = self.examples().query("concept == @concept")
        if row.empty:
            raise UnknownName(f"No example of {concept!r}: it is not in this atlas, undefined, or no clips were kept.")
        chosen = row.iloc[0]
        titles = {"clean": chosen["clean_prompt"], "corrupted": chosen["corrupted_prompt"]}
        into, source = ends(self.settings["direction"])
        titles["patched"] = f"{titles[into]}, but {chosen['site']} reads: {titles[source]}"
        return in_a_row(*(Clip.load(self.folder / chosen[k], prompt=f"{k}: {t}") for k, t in titles.items()))

    def explore(self, model: Any = None) -> Any:
        """A widget for JupyterLab: click a cell of the heatmap and hear it, with other prompts if you like.

        model: makes the clips that were not kept; None is the shipped `tiny`, if this atlas is of its weights. Raises ValueError for a
        model of other weights.
        """
        from audioscope.atlas_explorer import AtlasExplorer

        return AtlasExplorer(self, model)

    def save_html(self, path: str | Path, others: Sequence[Atlas] = (), **keywords: Any) -> Path:
        """Write the atlas as one HTML file with chart and sound, for a mail; arguments as for `audioscope.report.save_html`."""
        from audioscope.report import save_html

        return save_html(self, path, others, **keywords)

    def save_site(self, folder: str | Path, others: Sequence[Atlas] = (), **keywords: Any) -> Path:
        """Write the atlas as a folder for any web server, with all its sound; arguments as for `audioscope.report.save_site`."""
        from audioscope.report import save_site

        return save_site(self, folder, others, **keywords)

    def save(self, folder: str | Path, shipped: bool = False) -> Path:
        """Write atlas.parquet and atlas.json; returns the folder.

        The clips stay where they are. shipped: a small copy with the examples' clips, as MP3, the scores of the atlas's own
        concepts, and scores of 3 decimals.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        table = self.table
        if shipped:
            table = table[table["scored"].isin(self.concepts)]
            shown = self.examples()
            kept = shown[["clean", "corrupted", "patched"]].to_numpy().ravel().tolist() if len(shown) else []
            renamed = {name: str(Path(name).with_suffix(".mp3")) for name in kept}
            shutil.rmtree(folder / "clips", ignore_errors=True)  # an older atlas's
            for old, new in renamed.items():
                Clip.load(self.folder / old).save(folder / new)
            clip = table["clip"].astype(str).map(lambda name: renamed.get(name, ""))
            table = table.assign(clip=clip, score=table["score"].round(3))
        categories = ("model", "concept", "row", "site", "scored", "clip", "clean_prompt", "corrupted_prompt")
        table = table.astype(dict.fromkeys(categories, "category") | {"layer": "int16", "pair": "int16", "seed": "int64"})
        write_whole(folder / "atlas.parquet", lambda path: table.to_parquet(path, compression="zstd"))
        write_whole(folder / "atlas.json", lambda path: path.write_text(json.dumps(self.settings, indent=1) + "\n"))
        return folder

    @classmethod
    def load(cls, folder: str | Path | None = None) -> Atlas:
        """Read an atlas; None is the one that ships with audioscope. Raises FileNotFoundError where there is none."""
        folder = data_folder() / "atlas" if folder is None else Path(folder)
        if not (folder / "atlas.parquet").exists():
            raise FileNotFoundError(
                f"{folder} holds no atlas (atlas.parquet): make one with audioscope.localize or `audioscope atlas`."
            )
        table, settings = pd.read_parquet(folder / "atlas.parquet"), json.loads((folder / "atlas.json").read_text())
        if "score" not in table:
            raise ValueError(f"{folder} was made by an older audioscope, whose tables had no column 'score': make it anew.")
        return cls(table, settings, folder)

    def __repr__(self) -> str:
        means = self.layer_means()
        layers = ", ".join(
            f"{r.layer} ({r.impact:.2f} [{r.low:.2f}, {r.high:.2f}])" for r in means[means["functional"]].itertuples()
        )
        undefined = sorted(set(self.concepts) - set(self.impacts().query("defined")["concept"]))
        return (
            f"Atlas({self.settings['model']}, patch={self.settings['patch']!r}, {self.settings['direction']}: {len(self.concepts)} concepts x {len(self.sites)} sites, "
            f"{self.settings['pairs']} pairs)\n  functional layers: {layers or 'none'}\n  undefined: {', '.join(undefined) or 'none'}"
        )
