"""Rebuild what depends on the tiny model's weights: its evaluation, the shipped atlas, its further maps and the table by step, SAEs, and
the steering of all axes with its vectors (`make results`).

When the weights changed, the impacts of the atlas before are kept in data/atlas/before.csv, to show what a training changes.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from audioscope.atlas.atlas import Atlas, score_column
from audioscope.atlas.bench import known_answers
from audioscope.atlas.localization import localize
from audioscope.atlas.screening import Screen, screen
from audioscope.atlas.steps import patch_steps
from audioscope.atlas.windows import WINDOWS
from audioscope.concepts import Concept, choose, more_pairs
from audioscope.datasets import INSIDE, MAPS
from audioscope.loading import load
from audioscope.model import Model
from audioscope.sae.comparison import wins
from audioscope.sae.pipeline import report_saes, train_saes
from audioscope.sae.sae import SAE
from audioscope.sae.tuning import steer_all_features
from audioscope.scoring import Musicnn, listener_scorer, on_recordings, outside, real_leads, trusted
from audioscope.scoring.outside_ears import measured_ceilings
from audioscope.scoring.scorers import TAGS
from audioscope.steer.caa import caa, steering_sites
from audioscope.steer.further import further_methods
from audioscope.steer.localizing import localization_benefits, published_benefits, steer_planted
from audioscope.steer.methods import SteeringMethod, prompt_switch_method, random_direction_method, vector_method
from audioscope.steer.results import SteeringSweep
from audioscope.steer.tables import axes, steer_all
from audioscope.steer.vectors import SteeringVector
from audioscope.store import write_whole
from audioscope.tiny.evaluate import as_table, evaluate

ROOT = Path(__file__).resolve().parent.parent
TEXT = ("text sufficient", "text necessary")
DEVELOPMENT = ("fast", "metal", "flute", "female")  # concepts that the screen was developed on


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--pairs", type=int, default=34)
    options.add_argument("--work", type=Path, default=ROOT / "runs", help="the sweep and the training pool lie here, resumed")
    options.add_argument("--skip-evaluation", action="store_true")
    options.add_argument("--workers", type=int, help="processes (default: as many as there are cores and memory, or GPUs, for)")
    chosen = options.parse_args()
    model, shared = load("tiny"), {"workers": chosen.workers}
    if not chosen.skip_evaluation:
        result = evaluate(model, work=chosen.work / "tiny", also=partial(outside, ceilings=measured_ceilings()), **shared)
        result |= {"real_leads": real_leads().round(4).to_dict("records"), "recordings": on_recordings().to_dict("records")}
        write_whole(ROOT / "data/tiny/evaluation.json", lambda path: path.write_text(json.dumps(result, indent=1) + "\n"))
        print(as_table(result))
    atlas = localize(model, pairs=chosen.pairs, out=chosen.work / f"atlas-{model.fingerprint}", **shared)
    shipped = ROOT / "data" / "atlas"
    earlier = Atlas.load(shipped)
    if earlier.settings["fingerprint"] != model.fingerprint:
        before = earlier.impacts("clipped")[["concept", "group", "layer", "impact", "defined"]].round(3)
        write_whole(shipped / "before.csv", lambda path: before.to_csv(path, index=False))
    print(Atlas.load(atlas.save(shipped, shipped=True)))
    for name in MAPS:
        changed: dict[str, Any] = {"patch": "output"} if name == "output" else {"when": name}
        changed = {"sites": INSIDE[name]} if name in INSIDE else changed
        found = localize(
            model,
            pairs=8 if name in INSIDE else 12,
            clips=False,
            out=chosen.work / f"map-{name}-{model.fingerprint}",
            **shared,
            **changed,
        )
        print((slim(found) if name in INSIDE else found).save(ROOT / "data" / "maps" / name, shipped=True))
    write_whole(ROOT / "data/results/screening.parquet", screening(model, chosen.work, **shared).to_parquet)
    # what an outside ear hears well enough in rendered music, it hears in the same swaps, and in the steering of the same axes
    known = [concept.name for concept in choose(None) if concept.name in trusted()]  # some labels, such as techno, have no pairs
    ear = Musicnn({concept: TAGS[concept] for concept in known})
    heard = {"also": [listener_scorer("judge"), ear], "clips": False, "out": chosen.work / f"map-outside-{model.fingerprint}"}
    print(localize(model, known, pairs=chosen.pairs, **heard, **shared).save(ROOT / "data" / "maps" / "outside", shipped=True))
    steer_all(model, ROOT / "data" / "results", chosen.work / f"outside-{model.fingerprint}", [axis for axis in axes() if axis in known],
              name="outside", also=[ear], **shared)  # fmt: skip
    steps = patch_steps(model, out=chosen.work / f"steps-{model.fingerprint}", **shared)
    steps = steps.round({name: 3 for name in steps if name.startswith("score")})
    write_whole(ROOT / "data" / "results" / "steps.parquet", steps.to_parquet)
    sweeps = chosen.work / f"steering-{model.fingerprint}"
    steering = steer_all(model, ROOT / "data" / "results", sweeps, **shared)
    for axis in axes():
        SteeringVector.load(sweeps / axis / "vector").save(ROOT / "data" / "results" / "vectors" / axis)
    # of the map's two strongest layers
    strongest = [f"transformer.transformer_blocks.{layer}.cross_attn" for layer in (0, 6)]
    # and of self-attention in the same blocks, where the sound speaks to itself, for the harder half of the comparison
    sites = [*strongest, *(path.replace("cross_attn", "self_attn") for path in strongest)]
    saes = ROOT / "data" / "tiny" / "sae"
    train_saes(model, sites, saes, chosen.work / f"sae-{model.fingerprint}", **shared)
    print(wins(report_saes(model, saes, sites, **shared)).to_string(index=False))
    steer_all_features(
        model,
        [SAE.from_pretrained(saes / site) for site in strongest],
        ROOT / "data" / "results",
        chosen.work / f"sae_steering-{model.fingerprint}",
        **shared,
    )
    steer_all(
        model,
        ROOT / "data" / "results",
        chosen.work / f"further-{model.fingerprint}",
        methods=lambda concept, folder: further_methods(model, concept, folder, **shared),
        name="further",
        **shared,
    )
    few = sorted(np.random.default_rng(25).choice(axes(), 6, replace=False), key=axes().index)
    steer_all(
        model, ROOT / "data" / "results", chosen.work / f"pairs-{model.fingerprint}", few,
        methods=lambda concept, folder: of_pairs(model, concept, folder, **shared), name="pairs", **shared,
    )  # fmt: skip
    benefits = [SteeringSweep.load(sweeps / axis) for axis in axes()]
    pays = pd.concat([localization_benefits(benefits, atlas), planted_benefits(model, atlas, chosen.work), published_benefits()])
    write_whole(ROOT / "data" / "results" / "localizing.parquet", pays.reset_index(drop=True).to_parquet)
    write_whole(ROOT / "data" / "results" / "known_answers.parquet", bench(model, atlas, chosen.work).to_parquet)
    print(steering[["concept", "method", "sites", "auc", "auc_low", "auc_high", "spearman", "steerable"]].to_string(index=False))


def of_pairs(model: Model, concept: Concept, folder: Path, **shared: Any) -> list[SteeringMethod]:
    """CAA at its own layers, from 20 to 800 pairs: those beyond the shipped ones are drawn from the same grammar."""
    many, own, methods = more_pairs(concept.name, 800), steering_sites(model, concept, "own"), list[SteeringMethod]()
    for count in (20, 50, 200, 800):
        vector = caa(model, many, own, count, file=folder / f"{count}-pairs", progress=False, **shared)
        methods.append(vector_method(vector, f"own, {count} pairs"))
    return [*methods, random_direction_method(vector, "own"), prompt_switch_method(model.sampling().steps)]


def bench(model: Model, atlas: Atlas, work: Path) -> pd.DataFrame:
    """Known answers: the six concepts that one layer moves most, each planted there; and with two layers that need or replace each other."""
    found, concepts = atlas.impacts().query("defined"), {concept.name: concept for concept in choose(None)}
    best = found.loc[found.groupby("concept")["impact"].idxmax()].nlargest(6, "impact")
    lines = [known_answers(model, {concepts[row.concept]: [int(row.layer)]}, out=work / f"known-{model.fingerprint}" / row.concept)
             for row in best.itertuples()]  # fmt: skip
    late = found[found["layer"] > 5]
    late = late.loc[late.groupby("concept")["impact"].idxmax()].nlargest(3, "impact")
    for needs in ("all", "any"):
        for row in late.itertuples():
            folder = work / f"known-{model.fingerprint}" / f"{row.concept}-{needs}"
            lines.append(
                known_answers(model, {concepts[row.concept]: [2, int(row.layer)]}, [4, 12], TEXT, needs=needs, out=folder)
            )
    return pd.concat(lines, ignore_index=True)


def planted_benefits(model: Model, atlas: Atlas, work: Path) -> pd.DataFrame:
    """What localizing brings on each axis when it is planted in its strongest layer, and in its two strongest."""
    found, lines = atlas.impacts("clipped").query("defined"), []
    for axis in axes():
        layers = found[found["concept"] == axis].nlargest(2, "impact")["layer"].tolist()
        for count in range(1, len(layers) + 1):
            folder = work / f"planted-{model.fingerprint}" / f"{axis}-{count}"
            lines.append(steer_planted(model, axis, sorted(layers[:count]), folder, seeds=1))
    return pd.concat(lines)


def slim(atlas: Atlas) -> Atlas:
    """A map of many sites, small enough to ship: scores to 2 decimals, those of second networks for a swap's own concept only."""
    table, own = atlas.table, atlas.table["scored"].astype(str) == atlas.table["concept"].astype(str)
    second = {score_column(name): table[score_column(name)].where(own).round(2) for name in atlas.scorers[1:]}
    return Atlas(table.assign(score=table["score"].round(2), **second), atlas.settings, atlas.folder)


def screening(model: Model, work: Path, **shared: Any) -> pd.DataFrame:
    """How well screens rank what patching finds, on concepts that were not used to develop them, and drawn by lot for what is slow."""
    concepts = [concept.name for concept in choose(None) if concept.name not in DEVELOPMENT]
    few = sorted(np.random.default_rng(24).choice(concepts, 6, replace=False), key=concepts.index)

    def out(name: str) -> Path:
        return work / f"{name}-{model.fingerprint}"

    def screened(name: str, names: list[str], **how: Any) -> Screen:
        return screen(model, names, 4, out=out(f"screen-{name}"), **how, **shared)

    quick = {
        kind: screened(f"quick-{kind}", concepts, sites=sites) for kind, sites in (("heads", "cross.heads"), ("layers", "cross"))
    }
    exact = {"heads": Atlas.load(out("map-heads")), "layers": Atlas.load(out("map-output"))}
    found = {("quick", kind): (each, [exact[kind]]) for kind, each in quick.items()}
    found["path", "heads"] = screened("path", few, mode="path"), [exact["heads"]]
    found["quick", "windows"] = (
        quick["layers"],
        [
            localize(model, few, 4, patch="output", when=when, also=(), clips=False, out=out(f"map-output-{when}"), **shared)
            for when in WINDOWS
        ],
    )
    lines = [
        each.compare(atlas).assign(mode=mode, of=kind, window=atlas.settings["when"] or "", generations=each.table["generations"].mean())
        for (mode, kind), (each, atlases) in found.items() for atlas in atlases
    ]  # fmt: skip
    return pd.concat(lines, ignore_index=True)


if __name__ == "__main__":
    main()
