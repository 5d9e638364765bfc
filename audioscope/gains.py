"""What a finished steering sweep says: what each way to steer gains, what it costs, and how sure that is."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from audioscope.atlas import Scale
from audioscope.audio import Clip
from audioscope.concepts import shipped_groups
from audioscope.curves import chance_of, interval, pseudo_values, smoothness, steering_auc, within
from audioscope.errors import UnknownName
from audioscope.paths import write_whole
from audioscope.slider import Track

if TYPE_CHECKING:
    from audioscope.vectors import SteeringVector

REWRITTEN = "pci all"  # the cell whose largest distance is everyone's budget: the prompt rewritten
# The criterion of steering, fixed on the selection split before the test split was scored: see `Steering.summary`.
SURE, FLOOR = 0.05, 0.1


class Difference(NamedTuple):
    """How much larger one area is than another on the same prompts, its 95 % interval, and the two-sided p-value of no difference."""

    more: float
    low: float
    high: float
    p: float


def between_ends(table: pd.DataFrame, prefix: str, concept: str, opposite: str) -> np.ndarray:
    """The score of a concept from columns of scores; with an opposite, half the difference of both ends: float [rows]."""
    mine = table[f"{prefix}{concept}"].to_numpy(float)
    return (mine - table[f"{prefix}{opposite}"].to_numpy(float)) / 2 if opposite else mine


def captions(rows: pd.DataFrame) -> list[str]:
    """What is said of each clip of a sweep's table: score, distance, tempo."""
    return [
        f"score {row.score:+.2f}, distance {row.lpaps:.3f}" + (f", {row.tempo:.0f} BPM" if row.tempo > 0 else "")
        for row in rows.itertuples()
    ]


@dataclass(eq=False)
class Steering:
    """A finished steering sweep of one concept and what follows from it.

    table: one line per clip: concept, method, sites, cell (both), prompt, seed, alpha (the strength), score (of the concept, by
    the scorer, not clipped; with an opposite, half the difference of both), lpaps (distance from the unsteered clip, by the price's
    network), chroma and beat (likeness to it, 1 is equal), tempo in BPM and the other measures, level, silent, clipped, one "scored
    ..." column for every concept of the scorer, and the clip's file; what each of two networks says of the other's part stands in
    "lpaps of ..." and "... scored ...". folder: where the clips lie.
    """

    table: pd.DataFrame
    settings: dict[str, Any]
    folder: Path

    @property
    def concept(self) -> str:
        return str(self.settings["concept"])

    @property
    def cells(self) -> list[str]:
        return list(dict.fromkeys(self.table["cell"]))

    @property
    def two_networks(self) -> bool:
        """Whether the gain's network measured the distance, too, beside the price's own."""
        return f"lpaps of {self.settings.get('scorer')}" in self.table

    def on(self, scale: Scale) -> Steering:
        """The same sweep on another scale: "raw" as measured, "clipped" to the range in which the scorer was calibrated.

        Raises ValueError where the scorer names no such range.
        """
        end = self.settings.get("calibrated")
        if scale == "raw":
            return self
        if scale != "clipped" or not end:
            raise ValueError(
                f"scale is {scale!r}, expected 'raw'"
                + (" or 'clipped'." if end else f": the {self.settings['scorer']} names no calibrated range.")
            )
        columns = [name for name in self.table if name.startswith("scored ")]
        table = self.table.assign(**{name: self.table[name].clip(-end, end) for name in columns})
        return self._scored(table, "scored ")

    def swapped(self) -> Steering:
        """The same sweep with its two networks exchanged: the gain by that which measured the price, the price by that of the gain.

        Raises ValueError where one network did both.
        """
        gain = self.settings.get("scorer", "unknown")
        price = self.settings.get("price", gain)
        if not self.two_networks:
            raise ValueError(f"One network, the {gain}, measured both gain and price: there is nothing to exchange.")
        table = self.table.assign(lpaps=self.table[f"lpaps of {gain}"], **{f"lpaps of {price}": self.table["lpaps"]})
        return replace(
            self._scored(table, f"{price} scored "),
            settings={**self.settings, "scorer": price, "price": gain, "calibrated": None},
        )

    def repriced(self) -> Steering:
        """The same gains over the price by the gain's own network, which may please itself: for comparison."""
        gain = self.settings.get("scorer", "unknown")
        if not self.two_networks:
            raise ValueError(f"One network, the {gain}, measured both gain and price: there is no other price.")
        return replace(self, table=self.table.assign(lpaps=self.table[f"lpaps of {gain}"]))

    def _scored(self, table: pd.DataFrame, prefix: str) -> Steering:
        score = between_ends(table, prefix, self.concept, str(self.settings["opposite"]))
        return replace(self, table=table.assign(score=score.astype("float32")))

    def family(self, name: str) -> list[str]:
        """The cells that a name stands for: itself, or those that it numbers ("caa random layers" for 1, 2 and 3).

        Raises ValueError for a name of neither.
        """
        found = [
            cell
            for cell in self.cells
            if cell == name or (cell.startswith(f"{name} ") and cell.removeprefix(f"{name} ").isdigit())
        ]
        if not found:
            raise ValueError(f"No cell {name!r} in this sweep. There are: {', '.join(self.cells)}.")
        return found

    @property
    def _reference(self) -> list[str]:
        return [REWRITTEN] if REWRITTEN in self.cells else self.cells

    def points(self, table: pd.DataFrame | None = None) -> pd.DataFrame:
        """Mean lpaps and score by cell and strength: first over a prompt's seeds, then over prompts."""
        table = self.table if table is None else table
        means = table.groupby(["cell", "prompt", "alpha"], sort=False)[["lpaps", "score"]].mean()
        return means.groupby(level=["cell", "alpha"], sort=False).mean().reset_index()

    def curves(self) -> pd.DataFrame:
        """One row per cell and strength: means over prompts of what was measured, and the score's 95 % interval (low, high).

        off: share of clips that failed, are silent, clipped in more than 1 % of their samples, or more than 6 dB off the
        unsteered level.
        """
        base = self.table[self.table["alpha"] == 0].drop_duplicates(["prompt", "seed"]).set_index(["prompt", "seed"])["level"]
        before = base.reindex(pd.MultiIndex.from_frame(self.table[["prompt", "seed"]])).to_numpy()
        off = (
            self.table["failed"]
            | self.table["silent"].astype(bool)
            | (self.table["clipped"] > 0.01)
            | ((self.table["level"] - before).abs() > 6)
        )
        names = ["score", "lpaps", "chroma", "beat", "tempo", "onsets", "mode", "register", "centroid", "off"]
        each = (
            self.table.assign(off=off.astype(float))
            .groupby(["cell", "method", "sites", "alpha", "prompt"], sort=False)[names]
            .mean()
        )
        grouped = each.groupby(level=["cell", "method", "sites", "alpha"], sort=False)
        curve = grouped.mean()
        bounds = [interval(values.to_numpy()) for _, values in grouped["score"]]
        curve.insert(1, "low", [low for low, _ in bounds])
        curve.insert(2, "high", [high for _, high in bounds])
        return curve.reset_index().sort_values(
            ["cell", "alpha"], key=lambda c: c.map(self.cells.index) if c.name == "cell" else c, ignore_index=True
        )

    @cached_property
    def _pseudo(self) -> pd.DataFrame:
        """Each prompt's contribution to the AUC of each cell."""
        return pseudo_values(self.table, lambda table: self._aucs(table)["auc"])

    @cached_property
    def _areas(self) -> pd.DataFrame:
        return self._aucs(self.table)

    def areas(self) -> dict[str, float]:
        """The AUC of each cell, as in `summary`, without what takes longer."""
        return {str(name): float(value) for name, value in self._areas["auc"].items()}

    def _aucs(self, table: pd.DataFrame) -> pd.DataFrame:
        return steering_auc(self.points(table).assign(concept=self.concept), self._reference).set_index("cell")

    def summary(self) -> pd.DataFrame:
        """One row per cell: the AUC with its interval, and how sure, steady, smooth, specific and harmful the steering is.

        p_beyond: that the AUC is not larger than the random direction's (or random features') on the same prompts. p_rising: that the
        score does not rise with the strength within the budget (each prompt's slope is one value). share: the AUC over that of rewriting
        the prompt. auc_repriced: the AUC over the price by the gain's own network (`repriced`), NaN where there is no other. steerable: both p at most .05, and share at least .1; of many axes see `audioscope.axes.steerable`, which corrects for
        their number. spearman: rank correlation of strength and mean score, within the budget and to its border; it falls where
        a curve saturates. gain: of the score at the border, mean of both sides. specificity: mean movement of unrelated concepts
        per unit of movement of this one, at the largest strength within the budget (0 is perfect). budget: the distance that
        rewriting the prompt takes, mean of both sides. reached: the share of it that the strengths covered.
        """
        aucs, points = self._areas, self.points()
        chance = next((name for name in self.cells if name.startswith("random ")), None)
        bounds = {name: interval(self._pseudo[name].to_numpy(), float(aucs.loc[name, "auc"])) for name in self.cells}
        named = self.table.drop_duplicates("cell").set_index("cell")
        units = self.table[["prompt", "seed"]].drop_duplicates()
        rewritten = float(aucs.loc[REWRITTEN, "auc"]) if REWRITTEN in self.cells else np.nan
        repriced = self.repriced().areas() if self.two_networks else {}
        lines = []
        for name in self.cells:
            area = aucs.loc[name]
            cutoffs = {1: float(area["cutoff_positive"]), -1: float(area["cutoff_negative"])}
            mine = points[points["cell"] == name]
            curves = {side: within(mine, side, cutoff) for side, cutoff in cutoffs.items()}
            curves = {side: curve for side, curve in curves.items() if len(curve) > 1}
            kept = pd.concat([*curves.values(), mine.iloc[:0]]).drop_duplicates("alpha")
            gains = [side * (curve["score"].iloc[-1] - curve["score"].iloc[0]) for side, curve in curves.items()]
            rank = float(kept[["alpha", "score"]].corr("spearman").iloc[0, 1]) if len(kept) > 2 else np.nan
            low, high = bounds[name]
            judged = chance is not None and name != chance
            difference = self.compare(name, chance) if judged and chance else None
            p_beyond = np.nan if difference is None else difference.p / 2 if difference.more > 0 else 1 - difference.p / 2
            p_rising, share = self._rising(name, mine, cutoffs), float(area["auc"]) / rewritten
            lines.append({
                "concept": self.concept, "method": named.loc[name, "method"], "sites": named.loc[name, "sites"],
                "auc": float(area["auc"]), "auc_low": low, "auc_high": high,
                "auc_repriced": repriced.get(name, np.nan), "p_beyond": p_beyond, "p_rising": p_rising, "share": share,
                "steerable": bool(max(p_beyond, p_rising) <= SURE and share >= FLOOR) if judged else None, "spearman": rank,
                "prompts": units["prompt"].nunique(), "seeds": len(units) // units["prompt"].nunique(),
                "gain": float(np.mean(gains)) if gains else np.nan, "specificity": self._specificity(name, mine, cutoffs),
                "smoothness": smoothness(kept["alpha"].to_numpy(float), kept["score"].to_numpy(float)) if len(kept) else np.nan,
                "budget": float(np.mean([cutoffs[side] for side in curves])) if curves else np.nan, "reached": float(area["reached"]),
                "largest": float(mine["alpha"].abs().max()),
            })  # fmt: skip
        return pd.DataFrame(lines)

    def _rising(self, name: str, points: pd.DataFrame, cutoffs: dict[int, float]) -> float:
        """One-sided p of the score not rising with the strength within the budget: a t-test of each prompt's slope, [prompts]."""
        inside = {0.0}
        for side, cutoff in cutoffs.items():
            half = points[points["alpha"] * side > 0].sort_values("alpha", key=abs)
            near = half[half["lpaps"] <= cutoff + 1e-9]
            inside |= set((near if len(near) else half[:1])["alpha"])
        rows = self.table[(self.table["cell"] == name) & self.table["alpha"].isin(inside)]
        each = rows.groupby(["prompt", "alpha"])["score"].mean().unstack("alpha").dropna()
        if len(each) < 2 or each.shape[1] < 2:
            return np.nan
        strength = each.columns.to_numpy(float) - each.columns.to_numpy(float).mean()
        slopes = each.to_numpy(float) @ strength
        if np.ptp(slopes) < 1e-12:  # all alike: no error to divide by
            return 0.0 if slopes[0] > 0 else 1.0
        return float(stats.ttest_1samp(slopes, 0.0, alternative="greater").pvalue)

    def _specificity(self, name: str, points: pd.DataFrame, cutoffs: dict[int, float]) -> float:
        groups = shipped_groups()
        group = self.settings["group"] or groups.get(self.concept, "")
        scored = [c for c in self.table.columns if c.startswith("scored ")]
        others = [
            c
            for c in scored
            if c[7:] not in (self.concept, self.settings["opposite"]) and (not group or groups.get(c[7:]) != group)
        ]
        means = self.table[self.table["cell"] == name].groupby("alpha")[["score", *others]].mean()
        found = []
        for side, cutoff in cutoffs.items():
            inside = points[(points["alpha"] * side > 0) & (points["lpaps"] <= cutoff + 1e-9)]
            if len(inside):
                move = means.loc[inside["alpha"].max() if side > 0 else inside["alpha"].min()] - means.loc[0.0]
                if others and abs(move["score"]) > 0:
                    found.append(float(move[others].abs().mean() / abs(move["score"])))
        return float(np.mean(found)) if found else np.nan

    def compare(self, one: str, other: str) -> Difference:
        """How much larger the AUC of one cell is than another's, on the same prompts; numbered cells ("caa random layers") as their mean.

        Interval and p are of a paired t-test on the prompts' pseudo-values. Raises ValueError for a cell that there is not.
        """
        mine, theirs = self.family(one), self.family(other)
        aucs = self._areas["auc"]
        more = float(aucs[mine].mean() - aucs[theirs].mean())
        each = (self._pseudo[mine].mean(axis=1) - self._pseudo[theirs].mean(axis=1)).to_numpy()
        return Difference(more, *interval(each, more), chance_of(each, more))

    def tracks(self, cell_name: str | None = None) -> list[Track]:
        """A slider's worth of clips for each prompt and seed, of one cell (None: the first); empty where no clips were kept."""
        name = self.cells[0] if cell_name is None else cell_name
        if name not in self.cells:
            raise UnknownName(f"No cell {name!r} in this sweep. There are: {', '.join(self.cells)}.")
        rows = self.table[(self.table["cell"] == name) & (self.table["clip"] != "")].sort_values("alpha")
        tracks = []
        for (text, seed), part in rows.groupby(["text", "seed"], sort=False):
            clips = [Clip.load(self.folder / row.clip, prompt=str(text), seed=int(row.seed)) for row in part.itertuples()]
            tracks.append(Track(f"{text} (seed {seed})", part["alpha"].tolist(), clips, captions(part)))
        return tracks

    def chart(self) -> Any:
        """Score over distance, a line for each way to steer, as an altair chart."""
        from audioscope.charts import steering_chart

        return steering_chart(self.curves(), self.concept, str(self.settings["opposite"]))

    def explore(self, model: Any = None, vector: SteeringVector | None = None) -> Any:
        """A widget for JupyterLab: choose a way to steer and a prompt, move the slider, and see where you are on the curve.

        model, vector: make clips of `tiny` again that were not kept, in the standard ways to steer; None is the shipped model, if the sweep
        is of its weights, and the vector in the sweep's folder, or the shipped one. Other sweeps need clips=True. Raises ValueError for a model of other weights.
        """
        from audioscope.steering_explorer import SteeringExplorer

        return SteeringExplorer(self, model, vector)

    def save(self, folder: str | Path) -> Path:
        """Write clips.parquet (the table) and steering.json (the settings); returns the folder. The sound stays where it is."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "clips.parquet", lambda path: self.table.to_parquet(path, compression="zstd"))
        write_whole(folder / "steering.json", lambda path: path.write_text(json.dumps(self.settings, indent=1) + "\n"))
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Steering:
        """Read what `save` wrote. Raises FileNotFoundError where there is nothing."""
        folder = Path(folder)
        if not (folder / "steering.json").exists():
            raise FileNotFoundError(
                f"{folder} holds no steering sweep: make one with audioscope.steering_sweep or `audioscope steer`."
            )
        return cls(pd.read_parquet(folder / "clips.parquet"), json.loads((folder / "steering.json").read_text()), folder)

    def __repr__(self) -> str:
        rows = self.summary()
        lines = [
            f"  {r.method} {r.sites}: AUC {r.auc:.3f} [{r.auc_low:.3f}, {r.auc_high:.3f}], Spearman {r.spearman:.2f}"
            for r in rows.itertuples()
        ]
        axis = f"{self.concept} / {self.settings['opposite']}" if self.settings["opposite"] else self.concept
        return "\n".join(
            [
                f"Steering({axis}, {self.settings['model']}: {rows['prompts'].iloc[0]} prompts x {rows['seeds'].iloc[0]} seeds)",
                *lines,
            ]
        )
