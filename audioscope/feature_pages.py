"""Feature pages: for each feature of an SAE the clips in which it fires, and when; what it says; and how it sounds turned down or up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from audioscope.audio import Clip
from audioscope.edits import Edit, SAEEdit
from audioscope.features import settings_like
from audioscope.model import BATCH, Model
from audioscope.page import data_uri, framed, page
from audioscope.paths import write_whole
from audioscope.sae import SAE
from audioscope.streams import held_out_prompts
from audioscope.tracing import Read, Row

POOL = 96  # prompts whose clips are searched
CLIPS = 6  # shown for a feature
TURNS = (("turned down by half", "scale", 0.5), ("off", "ablate", None), ("turned up three times", "scale", 3.0))

STYLE = """
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: 8px 22px; margin-top: 18px; }
.clips.four { grid-template-columns: repeat(auto-fill, minmax(min(100%, 230px), 1fr)); }
.clips figure { margin: 0 0 16px; display: grid; grid-row: span 4; grid-template-rows: subgrid; }
.clips p { margin: 0; font-size: 14px; line-height: 1.45; overflow-wrap: anywhere; }
.plot { position: relative; height: 110px; border-radius: 6px; overflow: hidden; cursor: pointer; background: #04050f; }
.plot img { width: 100%; height: 100%; object-fit: fill; display: block; }
.plot svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.plot .area { fill: rgb(255 255 255 / .28); stroke: #fff; stroke-width: 1.5; vector-effect: non-scaling-stroke; }
.plot i { position: absolute; top: 0; bottom: 0; width: 2px; background: #fff; left: 0; opacity: 0; }
button { font: inherit; font-size: 14px; font-weight: 600; color: var(--accent); background: none; border: 1px solid var(--line); border-radius: 8px; padding: 5px 12px; cursor: pointer; width: fit-content; }
a { color: var(--accent); }
input[type=search] { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 9px 14px; width: min(100%, 420px); }
td.text { text-align: left; white-space: normal; min-width: 22ch; }
"""

FEATURE = """<header>
{% if linked %}<p class="quiet"><a href="index.html">All features</a></p>{% endif %}
<h1>{{ title }}</h1>
<p>{{ lead }}</p>
<ul class="settings"><li>site <code>{{ site }}</code></li><li>active at <b>{{ '%.2f' % (100 * density) }} %</b> of held-out tokens</li></ul>
</header>
{% macro plot(clip) %}<figure>
<p><b>{{ clip.title }}</b> {{ clip.text }}</p>
<div class="plot"><img alt="Mel spectrogram, with the feature's activation as an area: {{ clip.said }}" src="{{ clip.picture }}">
<svg viewBox="0 0 {{ clip.width }} 100" preserveAspectRatio="none" aria-hidden="true"><polygon class="area" points="{{ clip.points }}"/></svg><i></i></div>
<audio controls preload="metadata" aria-label="Play: {{ clip.title }} {{ clip.text }}" src="{{ clip.sound }}"></audio>
<div>{% if clip.peak is not none %}<button type="button" data-from="{{ clip.peak }}">Play from its peak, {{ '%.1f' % clip.peak }} s</button> {% endif %}<span class="quiet">{{ clip.said }}</span></div>
</figure>{% endmacro %}
<section aria-labelledby="fires"><h2 id="fires">Where it fires</h2>
<p>The clips of {{ pool }} held-out prompts in which it is strongest, averaged over noise levels. The white area is its activation over time, on one scale for all clips here; click in a picture to play from there.</p>
<div class="clips">{% for clip in top %}{{ plot(clip) }}{% endfor %}</div></section>
<section aria-labelledby="turned"><h2 id="turned">Turned down, off and up</h2>
<p>The same prompt and noise each time; only this feature is changed, at every step and time token, and what the SAE does not say is kept. {{ changed }}</p>
<div class="clips four">{% for clip in turned %}{{ plot(clip) }}{% endfor %}</div></section>
<section aria-labelledby="says"><h2 id="says">What it says</h2>
{% if concepts %}<p class="quiet">AUROC on the selection split, of the activation averaged over time and noise levels: 1 tells every prompt with the concept from its counterfactual, .5 is chance.</p>
<div class="scroll"><table><thead><tr><th scope="col">concept</th><th scope="col">AUROC</th><th scope="col">with</th><th scope="col">without</th></tr></thead>
<tbody>{% for row in concepts %}<tr><th scope="row">{{ row.concept }}</th><td>{{ '%.3f' % row.auroc }}</td><td>{{ '%.3f' % row.mean_with }}</td><td>{{ '%.3f' % row.mean_without }}</td></tr>{% endfor %}</tbody></table></div>
{% else %}<p>Its scores for concepts were not measured, or it was never active for their prompts.</p>{% endif %}</section>
<section aria-labelledby="near"><h2 id="near">Nearest directions</h2>
<p class="quiet">Features whose decoder directions are most alike, by cosine.</p>
<ul>{% for row in near %}<li>{% if row.page %}<a href="{{ row.page }}">Feature {{ row.feature }}</a>{% else %}Feature {{ row.feature }}{% endif %}, {{ '%.2f' % row.cosine }}{% if row.label %}: {{ row.label }}{% endif %}</li>{% endfor %}</ul></section>
"""

INDEX = """<header><h1>{{ title }}</h1>
<p>{{ lead }}</p>
<ul class="settings"><li>site <code>{{ site }}</code></li><li><b>{{ alive }}</b> of {{ total }} features fire in the searched clips</li></ul></header>
<p><label for="search">Search concepts, prompts and numbers</label><br><input type="search" id="search" autocomplete="off"></p>
<p class="quiet" role="status" id="count"></p>
<div class="card scroll"><table><thead><tr><th scope="col">feature</th><th scope="col">says best</th><th scope="col">AUROC</th><th scope="col">active, %</th><th scope="col">strongest in</th></tr></thead>
<tbody id="rows">{% for row in rows %}<tr><th scope="row">{% if row.page %}<a href="{{ row.page }}">{{ row.feature }}</a>{% else %}{{ row.feature }}{% endif %}</th><td>{{ row.concept }}</td><td>{{ row.auroc }}</td><td>{{ '%.2f' % (100 * row.density) }}</td><td class="text">{{ row.text }}</td></tr>
{% endfor %}</tbody></table></div>
"""


@dataclass(frozen=True, eq=False)
class FeatureClips:
    """Clips and when the features of an SAE fire in them: clips [n], active float32 [n, time tokens, d_sae], mean over levels.

    The tokens cover the clips from begin to end. settings: steps, guidance and seconds of the generations.
    """

    clips: list[Clip]
    active: Tensor
    settings: dict[str, Any]

    def top(self, feature: int, count: int = CLIPS) -> list[int]:
        """The numbers of the clips in which a feature is strongest, on average over time; those in which it never fires are left out."""
        strength = self.active[:, :, feature].mean(1)
        return [int(i) for i in strength.argsort(descending=True)[:count] if strength[i] > 0]


@torch.no_grad()
def feature_clips(
    sae: SAE,
    model: Model,
    prompts: Sequence[str] | None = None,
    *,
    seeds: Sequence[int] | None = None,
    edits: Edit | Sequence[Edit] = (),
    batch: int = BATCH,
    progress: bool = True,
    **settings: Any,
) -> FeatureClips:
    """Generate prompts and see where the features of an SAE fire. prompts: None is 96 of the shipped concepts' test split.

    seeds: one for each prompt; None counts them. edits: act on every prompt; features are read after them. settings: steps, guidance,
    seconds; those of the SAE's training if not given.
    """
    sae.check(model.name, model.fingerprint, model.sites.select([sae.facts.get("site", "none")]))
    prompts = held_out_prompts(POOL) if prompts is None else prompts
    seeds = range(len(prompts)) if seeds is None else seeds
    run_settings = settings_like(model, [sae], settings)
    path = str(sae.facts["site"])
    chosen = (edits,) if isinstance(edits, Edit) else tuple(edits)
    rows = [Row(prompt, seed, chosen) for prompt, seed in zip(prompts, seeds, strict=True)]
    clips, active = [], []
    rate = model.adapter.sampling_rate(model.pipe)
    span = (model.adapter.max_duration(model.pipe) if model.adapter.fixed_length else None) or run_settings["seconds"]
    with tqdm(total=len(rows), desc="searching clips", unit="clip", disable=not progress) as bar:
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            run = model.run(part, read=Read(model.sites.select([path]), None, False, "cond"), **run_settings)
            assert run.audio is not None
            values = run.reads[path]
            by_level = (sae.encode(values[:, i], sigma) for i, sigma in enumerate(run.sigmas.tolist()))
            active.append(sum(by_level) / len(run.sigmas))
            clips += [Clip(a.numpy(), rate, row.prompt, row.seed, model.name) for a, row in zip(run.audio, part, strict=True)]
            bar.update(len(part))
    whole: Tensor = torch.cat(active)  # type: ignore[arg-type]  # tensors, never 0
    heard = max(
        1, round(whole.shape[1] * min(1.0, clips[0].seconds / span))
    )  # some models always make tokens of their full length
    return FeatureClips(clips, whole[:, :heard], run_settings)


def best_features(sae: SAE, each: int = 2) -> pd.DataFrame:
    """The features that tell each concept best by AUROC over all levels, best first: concept, feature, auroc and more."""
    if sae.scores is None:
        return pd.DataFrame(columns=["concept", "feature", "auroc", "mean_with", "mean_without"])
    whole = sae.scores[sae.scores["sigma"].isna()]
    ordered = whole.sort_values(["auroc", "difference"], ascending=False, kind="stable")
    return ordered.groupby("concept", sort=False).head(each).reset_index(drop=True)


def nearest(sae: SAE, feature: int, count: int = 5) -> pd.DataFrame:
    """The features whose directions are most like a feature's, by cosine: feature and cosine."""
    alike = sae.decoder.detach() @ sae.decoder.detach()[feature]
    alike[feature] = -2
    top = alike.topk(min(count, sae.d_sae - 1))
    return pd.DataFrame({"feature": top.indices.tolist(), "cosine": top.values.tolist()})


def feature_pages(
    sae: SAE,
    model: Model,
    out: str | Path,
    features: Sequence[int] | None = None,
    *,
    found: FeatureClips | None = None,
    progress: bool = True,
    **keywords: Any,
) -> Path:
    """Write a folder of pages: index.html, in which all features can be searched, and one page for each chosen feature.

    Every page is one file that holds its sound and pictures and asks nothing of a network. features: their numbers; None is the
    two best of each concept. found: clips searched before; else `feature_clips` makes them, with the keywords.
    Raises ValueError for features that the SAE does not have. Returns the index.
    """
    if features is None:
        features = list(dict.fromkeys(best_features(sae)["feature"].astype(int)))
    features = [int(feature) for feature in features]
    wrong = [feature for feature in features if not 0 <= feature < sae.d_sae]
    if wrong or not features:
        raise ValueError(f"features is {wrong or features}, expected numbers from 0 to {sae.d_sae - 1}, at least one.")
    found = feature_clips(sae, model, progress=progress, **keywords) if found is None else found
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    density = _density(sae, found)
    script = files("audioscope").joinpath("feature_pages.js").read_text()
    for feature in tqdm(features, desc="feature pages", unit="page", disable=not progress):
        html = feature_html(sae, model, feature, found, features)
        write_whole(out / f"{feature}.html", lambda part, html=html: part.write_text(html))  # type: ignore[misc]
    best = best_features(sae, 10**6).drop_duplicates("feature").set_index("feature")
    strongest = found.active.mean(1).max(0)
    rows = [
        {
            "feature": f, "page": f"{f}.html" if f in features else "", "density": float(density[f]), "text": found.clips[int(strongest.indices[f])].prompt if strongest.values[f] > 0 else "",
            "concept": best["concept"].get(f, ""), "auroc": f"{best['auroc'][f]:.3f}" if f in best.index else "",
        }
        for f in sorted(range(sae.d_sae), key=lambda f: (f not in features, -float(best["auroc"].get(f, 0)), f)) if strongest.values[f] > 0 or f in features
    ]  # fmt: skip
    html = page(
        f"Features of {sae.facts.get('model', 'a model')}", INDEX, style=STYLE, script=script, site=sae.facts["site"], rows=rows,
        alive=int((strongest.values > 0).sum()), total=sae.d_sae, lead=f"{len(features)} features have a page with sound: what each says, when it fires, and how it sounds turned down, off and up.",
    )  # fmt: skip
    write_whole(out / "index.html", lambda part: part.write_text(html))
    return out / "index.html"


def feature_html(sae: SAE, model: Model, feature: int, found: FeatureClips, pages: Sequence[int] = ()) -> str:
    """The page of one feature as one HTML document. pages: features whose pages lie beside it, to link to."""
    labels = _labels(sae)
    near = [
        {"feature": int(f), "cosine": cosine, "page": f"{int(f)}.html" if f in pages else "", "label": labels.get(int(f), "")}
        for f, cosine in nearest(sae, feature).itertuples(index=False)
    ]
    return page(
        f"Feature {feature}", FEATURE, style=STYLE, script=files("audioscope").joinpath("feature_pages.js").read_text(), site=sae.facts["site"],
        density=float(_density(sae, found)[feature]), pool=len(found.clips), near=near, concepts=_concepts(sae, feature), linked=bool(pages),
        lead=f"Of the concepts it tells {labels[feature]} best." if feature in labels else "It tells none of the scored concepts.",
        **_sounds(sae, model, feature, found),
    )  # fmt: skip


def show_feature(sae: SAE, model: Model, feature: int, found: FeatureClips) -> Any:
    """The page of one feature in a notebook, in a frame of its own."""
    return framed(f"Feature {feature}", feature_html(sae, model, feature, found), 900)


def _density(sae: SAE, found: FeatureClips) -> np.ndarray:
    """The share of tokens at which each feature is active: by the gate, else in the clips found."""
    return np.asarray(sae.report.get("density") or (found.active > 0).float().mean((0, 1)))


def _labels(sae: SAE) -> dict[int, str]:
    """Feature -> the concept that it tells best, with the AUROC."""
    best = best_features(sae, 10**6).drop_duplicates("feature")
    return {int(row["feature"]): f"{row['concept']} (AUROC {row['auroc']:.2f})" for row in best.to_dict("records")}


def _concepts(sae: SAE, feature: int, count: int = 6) -> list[dict[str, Any]]:
    if sae.scores is None:
        return []
    mine = sae.scores[(sae.scores["feature"] == feature) & sae.scores["sigma"].isna()]
    return mine.nlargest(count, "auroc").to_dict("records")


def _sounds(sae: SAE, model: Model, feature: int, found: FeatureClips) -> dict[str, Any]:
    """The top clips, and the first of them with the feature turned down, off and up."""
    top = found.top(feature)
    if not top:
        return {"top": [], "turned": [], "changed": "It fires in none of the clips that were searched."}
    scale = float(found.active[top, :, feature].max())
    shown = [_figure(found.clips[i], found.active[i, :, feature], scale, "", found.clips[i].prompt) for i in top]
    first = found.clips[top[0]]
    figures = [_figure(first, found.active[top[0], :, feature], scale, "As it is", "")]
    for title, do, value in TURNS:
        edit = SAEEdit(sae, (feature,), do, value)  # type: ignore[arg-type]
        again = feature_clips(sae, model, [first.prompt], seeds=[first.seed or 0], edits=edit, progress=False, **found.settings)
        figures.append(_figure(again.clips[0], again.active[0, :, feature], scale, title[0].upper() + title[1:], ""))
    return {"top": shown, "turned": figures, "changed": f"Prompt: {first.prompt}."}


def _figure(clip: Clip, active: Tensor, scale: float, title: str, text: str) -> dict[str, Any]:
    """One clip for the template: sound, picture, and the activation as an area."""
    heights = (100 - 92 * (active / max(scale, 1e-9)).clamp(0, 1)).tolist()
    points = " ".join(f"{x + 0.5:.1f},{y:.1f}" for x, y in enumerate(heights))
    peak = (int(active.argmax()) + 0.5) / len(active) * clip.seconds if bool(active.max() > 0) else None
    share = float((active > 0).float().mean())
    said = f"active {share:.0%} of the time" + ("" if peak is None else f", strongest at {peak:.1f} s")
    return {
        "title": title, "text": text, "sound": data_uri("audio/mpeg", clip.encoded("mp3")), "picture": data_uri("image/png", clip.png(110)),
        "width": len(heights), "points": f"0,100 {points} {len(heights)},100", "peak": None if peak is None else round(max(0.0, peak - 0.1), 2), "said": said,
    }  # fmt: skip
