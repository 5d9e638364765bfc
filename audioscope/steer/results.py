"""The results of a finished steering sweep: what each method gains, what it costs, and how certain that is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from audioscope.atlas.atlas import Scale
from audioscope.audio import Clip
from audioscope.concepts import shipped_groups
from audioscope.errors import UnknownName, all_of, among, as_path, listed, real, said, with_columns
from audioscope.stats import chance_of, interval, pseudo_values
from audioscope.steer.cells import REWRITTEN
from audioscope.steer.curves import smoothness, steering_auc, within
from audioscope.store import copy_clips, load_table, made_folder, plain_rows, save_table
from audioscope.views import view

if TYPE_CHECKING:
    from audioscope.steer.vectors import SteeringVector

# The criterion of steering (see `SteeringSweep.summary`) was chosen on the selection split and committed before this sweep was
# scored, but after an older criterion had failed its controls on the same test prompts. So the sweep is not a test of the
# criterion.
SURE, FLOOR = 0.05, 0.1
FORMAT = 1  # the version of the files of a sweep, raised with every change that an older audioscope cannot read
NEEDED = ("cell", "method", "prompt", "seed", "strength", "score", "distance", "clip", "concept", "opposite", "model")


class Difference(NamedTuple):
    """How much larger one area is than another on the same prompts, and how certain that is.

    Args:
        more: The difference of the two AUCs, in score times distance.
        low: The lower end of its 95 % interval.
        high: The upper end.
        p: Its two-sided p-value.

    Example:
        >>> found = audioscope.datasets.steering("fast").compare("caa own", "random direction own")
        >>> found.low > 0, found.p < 0.001
        (True, True)
    """

    more: float
    low: float
    high: float
    p: float


def between_ends(table: pd.DataFrame, prefix: str, concept: str, opposite: str) -> np.ndarray:
    """The score of a concept from columns of scores, float [rows]; with an opposite, half the difference of the two ends."""
    mine = table[f"{prefix}{concept}"].to_numpy(float)
    return (mine - table[f"{prefix}{opposite}"].to_numpy(float)) / 2 if opposite else mine


def captions(rows: pd.DataFrame) -> list[str]:
    """A caption for each clip of a sweep's table: score, distance, tempo."""
    return [
        f"score {row.score:+.2f}, distance {row.distance:.3f}" + (f", {row.tempo:.0f} BPM" if row.tempo > 0 else "")
        for row in rows.itertuples()
    ]


@dataclass(eq=False)
class SteeringSweep:
    """A finished steering sweep of one concept and what follows from it.

    Args:
        table: One row per clip, with these columns:

            - concept, method, sites, cell (method and sites), prompt, seed, strength.
            - score: of the concept, by the scorer, not clipped; with an opposite, half the difference of the two.
            - distance: from the unsteered clip, by the price's network.
            - chroma and beat (similarity to the unsteered clip; 1 means equal), tempo in BPM and the other measures.
            - level, silent, clipped, failed, and the clip's file.
            - one "scored ..." column for every concept of the scorer. If there are two networks, "distance of ..." and
              "... scored ..." contain what each measures in the other's place; the latter also what further scorers hear.
        settings: What the sweep was made with, JSON values.
        folder: Where the clips are stored.

    Example:
        >>> sweep = audioscope.datasets.steering("fast")
        >>> sweep.ends, len(sweep.cells)
        (['fast', 'slow'], 14)
        >>> sweep.areas()["auc"].idxmax()  # the cell with the largest area: rewriting the prompt, the positive control
        'pci all'
    """

    table: pd.DataFrame
    settings: dict[str, Any]
    folder: Path

    def __post_init__(self) -> None:
        self.table = plain_rows(self.table)

    @property
    def concept(self) -> str:
        """The concept that it steers toward."""
        return str(self.settings["concept"])

    @property
    def cells(self) -> list[str]:
        """Every method at its sites, such as "caa own", in the order in which they were given."""
        return list(dict.fromkeys(self.table["cell"]))

    @property
    def two_networks(self) -> bool:
        """Whether the gain's network measured the distance as well, in addition to the price's network."""
        return f"distance of {self.settings.get('scorer')}" in self.table

    @property
    def ends(self) -> list[str]:
        """The concept and, where it has one, its opposite."""
        return [name for name in (self.concept, str(self.settings["opposite"])) if name]

    @property
    def exchangeable(self) -> bool:
        """Whether the price's network scored the concept as well, so that the two can trade places (`swapped`)."""
        return self.two_networks and all(f"{self.settings.get('price')} scored {end}" in self.table for end in self.ends)

    @property
    def scorers(self) -> list[str]:
        """The scorers of the gain: the sweep's own, then those given as `also=`."""
        return [str(self.settings["scorer"]), *self.settings.get("also", {})]

    def heard_by(self, scorer: str) -> SteeringSweep:
        """View the gains as another of the sweep's scorers hears them, at the same price: a second opinion.

        Args:
            scorer: One of `scorers`.

        Returns:
            A sweep with other scores, of which the former scorer is one more of `scorers`; for the first of them, it is this sweep
            itself. It has no specificity, since only the concept and its opposite were scored.

        Raises:
            UnknownName: This scorer did not score the clips of the sweep.

        Example:
            >>> ear, vector = audioscope.scoring.Musicnn(), audioscope.datasets.vector("fast")
            >>> few = {"prompts": 1, "seeds": 1, "steps": 4, "progress": False}
            >>> sweep = audioscope.steer.steering_sweep(model, "fast", vector, [2], also=ear, **few)
            >>> sweep.scorers, sweep.heard_by("musicnn").settings["scorer"]
            (['judge', 'musicnn'], 'musicnn')
        """
        if not among(scorer, self.scorers):
            raise UnknownName(f"{said(scorer)} did not score this sweep's clips. Available: {', '.join(self.scorers)}.")
        if scorer == self.scorers[0]:
            return self
        mine = {name: self.settings[name] for name in ("scorer_fingerprint", "units", "calibrated")}
        also = {self.scorers[0]: mine} | {name: about for name, about in self.settings["also"].items() if name != scorer}
        theirs = {**self.settings["also"][scorer], "scorer": scorer, "also": also}
        return replace(self._scored(self._traded(self.scorers[0], scorer)), settings=self.settings | theirs)

    def on(self, scale: Scale) -> SteeringSweep:
        """View the same sweep on another scale, to see whether results depend on scores far outside the calibrated range.

        Args:
            scale: "raw" as measured, "clipped" to the range in which the scorer was calibrated.

        Returns:
            A sweep with other scores.

        Raises:
            ValueError: The scale is unknown, or the scorer has no calibrated range.

        Example:
            >>> sweep = audioscope.datasets.steering("fast")
            >>> float(sweep.on("clipped").table["score"].abs().max()), sweep.settings["calibrated"]
            (6.0, 6.0)
        """
        end = self.settings.get("calibrated")
        if among(scale, ("raw",)):
            return self
        if not among(scale, ("clipped",)) or not end:
            raise ValueError(
                f"scale is {said(scale)}, expected 'raw'"
                + (" or 'clipped'." if end else f": the {self.settings['scorer']} has no calibrated range.")
            )
        columns = [name for name in self.table if name.startswith("scored ")]
        table = self.table.assign(**{name: self.table[name].clip(-end, end) for name in columns})
        return self._scored(table)

    def swapped(self) -> SteeringSweep:
        """Exchange the two networks: the price's network measures the gain, and the gain's network the price.

        Returns:
            A sweep with other scores and distances.

        Raises:
            ValueError: One network measured both, or the price's network did not score the concept.

        Example:
            >>> sweep = audioscope.datasets.steering("fast")
            >>> sweep.settings["scorer"], sweep.swapped().settings["scorer"]
            ('judge', 'listener')
        """
        gain = self.settings.get("scorer", "unknown")
        price = self.settings.get("price", gain)
        if not self.two_networks:
            raise ValueError(self._one_price("there is nothing to exchange"))
        if not self.exchangeable:
            raise ValueError(
                f"The {price} measured the price, but did not score {' and '.join(self.ends)}: it cannot measure the gain."
            )
        table = self._traded(gain, price).rename(columns={"distance": f"distance of {price}", f"distance of {gain}": "distance"})
        return replace(self._scored(table), settings={**self.settings, "scorer": price, "price": gain, "calibrated": None})

    def repriced(self) -> SteeringSweep:
        """View the same gains over the price by the gain's own network, which may favor itself: for comparison.

        Returns:
            A sweep with other distances.

        Raises:
            ValueError: One network measured both gain and price.
        """
        gain = self.settings.get("scorer", "unknown")
        if not self.two_networks:
            raise ValueError(self._one_price("there is no other price"))
        return replace(self, table=self.table.assign(distance=self.table[f"distance of {gain}"]))

    def _one_price(self, so: str) -> str:
        gain, price = self.settings.get("scorer", "unknown"), self.settings.get("price")
        both = f"One network, the {gain}, measured both gain and price"
        return f"{both if price in (None, gain) else f'The {gain} did not measure the distance, too'}: {so}."

    def _traded(self, old: str, new: str) -> pd.DataFrame:
        """The table with the scores of another scorer in the place of the sweep's own."""
        columns = {name: f"{old} {name}" for name in self.table if name.startswith("scored ")}
        columns |= {name: name.removeprefix(f"{new} ") for name in self.table if name.startswith(f"{new} scored ")}
        return self.table.rename(columns=columns)

    def _scored(self, table: pd.DataFrame) -> SteeringSweep:
        score = between_ends(table, "scored ", self.concept, str(self.settings["opposite"]))
        return replace(self, table=table.assign(score=score.astype("float32")))

    def family(self, name: str) -> list[str]:
        """Find the cells that a name stands for: itself, or its numbered cells ("caa random layers" for sets 1, 2 and 3).

        Args:
            name: A cell, or the name of numbered cells without the number.

        Returns:
            The names of the cells.

        Raises:
            ValueError: The name is neither.

        Example:
            >>> audioscope.datasets.steering("fast").family("caa random layers")
            ['caa random layers 1', 'caa random layers 2', 'caa random layers 3']
        """
        found = [cell for cell in self.cells if isinstance(name, str) and re.fullmatch(rf"{re.escape(name)}( \d+)?", cell)]
        if not found:
            raise ValueError(f"No cell {said(name)} in this sweep. There are: {', '.join(self.cells)}.")
        return found

    def points(self, table: pd.DataFrame | None = None) -> pd.DataFrame:
        """Average distance and score by cell and strength, first over each prompt's seeds, then over prompts.

        Args:
            table: Rows of the sweep's table; None means all.

        Returns:
            One row per cell and strength with the columns cell, strength, distance and score.
        """
        table = (
            self.table
            if table is None
            else with_columns("table", table, ("cell", "prompt", "strength", "distance", "score"), "SteeringSweep.table")
        )
        means = table.groupby(["cell", "prompt", "strength"], sort=False)[["distance", "score"]].mean()
        return means.groupby(level=["cell", "strength"], sort=False).mean().reset_index()

    def curves(self) -> pd.DataFrame:
        """Average the measurements over prompts, with the score's 95 % interval, for charts.

        Returns:
            One row per cell and strength, in this order, with these columns.

            - cell, method, sites, strength.
            - score, low, high: the mean score and its interval.
            - distance, chroma, beat, tempo (BPM), onsets (per s), mode, register (MIDI note number), centroid (Hz): means.
            - off: share of clips that failed, are silent, are clipped in more than 1 % of their samples, or differ by more than
              6 dB from the unsteered level.

        Example:
            >>> curves = audioscope.datasets.steering("fast").curves()
            >>> own = curves[curves["cell"] == "caa own"]
            >>> bool(own["score"].iloc[-1] > own["score"].iloc[0]), float(own["strength"][own["distance"].idxmin()])
            (True, 0.0)
        """
        base = self.table[self.table["strength"] == 0].drop_duplicates(["prompt", "seed"]).set_index(["prompt", "seed"])["level"]
        before = base.reindex(pd.MultiIndex.from_frame(self.table[["prompt", "seed"]])).to_numpy()
        loud = (self.table["clipped"] > 0.01) | ((self.table["level"] - before).abs() > 6)
        off = self.table["failed"] | self.table["silent"].astype(bool) | loud
        names = ["score", "distance", "chroma", "beat", "tempo", "onsets", "mode", "register", "centroid", "off"]
        by = ["cell", "method", "sites", "strength", "prompt"]
        each = self.table.assign(off=off.astype(float)).groupby(by, sort=False)[names].mean()
        grouped = each.groupby(level=["cell", "method", "sites", "strength"], sort=False)
        curve = grouped.mean()
        bounds = [interval(values.to_numpy()) for _, values in grouped["score"]]
        curve.insert(1, "low", [low for low, _ in bounds])
        curve.insert(2, "high", [high for _, high in bounds])
        return curve.reset_index().sort_values(
            ["cell", "strength"], key=lambda c: c.map(self.cells.index) if c.name == "cell" else c, ignore_index=True
        )

    @cached_property
    def _pseudo(self) -> pd.DataFrame:
        """Each prompt's contribution to the AUC of each cell."""
        return pseudo_values(self.table, lambda table: self._aucs(table)["auc"])

    @cached_property
    def _areas(self) -> pd.DataFrame:
        return self._aucs(self.table)

    def areas(self) -> pd.DataFrame:
        """Compute the AUC of each cell alone: `summary` without the slower statistics.

        Returns:
            One row per cell, its index, with the columns auc and reached (the share of the budget that the cell reached).

        Raises:
            ValueError: The sweep's table is empty.
        """
        return self._areas[["auc", "reached"]].copy()

    def contributions(self) -> pd.DataFrame:
        """Tell what each prompt contributes to the AUC of each cell: pseudo-values of the jackknife, from which intervals come.

        Returns:
            One row per prompt and one column per cell; a column's mean is about the cell's AUC.

        Example:
            >>> found = audioscope.datasets.steering("fast").contributions()
            >>> int((found["caa own"] > 0).sum()), len(found)
            (12, 12)
        """
        return self._pseudo.copy()

    def _aucs(self, table: pd.DataFrame) -> pd.DataFrame:
        if table.empty:
            raise ValueError("The table of this sweep is empty: there is nothing to summarize.")
        reference = [str(REWRITTEN)] if str(REWRITTEN) in self.cells else self.cells
        return steering_auc(self.points(table).assign(concept=self.concept), reference).set_index("cell")

    def summary(self) -> pd.DataFrame:
        """Summarize each cell: the AUC with its interval, and how certain, monotonic, smooth and specific the steering is.

        Returns:
            One row per cell, with the columns concept, method, sites and those below.

            - auc, auc_low, auc_high: the AUC and its 95 % interval.
            - auc_repriced: the AUC over the price by the gain's own network (`repriced`), NaN if one network measured both.
            - p_beyond: one-sided p-value, where the null hypothesis is that the AUC is not larger than that of the random
              direction (or random features) on the same prompts.
            - p_rising: the same for a score that does not rise with the strength within the budget (each prompt's slope is one
              value).
            - share: the AUC over that of rewriting the prompt.
            - steerable: both p-values are at most .05, and share is at least .1; None if a p-value is unknown. For many axes, see
              `audioscope.steer.steerable`, which corrects for their number.
            - spearman: rank correlation of strength and mean score, within and up to the budget; it falls where a curve
              saturates.
            - prompts, seeds: how many of each, seeds per prompt.
            - gain: in score, up to the budget, mean of both sides.
            - specificity: mean movement of unrelated concepts per unit of movement of this one, at the largest strength within
              the budget (0 is perfect).
            - smoothness: how unevenly the score rises with the strength (0 is a straight line).
            - budget: the distance that rewriting the prompt takes, mean of both sides.
            - reached: the share of the budget that the strengths covered.
            - largest: the largest strength in magnitude.

        Raises:
            ValueError: The sweep's table is empty.

        Example:
            >>> summary = audioscope.datasets.steering("fast").summary().set_index(["method", "sites"])
            >>> summary.loc[[("caa", "own"), ("fixed direction", "own")], "steerable"].tolist()
            [True, False]
        """
        aucs, points = self._areas, self.points()
        chance = next((name for name in self.cells if name.partition(" ")[0] == "random"), None)
        bounds = {name: interval(self._pseudo[name].to_numpy(), float(aucs.loc[name, "auc"])) for name in self.cells}
        named = self.table.drop_duplicates("cell").set_index("cell")
        units = self.table[["prompt", "seed"]].drop_duplicates()
        rewritten = float(aucs.loc[str(REWRITTEN), "auc"]) if str(REWRITTEN) in self.cells else np.nan
        repriced = self.repriced().areas()["auc"].to_dict() if self.two_networks else {}
        lines = []
        for name in self.cells:
            area = aucs.loc[name]
            cutoffs = {1: float(area["cutoff_positive"]), -1: float(area["cutoff_negative"])}
            mine = points[points["cell"] == name]
            curves = {side: within(mine, side, cutoff) for side, cutoff in cutoffs.items()}
            curves = {side: curve for side, curve in curves.items() if len(curve) > 1}
            kept = pd.concat([*curves.values(), mine.iloc[:0]]).drop_duplicates("strength")
            gains = [side * (curve["score"].iloc[-1] - curve["score"].iloc[0]) for side, curve in curves.items()]
            rank = float(kept[["strength", "score"]].corr("spearman").iloc[0, 1]) if len(kept) > 2 else np.nan
            low, high = bounds[name]
            judged = chance is not None and name != chance
            difference = self.compare(name, chance) if judged and chance else None
            p_beyond = np.nan if difference is None else difference.p / 2 if difference.more > 0 else 1 - difference.p / 2
            p_rising, share = self._rising(name, mine, cutoffs), float(area["auc"]) / rewritten
            lines.append({
                "concept": self.concept, "method": named.loc[name, "method"], "sites": named.loc[name, "sites"],
                "auc": float(area["auc"]), "auc_low": low, "auc_high": high,
                "auc_repriced": repriced.get(name, np.nan), "p_beyond": p_beyond, "p_rising": p_rising, "share": share,
                "steerable": bool(max(p_beyond, p_rising) <= SURE and share >= FLOOR) if judged and np.isfinite([p_beyond, p_rising]).all() else None, "spearman": rank,
                "prompts": units["prompt"].nunique(), "seeds": len(units) // units["prompt"].nunique(),
                "gain": float(np.mean(gains)) if gains else np.nan, "specificity": self._specificity(name, mine, cutoffs),
                "smoothness": smoothness(kept["strength"].to_numpy(float), kept["score"].to_numpy(float)) if len(kept) else np.nan,
                "budget": float(np.mean([cutoffs[side] for side in curves])) if curves else np.nan, "reached": float(area["reached"]),
                "largest": float(mine["strength"].abs().max()),
            })  # fmt: skip
        return pd.DataFrame(lines)

    def _rising(self, name: str, points: pd.DataFrame, cutoffs: dict[int, float]) -> float:
        """One-sided p-value for a score that does not rise with the strength within the budget: a t-test of prompts' slopes."""
        inside = {0.0}
        for side, cutoff in cutoffs.items():
            half = points[points["strength"] * side > 0].sort_values("strength", key=abs)
            near = half[half["distance"] <= cutoff + 1e-9]
            inside |= set((near if len(near) else half[:1])["strength"])
        rows = self.table[(self.table["cell"] == name) & self.table["strength"].isin(inside)]
        each = rows.groupby(["prompt", "strength"])["score"].mean().unstack("strength").dropna()
        if len(each) < 2 or each.shape[1] < 2:
            return np.nan
        strength = each.columns.to_numpy(float) - each.columns.to_numpy(float).mean()
        slopes = each.to_numpy(float) @ strength
        if np.ptp(slopes) < 1e-12:  # all equal: no error to divide by
            return 0.0 if slopes[0] > 0 else 1.0
        return float(stats.ttest_1samp(slopes, 0.0, alternative="greater").pvalue)

    def _specificity(self, name: str, points: pd.DataFrame, cutoffs: dict[int, float]) -> float:
        groups = shipped_groups()
        group = self.settings["group"] or groups.get(self.concept, "")
        scored = [c.removeprefix("scored ") for c in self.table.columns if c.startswith("scored ")]
        others = [f"scored {c}" for c in scored if c not in self.ends and (not group or groups.get(c) != group)]
        means = self.table[self.table["cell"] == name].groupby("strength")[["score", *others]].mean()
        found = []
        for side, cutoff in cutoffs.items():
            inside = points[(points["strength"] * side > 0) & (points["distance"] <= cutoff + 1e-9)]
            if len(inside):
                move = means.loc[inside["strength"].max() if side > 0 else inside["strength"].min()] - means.loc[0.0]
                if others and abs(move["score"]) > 0:
                    found.append(float(move[others].abs().mean() / abs(move["score"])))
        return float(np.mean(found)) if found else np.nan

    def compare(self, one: str, other: str) -> Difference:
        """Compare the AUC of two cells on the same prompts; numbered cells count as their mean.

        The interval and p come from a paired t-test on the prompts' pseudo-values.

        Args:
            one: A cell; "caa random layers" stands for numbered cells (see `family`).
            other: The cell to compare it with, likewise.

        Returns:
            How much larger the AUC of `one` is than that of `other`, with its interval and p-value.

        Raises:
            ValueError: A name is not that of a cell.

        Example:
            >>> audioscope.datasets.steering("fast").compare("caa own", "caa random layers").more > 0
            True
        """
        mine, theirs = self.family(one), self.family(other)
        aucs = self._areas["auc"]
        more = float(aucs[mine].mean() - aucs[theirs].mean())
        each = (self._pseudo[mine].mean(axis=1) - self._pseudo[theirs].mean(axis=1)).to_numpy()
        return Difference(more, *interval(each, more), chance_of(each, more))

    def tracks(self, cell_name: str | None = None) -> list[Track]:
        """Load the clips of one cell for a slider.

        Args:
            cell_name: The cell; None means the first.

        Returns:
            One track per prompt and seed; empty if no clips were kept.

        Raises:
            UnknownName: The sweep has no such cell.
        """
        name = self.cells[0] if cell_name is None else cell_name
        if not among(name, self.cells):
            raise UnknownName(f"No cell {said(name)} in this sweep. There are: {', '.join(self.cells)}.")
        rows = self.table[(self.table["cell"] == name) & (self.table["clip"] != "")].sort_values("strength")
        tracks = []
        for (text, seed), part in rows.groupby(["text", "seed"], sort=False):
            clips = [Clip.load(self.folder / row.clip, prompt=str(text), seed=int(row.seed)) for row in part.itertuples()]
            tracks.append(Track(f"{text} (seed {seed})", part["strength"].tolist(), clips, captions(part)))
        return tracks

    def to_frame(self) -> pd.DataFrame:
        """Return the table of `summary`.

        Returns:
            One row per cell.
        """
        return self.summary()

    def chart(self) -> Any:
        """Chart the score over the distance, with one line per cell (`audioscope.steer.steering_chart`).

        Returns:
            An Altair chart.

        Raises:
            ValueError: The sweep has no clips yet.
        """
        return view("SteeringSweep.chart")(self.curves(), self.concept, str(self.settings["opposite"]))

    def explore(self, model: Any = None, vector: SteeringVector | None = None) -> Any:
        """Open a widget for JupyterLab: choose a way to steer and a prompt, move the slider, and see where you are on the curve.

        Args:
            model: Regenerates clips of `tiny` that were not kept, for the standard methods; other sweeps need clips=True. None
                means the shipped model, if the sweep was made with its weights.
            vector: The vector to regenerate them with; None means that in the sweep's folder, or the shipped vector.

        Returns:
            The widget.

        Raises:
            ValueError: The model has other weights than the sweep's.
        """
        return view("SteeringSweep.explore")(self, model, vector)

    def save(self, folder: str | Path) -> Path:
        """Write clips.parquet (the table), steering.json (the settings) and, to another folder, a copy of the audio.

        Args:
            folder: Where to write; it is made if it does not exist.

        Returns:
            The folder.

        Example:
            >>> folder = audioscope.datasets.steering("fast").save("fast")
            >>> sorted(file.name for file in folder.iterdir())
            ['clips.parquet', 'steering.json']
        """
        folder = as_path(folder)
        made_folder(folder)
        copy_clips(self.table, self.folder, folder)
        save_table(self.table, folder / "clips.parquet", self.settings, folder / "steering.json", FORMAT)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> SteeringSweep:
        """Read what `save` wrote.

        Args:
            folder: The folder of a sweep.

        Returns:
            The sweep.

        Raises:
            FileNotFoundError: The folder contains no sweep.
            ValueError: The files are damaged, or a newer audioscope wrote them.
        """
        folder = as_path(folder)
        if not (folder / "steering.json").exists():
            raise FileNotFoundError(
                f"{folder} does not contain a steering sweep: make one with audioscope.steer.steering_sweep or "
                "`audioscope steer`."
            )
        return cls(*load_table(folder / "clips.parquet", folder / "steering.json", FORMAT, NEEDED), folder)

    def __repr__(self) -> str:
        rows = self.summary()
        lines = [
            f"  {r.method} {r.sites}: AUC {r.auc:.3f} [{r.auc_low:.3f}, {r.auc_high:.3f}], Spearman {r.spearman:.2f}"
            for r in rows.itertuples()
        ]
        axis = f"{self.concept} / {self.settings['opposite']}" if self.settings["opposite"] else self.concept
        size = f"{rows['prompts'].iloc[0]} prompts x {rows['seeds'].iloc[0]} seeds"
        return "\n".join([f"SteeringSweep({axis}, {self.settings['model']}: {size})", *lines])


@dataclass(frozen=True)
class Track:
    """The clips of one slider, from the strongest steering away from the concept to the strongest toward it.

    Args:
        title: The text above the slider.
        strengths: Strictly increasing, at least 2.
        clips: One for each strength.
        captions: The text for each clip (its score, its distance).

    Raises:
        ValueError: The three have different lengths or fewer than 2 items, or the strengths do not increase.

    Example:
        >>> clip = model.generate("a song with violin", steps=1)
        >>> with model.steer(audioscope.datasets.vector("fast"), 2.0):
        ...     faster = model.generate("a song with violin", steps=1)
        >>> audioscope.steer.Track("a song with violin", [0.0, 2.0], [clip, faster], ["unsteered", "faster"]).strengths
        [0.0, 2.0]
    """

    title: str
    strengths: Sequence[float]
    clips: Sequence[Clip]
    captions: Sequence[str]

    def __post_init__(self) -> None:
        for name, value in (("strengths", self.strengths), ("clips", self.clips), ("captions", self.captions)):
            listed(name, value, "a list")
        all_of("clips", list(self.clips), Clip)
        for strength in self.strengths:
            real("strengths", strength)
        if not len(self.strengths) == len(self.clips) == len(self.captions) >= 2:
            raise ValueError(
                f"The track {self.title!r} has {len(self.strengths)} strengths, {len(self.clips)} clips and {len(self.captions)} "
                "captions, expected the same number of each, at least 2."
            )
        if list(self.strengths) != sorted(set(self.strengths)):
            raise ValueError(f"The strengths of {self.title!r} are {list(self.strengths)}, expected strictly increasing values.")
