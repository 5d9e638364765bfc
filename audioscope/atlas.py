"""The concept-by-layer atlas: which layer carries which concept, with intervals and controls."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import numpy as np
import pandas as pd
import torch

from audioscope.audio import Clip
from audioscope.concepts import Concept, choose
from audioscope.edits import Edit, PatchOutput, PatchText, Which
from audioscope.errors import UnknownName
from audioscope.model import Model
from audioscope.paths import data_folder, write_whole
from audioscope.ratios import Ratio, mean_of_ratios, ratio_of_means
from audioscope.scorers import Scorer, listener_scorer
from audioscope.sites import Site
from audioscope.sweep import key, run_units
from audioscope.tracing import Row

Scale = Literal["logodds", "probability"]
THRESHOLD = 2.5  # over the number of sites: the paper's .10 at 24 layers


def localize(
    model: Model,
    concepts: Iterable[str | Concept] | str | Path | pd.DataFrame | None = None,
    pairs: int = 8,
    seeds: int = 1,
    patch: Literal["text", "output"] = "text",
    *,
    sites: Which = "cross",
    split: str = "localise",
    scorer: Scorer | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seconds: float | None = None,
    out: str | Path | None = None,
    clips: bool = True,
    progress: bool = True,
) -> Atlas:
    """Find which sites carry which concepts by activation patching (TADA, section 3): clean into corrupted, one site at a time.

    concepts: names of shipped ones, Concept values, a CSV or DataFrame of pairs; None is all 21.
    pairs, seeds: units are each pair and seed, with one batch of L + 2 generations: clean, corrupted, each single site.
    patch: "text" gives one site the clean prompt's text; "output" copies its output from the clean row of the batch.
    sites: cross-attention by default; "self" needs patch="output".
    out: folder for the results, resumed when it is there; a temporary one if None. clips: also keep the sound.
    Raises ValueError, or UnknownName (a KeyError), for input out of range, before anything is generated.
    """
    chosen = choose(concepts)
    judge_by: Scorer = listener_scorer() if scorer is None else scorer
    judge_by.check(model)
    where = model.sites.select(sites)
    if patch not in ("text", "output"):
        raise ValueError(f"patch is {patch!r}, expected 'text' or 'output'.")
    if patch == "text" and any(s.kind != "cross" for s in where):
        raise ValueError("Self-attention sites have no text to swap: use patch='output' for them.")
    if pairs < 1 or seeds < 1:
        raise ValueError(f"pairs is {pairs} and seeds is {seeds}, expected at least 1 of each.")
    for concept in chosen:
        if len(concept.split(split)) < pairs:
            raise ValueError(
                f"{concept.name!r} has {len(concept.split(split))} pairs in split {split!r}, {pairs} were asked for."
            )
        if concept.name not in judge_by.concepts:
            raise ValueError(f"The {judge_by.name} cannot score {concept.name!r}: it knows {', '.join(judge_by.concepts)}.")
    run_settings = model.settings(steps, guidance, seconds)
    settings = {
        "model": model.name, "fingerprint": model.fingerprint, "patch": patch, "sites": [asdict(s) for s in where],
        "split": split, "scorer": judge_by.name, "scorer_fingerprint": judge_by.fingerprint, **run_settings, "clips": clips,
        "rate": model.adapter.sampling_rate(model.pipe), "swaps_all_text": patch == "text" and where == model.sites.cross,
    }  # fmt: skip
    units: list[dict[str, Any]] = [
        {"concept": c.name, "pair": p.number, "seed": _seed(c.name, p.number, n), "clean": p.clean, "corrupted": p.corrupted}
        for c in chosen for p in c.split(split)[:pairs] for n in range(seeds)
    ]  # fmt: skip
    for text in {u[side] for u in units for side in ("clean", "corrupted")}:
        model.check_prompt(text)
    folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="audioscope-atlas-"))
    names = [c.name for c in chosen]

    def work(unit: dict[str, Any]) -> pd.DataFrame:
        return _do_unit(model, unit, where, patch, judge_by, run_settings, folder if clips else None)

    table = run_units(folder, settings, units, work, progress, desc="atlas")
    groups = {c.name: {"group": c.group, "changes": sorted(c.changes)} for c in chosen}
    atlas = Atlas(table, {**settings, "concepts": names, "groups": groups, "pairs": pairs, "seeds": seeds}, folder)
    atlas.save(folder)
    return atlas


def _seed(concept: str, pair: int, number: int) -> int:
    """Another piece of noise for every unit, so that pairs are independent draws of it, too."""
    return crc32(f"{concept}/{pair}/{number}".encode())


def _do_unit(
    model: Model,
    unit: dict[str, Any],
    sites: Sequence[Site],
    patch: str,
    scorer: Scorer,
    settings: dict[str, Any],
    folder: Path | None,
) -> pd.DataFrame:
    """All rows of one pair and seed in one batch: a table with one line per row and scored concept."""
    kind = PatchText if patch == "text" else PatchOutput
    edits: list[Edit] = [kind(site, unit["clean"]) for site in sites]
    rows = [Row(unit["clean"], unit["seed"]), Row(unit["corrupted"], unit["seed"])]
    rows += [Row(unit["corrupted"], unit["seed"], (edit,)) for edit in edits]
    run = model.run(rows, **settings)
    audio, failed = run.audio, ~run.finite
    assert audio is not None
    rate = model.adapter.sampling_rate(model.pipe)
    scores = scorer(torch.nan_to_num(audio), rate)
    scores[failed.numpy()] = np.nan
    labels = [("clean", "", -1), ("corrupted", "", -1), *(("patched", s.path, s.layer) for s in sites)]
    lines = []
    for i, (row, site, layer) in enumerate(labels):
        file = ""
        if folder is not None and not failed[i]:
            name = row if row != "patched" else site.replace("/", "_")
            file = f"clips/{_safe(unit['concept'])}/{unit['pair']:03d}-{key(unit)[:8]}/{name}.flac"
            Clip(audio[i].numpy(), rate).save(folder / file)
        lines.append({"row": row, "site": site, "layer": layer, "clip": file, "failed": bool(failed[i])})
    frame = pd.DataFrame(lines).join(scores.astype("float32")).melt(
        id_vars=["row", "site", "layer", "clip", "failed"], var_name="scored", value_name="logodds"
    )  # fmt: skip
    facts = {"model": model.name, "concept": unit["concept"], "pair": unit["pair"], "seed": unit["seed"],
             "clean_prompt": unit["clean"], "corrupted_prompt": unit["corrupted"]}  # fmt: skip
    return frame.assign(**facts)


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)


@dataclass(eq=False)
class Atlas:
    """A finished sweep and what follows from it.

    table: one line per cell and scored concept: model, concept, pair, seed, row ("clean", "corrupted", "patched"), site,
    layer, scored, logodds, clip, failed, and both prompts. folder: where the clips lie.
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

        Means over seeds; where a patched clip failed, both leave that seed out.
        """
        paths = [s.path for s in self.sites]
        table = self.table[self.table["scored"].isin(self.concepts)]
        text = {name: table[name].astype(str) for name in ("concept", "scored", "site", "row")}
        cell = text["site"].where(text["row"] == "patched", text["row"])
        frame = table[["pair", "seed", "logodds"]].assign(cell=cell, concept=text["concept"], scored=text["scored"])
        logodds = frame.pivot(index=["concept", "scored", "pair", "seed"], columns="cell", values="logodds")
        scales: dict[Scale, pd.DataFrame] = {"logodds": logodds, "probability": 1 / (1 + np.exp(-logodds))}
        result: dict[Scale, dict] = {}
        for scale, wide in scales.items():
            swing = wide.sub(wide["corrupted"], axis=0)
            shift = swing[paths]
            whole = shift.mul(0).add(swing["clean"], axis=0)
            means = [frame.groupby(level=["concept", "scored", "pair"]).mean() for frame in (shift, whole)]
            both = zip(*(frame.groupby(level=["concept", "scored"]) for frame in means), strict=True)
            result[scale] = {names: (tops.to_numpy(float), wholes.to_numpy(float)) for (names, tops), (_, wholes) in both}
        return result

    def _control(self, concept: str, scale: Scale) -> np.ndarray:
        """How far swaps of unrelated concepts move this one: mean over them of |mean shift| [sites], in the score's units.

        A swap that names this concept's own group (drums for a saxophone) is no control and is left out. The absolute value
        of a mean over few pairs has a floor of noise: the control is the stricter for it. NaN where there is no such concept.
        """
        groups = self.settings["groups"]
        own = groups[concept]["group"]
        shifts = [
            np.abs(np.nanmean(shift, axis=0))
            for (other, scored), (shift, _) in self._swings[scale].items()
            if scored == concept and other != concept and (not own or own not in groups[other]["changes"])
        ]
        return np.nanmean(shifts, axis=0) if shifts else np.full(len(self.sites), np.nan)

    def _ratios(self, concept: str, scale: Scale) -> list[Ratio]:
        shift, denominator = self._swings[scale][concept, concept]
        return [ratio_of_means(shift[:, i], denominator[:, i]) for i in range(shift.shape[1])]

    def impacts(self, scale: Scale = "logodds") -> pd.DataFrame:
        """One row per concept and site: impact with interval, numerator and denominator, control, and whether it is defined.

        impact = (patched - corrupted) / (clean - corrupted), a ratio of means over pairs; signed, not floored (TADA, eq. 2,
        floors at 0). control: the same numerator under swaps of unrelated concepts, in absolute value.
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

    def layer_means(self, scale: Scale = "logodds") -> pd.DataFrame:
        """One row per site: impact averaged over defined concepts with interval, control, and whether it is functional.

        Functional: mean impact at least 2.5 / L and its interval above the control (above 0 where there is none).
        """
        impacts = self.impacts(scale)
        lines = []
        for i, site in enumerate(self.sites):
            here = impacts[(impacts["site"] == site.path) & impacts["defined"]]
            swings = [self._swings[scale][c, c] for c in here["concept"]]
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

    def own_layers(self, concept: str, scale: Scale = "logodds") -> list[str]:
        """Module paths of one concept's own layers, by the same rule; empty where its impacts are undefined."""
        if concept not in self.concepts:
            raise UnknownName(f"No concept {concept!r} in this atlas. There are: {', '.join(self.concepts)}.")
        rows = self.impacts(scale).query("concept == @concept and defined")
        return rows.loc[(rows["impact"] >= self.threshold) & (rows["low"] > rows["control"].fillna(0.0)), "site"].tolist()

    def additivity(self, scale: Scale = "logodds") -> pd.DataFrame:
        """Per defined concept: the impacts of single sites added up, beside that of all together.

        That is 1 where the sweep swapped the text of every cross-attention site (the swap everywhere is the clean run), and
        was not measured elsewhere (NaN).
        """
        impacts = self.impacts(scale)
        total = impacts[impacts["defined"]].groupby("concept", sort=False)["impact"].sum()
        return pd.DataFrame(
            {"sum_of_single": total, "all_together": 1.0 if self.settings["swaps_all_text"] else np.nan}
        ).reset_index()

    def examples(self) -> pd.DataFrame:
        """One row per defined concept: its best site, chosen on even pairs, and the middle one of the odd pairs to listen to.

        `impact` is of the odd pairs, so choosing did not flatter it. Empty where no clips were kept.
        """
        lines = []
        for concept in self.concepts:
            shift, denominator = self._swings["logodds"][concept, concept]
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
                    **{f"{row}_score": float(rows.loc[row, "logodds"]) for row in ("clean", "corrupted", "patched")},
                }
            )
        columns = ["concept", "site", "layer", "impact", "pair", "seed", "clean_prompt", "corrupted_prompt"]
        columns += ["clean", "corrupted", "patched", "clean_score", "corrupted_score", "patched_score"]
        return pd.DataFrame(lines, columns=columns)

    def heatmap(self) -> Any:
        """The atlas as an altair chart."""
        from audioscope.charts import heatmap

        return heatmap(self.impacts(), self.layer_means(), title=f"Atlas of {self.settings['model']}")

    def play(self, concept: str) -> Any:
        """Players for a concept's example: clean, corrupted and patched at its best site."""
        from audioscope.audio import in_a_row

        row = self.examples().query("concept == @concept")
        if row.empty:
            raise UnknownName(f"No example of {concept!r}: it is not in this atlas, undefined, or no clips were kept.")
        chosen = row.iloc[0]
        titles = {"clean": chosen["clean_prompt"], "corrupted": chosen["corrupted_prompt"],
                  "patched": f"{chosen['corrupted_prompt']}, but {chosen['site']} reads: {chosen['clean_prompt']}"}  # fmt: skip
        return in_a_row(*(Clip.load(self.folder / chosen[k], prompt=f"{k}: {t}") for k, t in titles.items()))

    def save(self, folder: str | Path, shipped: bool = False) -> Path:
        """Write atlas.parquet and atlas.json; returns the folder.

        The clips stay where they are. shipped: a small copy with the examples' clips, as MP3, the scores of the atlas's own
        concepts, and log-odds of 3 decimals.
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
            table = table.assign(clip=clip, logodds=table["logodds"].round(3))
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
        return cls(pd.read_parquet(folder / "atlas.parquet"), json.loads((folder / "atlas.json").read_text()), folder)

    def __repr__(self) -> str:
        means = self.layer_means()
        layers = ", ".join(
            f"{r.layer} ({r.impact:.2f} [{r.low:.2f}, {r.high:.2f}])" for r in means[means["functional"]].itertuples()
        )
        undefined = sorted(set(self.concepts) - set(self.impacts().query("defined")["concept"]))
        return (
            f"Atlas({self.settings['model']}, patch={self.settings['patch']!r}: {len(self.concepts)} concepts x {len(self.sites)} sites, "
            f"{self.settings['pairs']} pairs)\n  functional layers: {layers or 'none'}\n  undefined: {', '.join(undefined) or 'none'}"
        )
