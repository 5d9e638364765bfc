"""The claims of the prose, recomputed from the shipped tables: every result number of README and notebooks, by name.

In Markdown, a claim is written between two comments that the reader does not see, `<!--=name-->.25<!--/-->`;
`python tools/check_claims.py` compares the text between them with the value recomputed here, and `--write` fills it in.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy.stats import ttest_1samp

from audioscope import datasets
from audioscope.atlas.atlas import Atlas, Scale
from audioscope.atlas.published import published
from audioscope.atlas.robustness import CENSORED
from audioscope.atlas.steps import step_impacts
from audioscope.sae.comparison import wins
from audioscope.sae.features import Negatives
from audioscope.sae.pipeline import auroc_table
from audioscope.scoring.outside_ears import LEAST
from audioscope.stats import holm, mean_with_interval, rank_correlation
from audioscope.steer.cells import SHUFFLED_LABELS
from audioscope.steer.tables import counts, over_axes
from audioscope.store import data_folder
from audioscope.tiny.music import GROUPS

MARK = re.compile(r"<!--=([\w.-]+)-->(.*?)<!--/-->", re.S)
TABLES = ("atlas/*.parquet", "atlas/*.csv", "maps/*/*.parquet", "results/*.parquet", "published/*.csv", "tiny/sae/*/*.parquet")


def recompute_claims() -> dict[str, str]:
    """Every claim by name, as written in the prose, recomputed from the shipped tables."""
    return {
        **card_claims(),
        **atlas_claims(),
        **scale_claims(),
        **inside_claims(),
        **pointing_claims(),
        **outside_claims(),
        **step_claims(),
        **published_claims(),
        **steering_claims(),
        **reliability_claims(),
        **feature_claims(),
    }


def digests() -> dict[str, str]:
    """A digest of each shipped table's content, by its path in data/: a different value anywhere gives a different digest."""
    found = {}
    for pattern in TABLES:
        for file in sorted(data_folder().glob(pattern)):
            table = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file)
            plain = table.astype({name: str for name in table.select_dtypes(["category", "object", "string"]).columns})
            rows = pd.util.hash_pandas_object(plain, index=False).to_numpy()
            named = ",".join(plain.columns).encode()
            found[str(file.relative_to(data_folder()))] = hashlib.sha256(named + rows.tobytes()).hexdigest()[:16]
    return found


def marked(text: str) -> list[tuple[str, str]]:
    """The claims in a text, as (name, text between the comments)."""
    return MARK.findall(text)


def filled(text: str, values: dict[str, str]) -> str:
    """A text with each claim replaced by its recomputed value; unknown names are left unchanged."""
    return MARK.sub(lambda found: f"<!--={found[1]}-->{values.get(found[1], found[2])}<!--/-->", text)


def number(value: float, digits: int = 2) -> str:
    """A number as the prose writes it: ".25", "−.03", "1.40"."""
    text = f"{value:z.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 and digits else f"{value:z.{digits}f}"
    return text.replace("-", "−")


def with_interval(value: float, low: float, high: float, digits: int = 2) -> str:
    """A number with its interval, as the prose writes it: ".25 [.24, .26]"."""
    return f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]"


def listed(names: Iterable[object]) -> str:
    """ "a", "a and b", "a, b and c"; "none" for nothing."""
    words = [str(name) for name in names]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words) or "none"


def _layers(paths: Iterable[str]) -> list[int]:
    return [int(path.split(".")[2]) for path in paths]


@lru_cache(maxsize=1)
def _atlas() -> Atlas:
    return datasets.atlas()


@lru_cache(maxsize=1)
def _agreement() -> pd.DataFrame:
    return _atlas().agreement()


def atlas_claims() -> dict[str, str]:
    """What the shipped atlas shows on its default scale."""
    atlas = _atlas()
    means, impacts = atlas.layer_means().set_index("layer"), atlas.impacts()
    found = {
        "atlas.concepts": str(len(atlas.concepts)),
        "atlas.pairs": str(atlas.settings["pairs"]),
        "atlas.cells": str(len(impacts)),
    }
    functional = _layers(atlas.functional)
    found |= {
        "atlas.functional": listed(functional),
        "atlas.functional.count": str(len(functional)),
        "atlas.threshold": number(atlas.threshold),
    }
    top = means.loc[means["impact"].idxmax()]
    next_ = means["impact"].nlargest(2).index[1]
    found |= {
        "atlas.top": with_interval(top["impact"], top["low"], top["high"]),
        "atlas.top.all": f"[{number(top['all_low'])}, {number(top['all_high'])}]",
        "atlas.next": str(next_), "atlas.next.mean": number(means.loc[next_, "impact"]),
    }  # fmt: skip
    top_layer = int(means["impact"].idxmax())
    views: dict[str, tuple[Atlas, Scale]] = {
        f"{name}.{scale}": (atlas.heard_by(name), scale) for name in atlas.scorers for scale in ("raw", "clipped")
    }
    fragile = {
        name: view.functional_on(scale).fragility.set_index("layer").loc[top_layer] for name, (view, scale) in views.items()
    }
    shares = {name: row["share"] for name, row in fragile.items()}
    found |= {"atlas.top.share": _percent(shares["listener.raw"]), "atlas.top.share.least": _percent(min(shares.values())),
              "atlas.top.without": listed(fragile["listener.raw"]["without"])}  # fmt: skip
    by_group = impacts[(impacts["layer"] == top_layer) & impacts["defined"]].groupby("group")["impact"].mean()
    found |= {f"atlas.top.{group}": number(value) for group, value in by_group.items()}
    false = atlas.false_cells()
    found |= {"atlas.beyond": str(false["beyond"]), "atlas.false": f"{false['expected']:.0f}"}
    holds = _agreement()[_agreement()["holds"]]
    found["atlas.holds"] = str(len(holds))
    raw, undecided = (_agreement()[_agreement()[name]] for name in ("holds_raw", "undecided"))
    found |= {"atlas.raw": str(len(raw)), "atlas.undecided": str(len(undecided))}
    without = set(atlas.concepts) - set(holds["concept"])
    found["atlas.undecided.none"] = str(int(undecided["concept"].isin(without).sum()))
    for concept in atlas.concepts:
        found[f"atlas.raw.{concept}"] = listed(raw.loc[raw["concept"] == concept, "layer"])
        found[f"atlas.holds.{concept}"] = listed(holds.loc[holds["concept"] == concept, "layer"])
        found[f"atlas.own.{concept}"] = listed(_layers(atlas.own_layers(concept)))
    genres = {layer for concept in atlas.concepts if atlas.settings["groups"][concept]["group"] == "genre"
              for layer in holds.loc[holds["concept"] == concept, "layer"]}  # fmt: skip
    found["atlas.holds.genre"] = listed(sorted(genres))
    found["atlas.holds.none"] = listed(c for c in atlas.concepts if c not in set(holds["concept"]))
    found["atlas.holds.none.count"] = str(len(set(atlas.concepts) - set(holds["concept"])))
    ours = published("ace-step").concepts
    for name, (view, scale) in views.items():
        cells = view.impacts(scale)
        ten = cells[cells["concept"].isin(ours) & (cells["layer"] == top_layer)]["impact"]
        found |= {"atlas.ten.count": str(len(ten)), f"atlas.ten.{name}": number(float(ten.mean()))}
    return found


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def card_claims() -> dict[str, str]:
    """What the model card says about `tiny`, from data/tiny/evaluation.json: shares of correct verdicts."""
    found = json.loads((data_folder() / "tiny" / "evaluation.json").read_text())
    said = {
        f"tiny.real.{who}.{group}": f"{share:.3f}" for who, groups in found["real"].items() for group, share in groups.items()
    }
    for name, value in found["memorization"].items():
        said[f"tiny.memorization.{name}"] = f"{100 * value:.2f} %" if name.startswith("share") else number(value, 3)
    for name, value in found["sound"]["generated"].items():
        said[f"tiny.sound.{name}"] = (
            f"{100 * value:.4f} %" if name == "limited" else number(value, 1 if name.endswith("db") else 3)
        )
    said |= {f"tiny.generated.judge.{group}": f"{share:.3f}" for group, share in found["generated"]["judge"].items()}
    return said | {
        f"tiny.beyond.{i}.{group}": f"{share:.2f}"
        for i, row in enumerate(found["extrapolation"]) for group, share in row.items()
        if group not in ("change", "steps", "guidance")
    }  # fmt: skip


def inside_claims() -> dict[str, str]:
    """Which heads carry genre and drums, and how well screens rank what patching finds."""
    heads = datasets.maps()["heads"]
    impacts = heads.impacts().query("defined")
    wide = impacts.pivot(index="layer", columns="concept", values="impact")
    wide.index = wide.index.astype(str)
    genres = [name for name in GROUPS["genre"] if name in wide]
    carries = wide[["metal", "reggae"]].mean(axis=1).idxmax()
    rest = wide.loc[[name for name in wide.index if name.split(".")[0] == carries.split(".")[0] and name != carries], genres]
    found = {"heads.pairs": str(heads.settings["pairs"]), "heads.genre": carries, "heads.genre.rest": number(rest.max(axis=None))}
    for name in ("drums", "maracas", "bongos"):
        row = impacts[impacts["concept"] == name].nlargest(1, "impact").iloc[0]
        found |= {
            f"heads.{name}": str(row["layer"]),
            f"heads.{name}.{name}": with_interval(row["impact"], row["low"], row["high"]),
        }
    memory = datasets.maps()["memory"].impacts().query("defined")
    memory = memory[memory["layer"].astype(int) == 0].set_index("concept")
    for row in memory.loc[[*genres, "drums", "bongos", "maracas", "fast"]].itertuples():
        found[f"memory.0.{row.Index}"] = with_interval(row.impact, row.low, row.high)
    for name, atlas in {"memory": datasets.maps()["memory"], "atlas": datasets.atlas()}.items():
        (row,) = atlas.impacts().query("concept == 'fast' and layer == 1").itertuples()
        found[f"{name}.1.fast"] = with_interval(row.impact, row.low, row.high)
    both = heads.correlation(heads.heard_by("judge"))
    found["heads.judge.r"] = with_interval(both["pearson"], both["pearson_low"], both["pearson_high"])
    found["heads.judge.rho"] = with_interval(both["spearman"], both["spearman_low"], both["spearman_high"])
    found["heads.holds"] = str(int(heads.agreement()["holds"].sum()))
    sufficient_best: dict[str, str] = {}
    for kind, atlas in datasets.confirmed().items():
        cells = atlas.impacts()
        mine, others = (cells[(cells["layer"].astype(str) == carries) == same] for same in (True, False))
        for row in mine.itertuples():
            found[f"confirmed.{kind}.{row.concept}"] = with_interval(row.impact, row.low, row.high)
        found[f"confirmed.{kind}.rest"] = number(others.loc[others["concept"].isin(genres), "impact"].max())
        views = atlas.agreement()
        for name in atlas.concepts:
            heads_of = views.loc[(views["concept"] == name) & views["holds"], "layer"].astype(str)
            found[f"confirmed.{kind}.heads.{name}"] = listed(heads_of)
            best = cells[cells["concept"] == name].nlargest(1, "impact").iloc[0]
            at = sufficient_best.setdefault(name, best["layer"])  # where it is enough, also in the map of what is needed
            there = cells[(cells["concept"] == name) & (cells["layer"] == at)].iloc[0]
            found[f"confirmed.{kind}.there.{name}"] = with_interval(there["impact"], there["low"], there["high"])
            found[f"confirmed.{kind}.best.{name}"] = with_interval(best["impact"], best["low"], best["high"])
        views = views[views["layer"].astype(str) == carries]
        found[f"confirmed.{kind}.holds"] = listed(views.loc[views["holds"], "concept"])
        found[f"confirmed.{kind}.raw"] = listed(views.loc[views["holds_raw"], "concept"])
        found[f"confirmed.{kind}.pairs"] = str(atlas.settings["pairs"])
        jazz = cells[cells["concept"] == "jazz"]["impact"]
        found[f"confirmed.{kind}.jazz.sum"] = number(jazz.sum())
    (row,) = datasets.atlas().impacts().query("concept == 'jazz' and layer == 0").itertuples()
    found["atlas.0.jazz"] = with_interval(row.impact, row.low, row.high)
    for row in impacts[(impacts["layer"].astype(str) == carries) & impacts["concept"].isin(genres)].itertuples():
        found[f"heads.genre.{row.concept}"] = with_interval(row.impact, row.low, row.high)
    table = datasets.screening()
    for row in table[table["concept"] == "all"].itertuples():
        label = f"screen.{row.mode}.{row.of}" + (f".{row.window}" if row.window else "")
        found |= {label: number(row.spearman), f"{label}.cells": str(row.cells), f"{label}.generations": f"{row.generations:.0f}"}
    single = table[table["concept"] != "all"]
    for (mode, kind), rows in single[single["window"] == ""].groupby(["mode", "of"], observed=True):
        there = rows[rows["cells"] > 0].set_index("concept")
        label, least, most = f"screen.{mode}.{kind}", there["spearman"].idxmin(), there["spearman"].idxmax()
        found |= {
            f"{label}.concepts": str(len(there)),
            f"{label}.undefined": listed(rows.loc[rows["cells"] == 0, "concept"]),
            f"{label}.least": f"{number(there['spearman'][least])} ({least})",
            f"{label}.most": f"{number(there['spearman'][most])} ({most})",
            f"{label}.missing": listed(there.index[there["missed"] != ""]),
        }
        large, has = there["residual"].abs() > 0.5, there["own"] > 0  # a concept without own layers has none to miss
        for name, some in {"large": large & has, "small": ~large & has}.items():
            found |= {
                f"{label}.{name}": str(int(some.sum())),
                f"{label}.{name}.missing": str(int((there.loc[some, "missed"] != "").sum())),
            }
    return found


def pointing_claims() -> dict[str, str]:
    """How well a word's attention tells when its part sounds: averaged, and at the cell that half of the songs choose, on the other half."""
    points = datasets.pointing()
    chooses, by = points["song"] % 4 < 2, ["part", "layer", "step"]
    chosen = points[chooses].groupby(by, observed=True)["auroc"].mean().groupby("part", observed=True).idxmax()
    found = {"pointing.songs": str(points["song"].nunique()), "pointing.cells": str(len(points.groupby(["layer", "step"])))}
    for part, (_, layer, step) in chosen.items():
        mine = points[points["part"] == part]
        best = mine[~chooses[mine.index] & (mine["layer"] == layer) & (mine["step"] == step)]
        found |= {f"pointing.{part}.layer": str(layer), f"pointing.{part}.step": str(step)}
        values = {
            "own": best["auroc"],
            "other": best["other"],
            "more": best["auroc"] - best["other"],
            "averaged": mine.groupby("song")["averaged"].first(),
            "averaged.other": mine.groupby("song")["averaged_other"].first(),
            "everywhere": (mine["auroc"] - mine["other"]).groupby(mine["song"]).mean(),
        }
        values["averaged.more"] = values["averaged"] - values["averaged.other"]
        found |= {f"pointing.{part}.{name}": with_interval(*mean_with_interval(each)) for name, each in values.items()}
        cells = mine.assign(more=mine["auroc"] - mine["other"]).groupby(["layer", "step"])["more"]
        sure = holm([ttest_1samp(songs, 0.0).pvalue for _, songs in cells]) < 0.05
        for name, side in {"above": cells.mean() > 0, "below": cells.mean() < 0}.items():
            found[f"pointing.{part}.{name}"] = str(int((sure & side.to_numpy()).sum()))
        alone = mine.groupby(["layer", "step"])["auroc"]
        off = holm([ttest_1samp(songs, 0.5).pvalue for _, songs in alone]) < 0.05
        for name, side in {"toward": alone.mean() > 0.5, "away": alone.mean() < 0.5}.items():
            found[f"pointing.{part}.{name}"] = str(int((off & side.to_numpy()).sum()))
        found[f"pointing.{part}.halves"] = _percent(_halves(mine))
    return found


def _halves(points: pd.DataFrame, draws: int = 200) -> float:
    """In which share of random halvings the cell that one half of the songs choose points better than the other word, on the other half."""
    own, other = (points.pivot(index="song", columns=["layer", "step"], values=name).to_numpy() for name in ("auroc", "other"))
    rng, sure = np.random.default_rng(0), 0
    for _ in range(draws):
        order = rng.permutation(len(own))
        half, rest = order[: len(own) // 2], order[len(own) // 2 :]
        cell = own[half].mean(0).argmax()
        sure += mean_with_interval(own[rest, cell] - other[rest, cell])[1] > 0
    return sure / draws


def outside_claims() -> dict[str, str]:
    """What ears from outside hear in generated clips, in the same swaps and in steered clips, and the judge in real recordings."""
    told = json.loads((data_folder() / "tiny" / "evaluation.json").read_text())
    found = {}
    for row in told["outside"]:
        label = f"outside.{row['ear']}.{row['concept'] or row['group']}" + (".octave" if "octave" in row["figure"] else "")
        found[label], found[f"{label}.ceiling"] = with_interval(row["value"], row["low"], row["high"]), number(row["ceiling"])
    for row in json.loads((data_folder() / "tiny" / "left_out.json").read_text()):
        trained = "" if row["trained"] == "all" else ".left_out"
        found[f"leads.{row['ear']}.{row['bank']}.{row['songs']}{trained}"] = with_interval(row["value"], row["low"], row["high"])
    for row in told["real_leads"]:
        label = f"real.{row['ear']}" + (f".{row['concept']}" if row["concept"] else "")
        found[f"{label}.rendered"] = with_interval(row["value"], row["low"], row["high"])
        found |= {
            f"{label}.{kind}": with_interval(row[kind], row[f"{kind}_low"], row[f"{kind}_high"]) for kind in ("few", "real")
        }
    atlas = datasets.outside()
    ear, agreement = atlas.heard_by("musicnn"), atlas.agreement()
    for name, other in {"listener": atlas, "judge": atlas.heard_by("judge")}.items():
        both = other.correlation(ear)
        found[f"outside.{name}.r"] = with_interval(both["pearson"], both["pearson_low"], both["pearson_high"])
        found[f"outside.{name}.rho"] = with_interval(both["spearman"], both["spearman_low"], both["spearman_high"])
        found[f"outside.{name}.cells"] = str(int(both["cells"]))
    cells = [each.impacts().query("defined").set_index(["concept", "layer"])["impact"] for each in (atlas, ear)]
    wide = pd.concat(cells, axis=1, keys=["listener", "ear"]).dropna()
    found["outside.listener.without"] = number(wide.drop(wide["listener"].nlargest(3).index).corr().iloc[0, 1])
    holds = agreement[agreement["holds"]]
    found |= {
        "outside.least": number(LEAST),
        "outside.concepts": listed(atlas.concepts),
        "outside.cells": str(len(agreement)),
        "outside.holds": str(len(holds)),
    }
    for concept in atlas.concepts:
        found[f"outside.{concept}.holds"] = listed(holds.loc[holds["concept"] == concept, "layer"])
    unsure = (agreement[["p listener, raw", "p judge, raw"]] > 0.05).all(axis=1)
    alone = agreement[unsure & (agreement["p musicnn, raw"] <= 0.05)]
    found["outside.alone"] = listed(
        [f"{name} at layers {listed(rows['layer'])}" for name, rows in alone.groupby("concept", sort=False)]
    )
    found["outside.alone.most"] = number(alone["impact musicnn, raw"].max())
    found["outside.alone.networks"] = number(alone[["impact listener, raw", "impact judge, raw"]].abs().max(axis=None))
    metal = [row for row in told["recordings"] if row["label"] == "metal"]
    for name in ("judge", "musicnn"):
        found[f"recordings.metal.{name}"] = f"{sum(row[name] == 'metal' for row in metal)} of {len(metal)}"
        found[f"recordings.metal.{name}.else"] = listed([row[name] for row in metal if row[name] != "metal"])
    pairs, views = (pd.read_parquet(data_folder() / "results" / f"steering_{name}.parquet") for name in ("pairs", "views"))
    heard = views[views["view"] == "musicnn"]
    found["outside.axes"] = listed(heard["concept"].unique())
    for view, table in {"": pairs[pairs["concept"].isin(heard["concept"])], ".musicnn": heard}.items():
        for row in table.itertuples():
            label = f"outside.{row.concept}.{_way(row.one)}-{_way(row.other)}{view}".replace(" ", "_")
            found[label] = with_interval(row.more, row.low, row.high)
    return found


def scale_claims() -> dict[str, str]:
    """What changes with the scale and with the network that scores the clips."""
    atlas, judge = _atlas(), _atlas().heard_by("judge")
    found = {}
    for name, both in {
        "judge": atlas.correlation(judge), "clipped": atlas.correlation(atlas, "raw", "clipped"),
        "judge.clipped": atlas.correlation(judge, "clipped"),
    }.items():  # fmt: skip
        found[f"scale.{name}.r"] = with_interval(both["pearson"], both["pearson_low"], both["pearson_high"])
        found[f"scale.{name}.rho"] = with_interval(both["spearman"], both["spearman_low"], both["spearman_high"])
    clipped = atlas.impacts("clipped")
    found["scale.censored"] = str(int((clipped["censored"] > CENSORED).sum()))
    fragile = atlas.functional_on("clipped").fragility.query("layer == 0").iloc[0]
    alone = [name for name in fragile["without"] if not name.startswith("all of ")]
    found |= {
        "scale.clipped.share": _percent(fragile["share"]),
        "scale.clipped.without": listed(alone),
        "scale.clipped.without.count": str(len(alone)),
    }
    groups = {name: metadata["group"] for name, metadata in atlas.settings["groups"].items()}
    scales: tuple[Scale, ...] = ("raw", "clipped")
    least = np.inf  # over all views
    for who, view in (("listener", atlas), ("judge", judge)):
        for scale in scales:
            sums = view.additivity(scale).set_index("concept")
            for concept, row in sums.iterrows():
                found[f"sum.{who}.{scale}.{concept}"] = with_interval(row["sum_of_single"], row["low"], row["high"])
            rest = sums.loc[[c for c in sums.index if groups[str(c)] != "percussion"], "sum_of_single"]
            found[f"sum.{who}.{scale}.least"], found[f"sum.{who}.{scale}.most"] = number(rest.min()), number(rest.max())
            beats = sums.loc[[c for c in sums.index if groups[str(c)] == "percussion"], "sum_of_single"]
            least = min(least, float(beats.min()))
    found["sum.percussion"] = number(least)
    before = pd.read_csv(data_folder() / "atlas" / "before.csv")
    both_maps = clipped.merge(before[before["defined"]], on=["concept", "layer", "group"], suffixes=("", "_before"))
    pair = both_maps[["impact", "impact_before"]]
    small = pair[pair.abs().max(axis=1) < 0.2]
    found |= {
        "before.r": number(pair.corr().iloc[0, 1]), "before.rho": number(pair.corr("spearman").iloc[0, 1]),
        "before.small": number(small.corr().iloc[0, 1]), "before.small.count": str(len(small)),
    }  # fmt: skip
    return found


def step_claims() -> dict[str, str]:
    """When the text acts: the mean impact of all layers together in one step, by step number."""
    table = datasets.steps()
    found: dict[str, str] = {}
    seen = {
        "": step_impacts(table),
        ".clipped": step_impacts(table, "clipped"),
        ".judge": step_impacts(table, score="score of judge"),
        ".judge.clipped": step_impacts(table, "clipped", "score of judge"),
    }
    for view, rows in seen.items():
        means = rows[rows["concept"] == "mean"].set_index("step")
        top = int(means["impact"].idxmax())
        found |= {f"step{view}.top": str(top), f"step{view}.top.mean": with_interval(*means.loc[top, ["impact", "low", "high"]])}
        found[f"step{view}.sum"] = number(float(means["impact"].sum()))
        for step, row in means.iterrows():
            found[f"step{view}.{step}"] = with_interval(row["impact"], row["low"], row["high"])
            found[f"step{view}.{step}.concepts"] = f"[{number(row['all_low'])}, {number(row['all_high'])}]"
    return found


def published_claims() -> dict[str, str]:
    """Published results of other models, next to those of tiny."""
    found = {}
    for name in ("ace-step", "stable-audio-open", "audioldm2-large", "stable-audio-3"):
        atlas = published(name)
        means = atlas.layer_means()
        found[f"published.{name}.functional"] = listed(means.loc[means["functional"], "layer"])
        mine = _atlas().compare(atlas).iloc[0]
        found[f"published.{name}.overlap"] = number(float(np.nan_to_num(mine["overlap"])))
        found[f"published.{name}.rank"] = number(float(mine["rank_correlation"]))
    return found


def steering_claims() -> dict[str, str]:
    """Which axes each method steers, its areas, and each comparison of two methods over all axes, also by another scale, price or
    network."""
    folder, concepts = data_folder() / "results", datasets.concepts()
    names = datasets.steering_table()["concept"].unique().tolist()
    ends = {axis: [axis, *([concepts[axis].opposite] if concepts[axis].opposite else [])] for axis in names}
    found = {
        "steer.axes": str(len(names)),
        "steer.stand_in": listed(axis for axis in names if not any(map(_atlas().own_layers, ends[axis]))),
    }
    for name in ("steering", "sae_steering"):
        table = datasets.steering_table(name)
        for row in counts(table).itertuples():
            label = f"steers.{_way(row.cell)}".replace(" ", "_")
            found |= {
                label: str(row.steers),
                f"{label}.interval": f"[{number(row.low, 1)}, {number(row.high, 1)}]",
                f"{label}.which": listed(row.which),
            }
        for cell, rows in table.groupby(table["method"] + " " + table["sites"]):
            label = f"area.{_way(str(cell))}".replace(" ", "_")
            found |= {label: number(rows["auc"].mean()), f"{label}.repriced": number(rows["auc_repriced"].mean()),
                      f"{label}.specificity": number(rows["specificity"].median())}  # fmt: skip
        seen = {"": pd.read_parquet(folder / f"{name}_pairs.parquet")}
        views = pd.read_parquet(folder / f"{name}_views.parquet").query("view != 'musicnn'")  # of few axes: see outside_claims
        seen |= {f".{view}": part for view, part in views.groupby("view")}
        for view, pairs in seen.items():
            for one, other in dict.fromkeys(zip(pairs["one"], pairs["other"], strict=True)):
                both = over_axes(pairs, one, other)
                label = f"steer.{_way(one)}-{_way(other)}{view}".replace(" ", "_")
                found |= {f"{label}.{count}": str(both[count]) for count in ("better", "worse", "tied", "ups", "downs")}
                found[f"{label}.mean"] = with_interval(both["mean_difference"], both["low"], both["high"])
                found |= {f"{label}.better_on": listed(both["better_on"]), f"{label}.worse_on": listed(both["worse_on"])}
                found |= {
                    f"{label}.median": number(both["median"]),
                    f"{label}.rank_p": number(both["rank_p"]),
                    f"{label}.without": both["without"],
                    f"{label}.rest": with_interval(both["mean_without"], both["low_without"], both["high_without"]),
                }
                every = pairs[(pairs["one"] == one) & (pairs["other"] == other)]["more"]
                found[f"{label}.all_axes"] = with_interval(*mean_with_interval(every))
    return {**found, **_control_claims(), **_choice_claims()}


def reliability_claims() -> dict[str, str]:
    """Whether vectors whose halves agree steer better: the rank correlation over axes of the cosine of halves and the gain at all layers."""
    gains = datasets.steering_table().query("method == 'caa' and sites == 'all'").set_index("concept")["auc"]
    halves = {axis: datasets.vector(str(axis)).reliability or float("nan") for axis in gains.index}
    least, most = (pick(halves, key=lambda axis: halves[axis]) for pick in (min, max))
    found = {"reliability.rho": with_interval(*rank_correlation(list(halves.values()), gains.to_numpy()))}
    for name, axis in {"least": least, "most": most}.items():
        found |= {f"reliability.{name}": str(axis), f"reliability.{name}.halves": number(halves[axis])}
    return found


def _control_claims() -> dict[str, str]:
    """How much of the true vector is left in that of shuffled labels, where it acts, and whether that determines its effect."""
    folder = data_folder() / "results"
    alike, settings = (
        pd.read_parquet(folder / "steering_shuffled.parquet"),
        json.loads((folder / "steering_settings.json").read_text()),
    )
    cosines, shares = [], []
    for concept, rows in datasets.steering_table().groupby("concept", sort=False):
        at = settings[concept]["methods"][str(SHUFFLED_LABELS)]["at"]
        mine = alike[(alike["concept"] == concept) & alike["site"].isin(at)]
        cosines.append(mine["cosine"].mean())
        shares.append(rows.loc[rows["method"] == SHUFFLED_LABELS.method, "share"].item())
    least, most = min(cosines), max(cosines)
    rank = pd.Series(cosines).corr(pd.Series(shares), "spearman")
    passed = next(row.which for row in counts(datasets.steering_table()).itertuples() if row.cell == str(SHUFFLED_LABELS))
    names = datasets.steering_table()["concept"].unique().tolist()
    odd = min(passed, key=lambda name: cosines[names.index(name)])
    return {
        "shuffled.odd": odd, "shuffled.odd.cosine": number(cosines[names.index(odd)]),
        "shuffled.odd.share": number(shares[names.index(odd)]), "shuffled.least": number(least), "shuffled.most": number(most),
        "shuffled.median": number(float(np.median(np.abs(cosines)))),
        "shuffled.rank": number(float(rank)),
    }  # fmt: skip


def _choice_claims() -> dict[str, str]:
    """What the selection split chose for features and for CAA."""
    table = pd.read_parquet(data_folder() / "results" / "sae_steering_choices.parquet")
    chosen = table[table["chosen"]]
    found: dict[str, str] = {}
    for method, rows in chosen.groupby("method"):
        for choice, count in rows["choice"].value_counts().items():
            found[f"choice.{method}.{str(choice).replace(' ', '_').replace('+', '_')}"] = str(count)
    features, caa = (chosen[chosen["method"] == method] for method in ("sae", "caa"))
    return found | {
        "choice.sae.few": str(int((features["features"] <= 5).sum())),
        "choice.sae.twenty": str(int((features["features"] == 20).sum())),
        "choice.sae.weighted": str(int(features["weighted"].astype(bool).sum())),
        "choice.caa.natural": str(int((caa["length"] != "unit").sum())),
        "choice.caa.one_layer": str(int(caa["layers"].map(len).eq(1).sum())),
    }  # fmt: skip


def _way(cell: str) -> str:
    """A cell's name in that of a claim: "caa own" is own, "random direction own" is random direction, "caa tuned" stays."""
    if cell.endswith("tuned"):
        return cell
    if cell.startswith("caa "):
        return cell.removeprefix("caa ").replace(",", "")
    return cell.removesuffix(" own").removesuffix(" all")


def feature_claims() -> dict[str, str]:
    """The evaluation of each shipped SAE, and its best features next to neurons, probes and an untrained SAE."""
    saes = {path: datasets.sae(path) for path in datasets.saes()}
    found = {}
    for path, sae in saes.items():
        report, label = sae.report, f"sae.{_short(path)}"
        for name in ("fvu_per_level", "topk_pca_fvu", "tokens_fvu"):
            least, most = (round(100 * each(report[name])) for each in (min, max))
            found[f"{label}.{name}"] = f"{least} %" if least == most else f"{least} to {most} %"
        ahead = [1 - mine / bar for mine, bar in zip(report["fvu_per_level"], report["tokens_fvu"], strict=True)]
        found |= {
            f"{label}.ahead.least": _percent(min(ahead)).replace("-", "−"),
            f"{label}.ahead.most": _percent(max(ahead)).replace("-", "−"),
        }
        found[f"{label}.passes"] = "passes" if report["passes"] else "fails"
        found[f"{label}.failed"] = str(len(sae.failed(report["sigmas"])))
        found[f"{label}.dead"] = f"{100 * report['dead_share']:.1f} %"
    contrasts: dict[str, Negatives] = {"feature": "all", "feature.counterfactual": "counterfactual"}
    for start, row in [
        (start, row) for start, negatives in contrasts.items() for row in wins(auroc_table(saes, negatives)).itertuples()
    ]:
        label = f"{start}.{_short(row.site)}.{row.other.replace(' ', '_')}"
        found |= {
            f"{label}.better": str(row.better),
            f"{label}.worse": str(row.worse),
            f"{label}.ups": str(row.ups),
            f"{label}.downs": str(row.downs),
        }
        found[f"{label}.mean"] = with_interval(row.mean, row.low, row.high)
    return found


def _short(path: str) -> str:
    """The site of a block in the name of a claim: "0.cross"."""
    _, _, layer, kind = path.split(".")
    return f"{layer}.{kind.removesuffix('_attn')}"
