"""Feature pages: the clips in which an SAE's feature fires, and when; what it responds to; how it sounds turned down or up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
import torch
from markupsafe import Markup
from torch import Tensor
from tqdm.auto import tqdm

from audioscope.audio import Clip
from audioscope.concepts import some_prompts
from audioscope.edits import Edit, as_edits
from audioscope.errors import all_of, as_path, index_of, listed, of_kind, one_or_more, quiet, said, seed_number, texts
from audioscope.errors import whole as whole_number
from audioscope.model import BATCH, Model
from audioscope.pages.html import check_page, iframe, page, render, save_page, sound
from audioscope.sae.features import sampling_like
from audioscope.sae.sae import SAE, SAEEdit
from audioscope.store import batches, made_folder
from audioscope.tracing import Read, Row, Sampling, SamplingKeywords

POOL = 96  # prompts whose clips are searched
CLIPS = 6  # shown per feature
LINK = "{}.html"  # the address of a feature's page
TURNS = (("turned down by half", "scale", 0.5), ("off", "ablate", None), ("turned up threefold", "scale", 3.0))


@dataclass(frozen=True, eq=False)
class FeatureClips:
    """Clips, and when the features of an SAE fire in them.

    Args:
        clips: The clips [n].
        active: The features' activations, float32 [n, time tokens, d_sae], averaged over noise levels; the tokens cover the clips
            from beginning to end.
        sampling: How the clips were generated.

    Example:
        >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn")
        >>> prompts = ["a fast song with violin", "a slow song with drums"]
        >>> found = audioscope.pages.feature_clips(sae, model, prompts, steps=2, progress=False)
        >>> feature = audioscope.pages.best_features(sae, each=1).query("concept == 'drums'")["feature"].item()
        >>> [found.clips[i].prompt for i in found.top(feature, count=1)]
        ['a slow song with drums']
    """

    clips: list[Clip]
    active: Tensor
    sampling: Sampling

    def top(self, feature: int, count: int = CLIPS) -> list[int]:
        """The clips in which a feature is strongest, averaged over time.

        Args:
            feature: Its number.
            count: At most this many clips.

        Returns:
            The indices of the clips, strongest first; clips in which the feature does not fire are left out.
        """
        strength = self.active[:, :, feature].mean(1)
        return [int(i) for i in strength.argsort(descending=True)[:count] if strength[i] > 0]


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """An SAE with the features that get pages, and the clips in which they were searched.

    `feature_set` makes one.

    Args:
        sae: The SAE.
        model: The model that it was trained on.
        found: The clips.
        features: The numbers of the features that get pages.

    Raises:
        ValueError: There is no feature, or one that the SAE does not have.

    Example:
        >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn")
        >>> shown = audioscope.pages.feature_set(sae, model, [485], prompts=["a song with drums"], steps=2, progress=False)
        >>> shown.site
        'transformer.transformer_blocks.6.cross_attn'
        >>> shown.density.shape
        (512,)
    """

    sae: SAE
    model: Model
    found: FeatureClips
    features: tuple[int, ...]

    def __post_init__(self) -> None:
        of_kind("sae", self.sae, SAE)
        of_kind("found", self.found, FeatureClips)
        numbers = listed("features", self.features, "numbers of features")
        wrong = [feature for feature in numbers if (index := index_of(feature)) is None or not 0 <= index < self.sae.d_sae]
        if wrong or not numbers:
            raise ValueError(f"features is {said(wrong)}, expected numbers from 0 to {self.sae.d_sae - 1}, at least one.")

    @property
    def site(self) -> str:
        """The module path of the SAE's site."""
        return str(self.sae.metadata["site"])

    @property
    def density(self) -> np.ndarray:
        """The share of tokens at which each feature is active [d_sae], from the evaluation or else in the searched clips."""
        return np.asarray(self.sae.report.get("density") or (self.found.active > 0).float().mean((0, 1)))

    def body(self, feature: int, *, linked: bool = False, level: int = 2, link: str = LINK) -> Markup:
        """The text and sound of one feature, as HTML to put on a page.

        It generates the strongest clip again with the feature turned down, off and up.

        Args:
            feature: Its number.
            linked: Begin with a link back to the list.
            level: Of the heading, 1 to 6.
            link: The address of another feature's page, with {} for its number.

        Returns:
            The HTML, escaped where needed.
        """
        labels = _labels(self.sae)
        near = nearest(self.sae, feature)
        near["page"] = [link.format(f) if f in self.features else "" for f in near["feature"]]
        near["label"] = [labels.get(f, "") for f in near["feature"]]
        return render(
            "feature.html", title=f"Feature {feature}", site=self.site, density=float(self.density[feature]),
            pool=len(self.found.clips), near=near.to_dict("records"), concepts=_concepts(self.sae, feature),
            lead=f"Of the scored concepts, it detects {labels[feature]} best." if feature in labels else "It detects none of the scored concepts.",
            linked=linked, level=level, **_sounds(self.sae, self.model, feature, self.found),
        )  # fmt: skip

    def html(self, feature: int, linked: bool) -> str:
        """The page of one feature as one HTML document.

        Args:
            feature: Its number.
            linked: Begin with a link back to the list.

        Returns:
            The document.
        """
        body = Markup("<main>\n{}\n</main>").format(self.body(feature, linked=linked, level=1))
        return page("features", f"Feature {feature}", body)

    def listed(self, link: str = LINK) -> dict[str, Any]:
        """The list of features that fire in the clips or have a page, pages first, then by AUROC.

        Args:
            link: The address of a feature's page, with {} for its number.

        Returns:
            A dict with `site`, `rows`, `alive` (how many features fire in the clips) and `total` (how many the SAE has). Each row
            is a dict with the feature's number, its page, its density, the prompt of its strongest clip ("text"), and the concept
            that it detects best, with the AUROC.
        """
        best = best_concepts(self.sae)
        strongest, density = self.found.active.mean(1).max(0), self.density
        shown = [f for f in range(self.sae.d_sae) if strongest.values[f] > 0 or f in self.features]
        rows = [
            {
                "feature": f, "page": link.format(f) if f in self.features else "", "density": float(density[f]),
                "text": self.found.clips[int(strongest.indices[f])].prompt if strongest.values[f] > 0 else "",
                "concept": best["concept"].get(f, ""), "auroc": f"{best['auroc'][f]:.3f}" if f in best.index else "",
            }
            for f in sorted(shown, key=lambda f: (f not in self.features, -float(best["auroc"].get(f, 0)), f))
        ]  # fmt: skip
        return {"site": self.site, "rows": rows, "alive": int((strongest.values > 0).sum()), "total": self.sae.d_sae}


@torch.no_grad()
def feature_clips(
    sae: SAE,
    model: Model,
    prompts: Sequence[str] | None = None,
    *,
    seeds: Sequence[int] | None = None,
    edits: Edit | Sequence[Edit] = (),
    batch_size: int = BATCH,
    progress: bool = True,
    on_step: Callable[[int], None] | None = None,
    **sampling: Unpack[SamplingKeywords],
) -> FeatureClips:
    """Generate clips and find where in them the features of an SAE fire.

    Args:
        sae: The SAE.
        model: The model that it was trained on.
        prompts: One for each clip; None is 96 of the test split of the shipped concepts.
        seeds: One for each prompt; None counts up from 0.
        edits: Act on every prompt; features are read after them.
        batch_size: How many clips are generated at a time.
        progress: Show a progress bar.
        on_step: Called with the number of each step before it, as for `audioscope.tracing.run`.
        **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; those of the SAE's training if omitted.

    Returns:
        The clips, with the features' activations over time.

    Raises:
        ValueError: The SAE was trained on another model or another site, or the numbers of prompts and seeds differ.

    Example:
        >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn")
        >>> found = audioscope.pages.feature_clips(sae, model, ["a fast song with violin"], steps=2, progress=False)
        >>> found.active.shape  # clips, time tokens, features
        torch.Size([1, 64, 512])
    """
    return searched(
        [sae], model, prompts, seeds=seeds, edits=edits, batch_size=batch_size, progress=progress, on_step=on_step, **sampling
    )[0]


@torch.no_grad()
def searched(
    saes: Sequence[SAE],
    model: Model,
    prompts: Sequence[str] | None = None,
    *,
    seeds: Sequence[int] | None = None,
    edits: Edit | Sequence[Edit] = (),
    batch_size: int = BATCH,
    progress: bool = True,
    on_step: Callable[[int], None] | None = None,
    **sampling: Unpack[SamplingKeywords],
) -> list[FeatureClips]:
    """What `feature_clips` returns for each of several SAEs, from the same generations."""
    of_kind("model", model, Model)
    saes = all_of("sae", saes, SAE)
    for sae in saes:
        sae.check(model.name, model.fingerprint, model.sites.select([sae.metadata.get("site", "none")]))
    prompts = some_prompts(POOL) if prompts is None else texts("prompts", prompts)
    seeds = range(len(prompts)) if seeds is None else [seed_number(seed) for seed in one_or_more(seeds)]
    if not prompts:
        raise ValueError("prompts is empty, expected at least one.")
    if len(seeds) != len(prompts):
        raise ValueError(f"There are {len(seeds)} seeds for {len(prompts)} prompts, expected one for each.")
    chosen = as_edits(edits)
    rows = [Row(prompt, seed, chosen) for prompt, seed in zip(prompts, seeds, strict=True)]
    return _heard(saes, model, rows, sampling_like(model, saes, sampling), batch_size, progress, on_step)


@torch.no_grad()
def _heard(
    saes: Sequence[SAE], model: Model, rows: Sequence[Row], how: Sampling, batch_size: int = BATCH, progress: bool = False,
    on_step: Callable[[int], None] | None = None,
) -> list[FeatureClips]:  # fmt: skip
    """The clips of some rows, with the activations of each SAE's features over time."""
    paths = [str(sae.metadata["site"]) for sae in saes]
    clips: list[Clip] = []
    active: list[list[Tensor]] = [[] for _ in saes]
    rate = model.rate
    span = (model.adapter.max_duration(model.pipe) if model.adapter.fixed_length else None) or how["seconds"]
    read = Read(model.sites.select(list(dict.fromkeys(paths))), None, False, "cond")
    for part in batches(rows, batch_size, "searching clips", "clip", progress):
        run = model.run(part, read=read, on_step=on_step, **how)
        assert run.audio is not None
        for sae, path, mine in zip(saes, paths, active, strict=True):
            values = run.reads[path]
            by_level = (sae.encode(values[:, i], sigma) for i, sigma in enumerate(run.sigmas.tolist()))
            mine.append(sum(by_level) / len(run.sigmas))  # type: ignore[arg-type]  # tensors, never 0
        clips += [Clip(a.numpy(), rate, row.prompt, row.seed, model.name) for a, row in zip(run.audio, part, strict=True)]
    found = []
    for mine in active:
        whole = torch.cat(mine)
        heard = round(whole.shape[1] * min(1.0, clips[0].seconds / span))  # some models generate tokens for their full length
        found.append(FeatureClips(clips, whole[:, : max(1, heard)], how))
    return found


def best_features(sae: SAE, each: int = 2) -> pd.DataFrame:
    """The features that detect each concept best, by AUROC over all noise levels.

    Args:
        sae: An SAE with scores for concepts; without scores, the table is empty.
        each: At most this many features for each concept.

    Returns:
        A table with one row per concept and feature, best first.

        - concept, feature
        - sigma: NaN, as the scores are over all levels
        - mean_with, mean_without: the mean activation in clips with and without the concept
        - ratio: high for what is strong with the concept and absent without it (TADA, eq. 12)
        - difference: of the two means
        - d: Cohen's d
        - auroc

    Example:
        >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn")
        >>> best = audioscope.pages.best_features(sae, each=1)
        >>> best.head(3)["concept"].tolist()
        ['reggae', 'fast', 'jazz']
    """
    of_kind("sae", sae, SAE)
    each = whole_number("each", each, 1)
    if sae.scores is None:
        return pd.DataFrame(columns=["concept", "feature", "auroc", "mean_with", "mean_without"])
    whole = sae.scores[sae.scores["sigma"].isna()]
    ordered = whole.sort_values(["auroc", "difference"], ascending=False, kind="stable")
    return ordered.groupby("concept", sort=False).head(each).reset_index(drop=True)


def best_concepts(sae: SAE) -> pd.DataFrame:
    """The concept that each feature detects best, by feature: concept, auroc and more. Features that detect none are omitted."""
    return best_features(sae, 10**6).drop_duplicates("feature").set_index("feature")


def nearest(sae: SAE, feature: int, count: int = 5) -> pd.DataFrame:
    """The features whose directions are most like a feature's, by cosine: feature and cosine."""
    alike = sae.decoder.detach() @ sae.decoder.detach()[feature]
    alike[feature] = -2
    top = alike.topk(min(count, sae.d_sae - 1))
    return pd.DataFrame({"feature": top.indices.tolist(), "cosine": top.values.tolist()})


def feature_set(
    sae: SAE, model: Model, features: Sequence[int] | None = None, *, found: FeatureClips | None = None, **keywords: Any
) -> FeatureSet:
    """Choose the features of an SAE that get pages, and search clips for them.

    Args:
        sae: The SAE.
        model: The model that it was trained on.
        features: Their numbers; None is the two best for each concept.
        found: Clips searched earlier; None generates them with `feature_clips`.
        **keywords: The other arguments of `feature_clips`.

    Returns:
        The features with their clips, as the argument `features` of `save_html` and `save_site` takes them.

    Raises:
        ValueError: The SAE does not have these features.

    Example:
        >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn")
        >>> shown = audioscope.pages.feature_set(sae, model, [485], prompts=["a song with drums"], steps=2, progress=False)
        >>> shown.features, len(shown.found.clips)
        ((485,), 1)
    """
    of_kind("sae", sae, SAE)
    of_kind("model", model, Model)
    if features is None:
        features = list(dict.fromkeys(best_features(sae)["feature"].astype(int)))
    nothing = FeatureClips([], torch.empty(0), model.sampling())
    # report wrong features before clips are generated
    shown = FeatureSet(sae, model, nothing, tuple(whole_number("features", feature) for feature in one_or_more(features)))
    return replace(shown, found=feature_clips(sae, model, **keywords) if found is None else found)


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
    """Write a folder of pages: index.html, in which all features can be searched, and one page for each selected feature.

    Every page is one file that holds its sound and pictures and makes no network requests.

    Args:
        sae: The SAE.
        model: The model that it was trained on.
        out: The folder.
        features: Their numbers; None is the two best for each concept.
        found: Clips searched earlier; None generates them with `feature_clips`.
        progress: Show a progress bar.
        **keywords: The other arguments of `feature_clips`.

    Returns:
        The path of the index.

    Raises:
        ValueError: The SAE does not have these features.

    Example:
        >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn")
        >>> prompts = ["a song with drums", "a song with violin"]
        >>> index = audioscope.pages.feature_pages(sae, model, "pages", [485], prompts=prompts, steps=2, progress=False)
        >>> sorted(file.name for file in index.parent.iterdir())
        ['485.html', 'index.html']
    """
    out = as_path(out)
    quiet(progress)
    check_page(out / "index.html")
    shown = feature_set(sae, model, features, found=found, progress=progress, **keywords)
    made_folder(out)
    for feature in tqdm(shown.features, desc="feature pages", unit="page", disable=quiet(progress)):
        save_page(out / f"{feature}.html", shown.html(feature, linked=True))
    title = f"Features of {sae.metadata.get('model', 'a model')}"
    body = render("features.html", title=title, count=len(shown.features), **shown.listed())
    return save_page(out / "index.html", page("features", title, body))


def show_feature(sae: SAE, model: Model, feature: int, found: FeatureClips) -> Any:
    """Show the page of one feature in a notebook, in an iframe.

    Args:
        sae: The SAE.
        model: The model that it was trained on.
        feature: Its number.
        found: The clips to choose from, from `feature_clips`.

    Returns:
        HTML for a notebook.

    Raises:
        ValueError: The SAE does not have this feature.

    Example:
        >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn")
        >>> found = audioscope.pages.feature_clips(sae, model, ["a song with drums"], steps=2, progress=False)
        >>> "Feature 485" in audioscope.pages.show_feature(sae, model, 485, found).data
        True
    """
    return iframe(f"Feature {feature}", FeatureSet(sae, model, found, (feature,)).html(feature, linked=False), 900)


def _labels(sae: SAE) -> dict[int, str]:
    """Feature -> the concept that it detects best, with the AUROC."""
    best = best_concepts(sae)
    return {int(feature): f"{row['concept']} (AUROC {row['auroc']:.2f})" for feature, row in best.to_dict("index").items()}


def _concepts(sae: SAE, feature: int, count: int = 6) -> list[dict[str, Any]]:
    if sae.scores is None:
        return []
    mine = sae.scores[(sae.scores["feature"] == feature) & sae.scores["sigma"].isna()]
    return mine.nlargest(count, "auroc").to_dict("records")


def _sounds(sae: SAE, model: Model, feature: int, found: FeatureClips) -> dict[str, Any]:
    """The top clips, and the first of them with the feature turned down, off and up."""
    top = found.top(feature)
    if not top:
        return {"top": [], "turned": [], "changed": "It fires in none of the searched clips."}
    scale = float(found.active[top, :, feature].max())
    shown = [figure(found.clips[i], found.active[i, :, feature], scale, "", found.clips[i].prompt) for i in top]
    first = found.clips[top[0]]
    figures = [figure(first, found.active[top[0], :, feature], scale, "Unchanged", "")]
    edits = [SAEEdit(sae, (feature,), do, value) for _, do, value in TURNS]  # type: ignore[arg-type]
    (again,) = _heard([sae], model, [Row(first.prompt, first.seed or 0, (edit,)) for edit in edits], found.sampling)
    for number, (title, *_) in enumerate(TURNS):
        figures.append(figure(again.clips[number], again.active[number, :, feature], scale, title[0].upper() + title[1:], ""))
    return {"top": shown, "turned": figures, "changed": f"Prompt: {first.prompt}."}


def figure(clip: Clip, active: Tensor, scale: float, title: str, text: str) -> dict[str, Any]:
    """One clip for the template: sound, picture, and the activation as an area."""
    heights = (100 - 92 * (active / max(scale, 1e-9)).clamp(0, 1)).tolist()
    points = " ".join(f"{x + 0.5:.1f},{y:.1f}" for x, y in enumerate(heights))
    peak = (int(active.argmax()) + 0.5) / len(active) * clip.seconds if bool(active.max() > 0) else None
    share = float((active > 0).float().mean())
    said = f"active {share:.0%} of the time" + ("" if peak is None else f", strongest at {peak:.1f} s")
    return {
        "title": title, "text": text, **sound(clip), "seconds": round(clip.seconds, 3),
        "width": len(heights), "points": f"0,100 {points} {len(heights)},100",
        "peak": None if peak is None else round(max(0.0, peak - 0.1), 2), "said": said,
    }  # fmt: skip
