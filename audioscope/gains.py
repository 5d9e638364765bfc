"""What a finished steering sweep says: what each way to steer gains, what it costs, and how sure that is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from audioscope.audio import Clip
from audioscope.concepts import shipped_groups
from audioscope.curves import interval, pseudo_values, smoothness, steering_auc, within
from audioscope.errors import UnknownName
from audioscope.paths import write_whole
from audioscope.slider import Track

if TYPE_CHECKING:
    from audioscope.vectors import SteeringVector

REWRITTEN = "pci all"  # the cell whose largest distance is everyone's budget: the prompt rewritten


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
    the scorer; with an opposite, half the difference of both), lpaps (distance from the unsteered clip), chroma and beat
    (likeness to it, 1 is equal), tempo in BPM and the other measures, level, silent, clipped, one "scored ..." column for every
    concept of the scorer, and the clip's file. folder: where the clips lie.
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

    def _aucs(self, table: pd.DataFrame) -> pd.DataFrame:
        return steering_auc(self.points(table).assign(concept=self.concept), self._reference).set_index("cell")

    def summary(self) -> pd.DataFrame:
        """One row per cell: the AUC with its interval, and how steady, smooth, specific and harmful the steering is.

        spearman: rank correlation of strength and mean score, within the budget and to its border. gain: of the score at the
        border, mean of both sides. specificity: mean movement of unrelated concepts per unit of movement of this one, at the
        largest strength within the budget (0 is perfect). budget: the distance that rewriting the prompt takes, mean of both
        sides. reached: the share of it that the strengths covered. beyond_random: whether the AUC lies above the
        interval of the random direction's (or random features'), and the interval of their difference on the same prompts above 0. steerable: spearman
        at least .9, and beyond_random.
        """
        aucs, points = self._areas, self.points()
        chance = next((name for name in self.cells if name.startswith("random ")), None)
        bounds = {name: interval(self._pseudo[name].to_numpy(), float(aucs.loc[name, "auc"])) for name in self.cells}
        named = self.table.drop_duplicates("cell").set_index("cell")
        units = self.table[["prompt", "seed"]].drop_duplicates()
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
            beyond = (
                bool(area["auc"] > bounds[chance][1] and self.compare(name, chance)[1] > 0) if chance and name != chance else None
            )
            lines.append({
                "concept": self.concept, "method": named.loc[name, "method"], "sites": named.loc[name, "sites"],
                "auc": float(area["auc"]), "auc_low": low, "auc_high": high, "spearman": rank,
                "prompts": units["prompt"].nunique(), "seeds": len(units) // units["prompt"].nunique(),
                "gain": float(np.mean(gains)) if gains else np.nan, "specificity": self._specificity(name, mine, cutoffs),
                "smoothness": smoothness(kept["alpha"].to_numpy(float), kept["score"].to_numpy(float)) if len(kept) else np.nan,
                "budget": float(np.mean([cutoffs[side] for side in curves])) if curves else np.nan, "reached": float(area["reached"]),
                "largest": float(mine["alpha"].abs().max()), "beyond_random": beyond,
                "steerable": bool(beyond and rank >= 0.9) if beyond is not None else None,
            })  # fmt: skip
        return pd.DataFrame(lines)

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

    def compare(self, one: str, other: str) -> tuple[float, float, float]:
        """How much larger the AUC of one cell is than another's, on the same prompts: value, and its 95 % interval."""
        for name in (one, other):
            if name not in self.cells:
                raise ValueError(f"No cell {name!r} in this sweep. There are: {', '.join(self.cells)}.")
        aucs = self._areas["auc"]
        more = float(aucs[one] - aucs[other])
        return more, *interval((self._pseudo[one] - self._pseudo[other]).to_numpy(), more)

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
