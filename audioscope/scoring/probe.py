"""Your own music as a concept: a folder of audio becomes a scorer, and the prompts that sound like it become pairs."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile as sf
import torch
from torch import Tensor

from audioscope.audio import Clip
from audioscope.concepts import SPLITS, Concept, load_concepts, some_prompts
from audioscope.errors import all_of, as_path, listed, of_kind, said_text, seed_number, texts, whole
from audioscope.model import Model
from audioscope.scoring.scorers import Scorer, check_scores, completed, resampled, scores_of
from audioscope.stats import auroc
from audioscope.workers import Workers, collect

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64")
UNREAD = (
    ".m4a",
    ".m4b",
    ".m4p",
    ".3gp",
    ".mpc",
    ".tta",
    ".mid",
    ".aac",
    ".mp4",
    ".wma",
    ".webm",
    ".mka",
    ".amr",
    ".ape",
    ".wv",
)  # sound that libsndfile does not read
LOWEST = 1000  # Hz, below which a file is no music
FOLDS = 5
SILENCE = 1e-7  # mean square below which a piece is silent, -70 dB


def read_folder(
    folder: str | Path, model: Model, seconds: float | None = None, most: int = 64, workers: Workers = None
) -> list[Clip]:
    """The audio of a folder as the model would sound at its best: mono pieces, at its rate and of its length.

    The audio also goes through the model's codec, if that is a plain one. A file that is shorter than a piece is repeated; silent
    pieces are left out, with a warning. Hidden files are not read.

    Args:
        folder: The folder, with its subfolders.
        model: The model.
        seconds: The length of each piece, s; None is the model's default.
        most: How many pieces to keep, spread evenly over the files and within each.
        workers: In how many processes, as for `audioscope.localize`.

    Returns:
        The pieces; each has its file as `prompt`.

    Raises:
        FileNotFoundError: There is no audio.
        ValueError: A file cannot be read, or there is nothing but silence.

    Example:
        >>> path = model.generate("a jazz song", seed=0).save("mine/song.wav")
        >>> [clip.prompt for clip in audioscope.scoring.read_folder("mine", model)]
        ['song.wav']
    """
    of_kind("model", model, Model)
    folder = as_path(folder)
    found = _files(folder)
    most = whole("most", most, 1)
    files = [path for path in found if path.suffix.lower() in SUFFIXES]
    if left := [path for path in found if path.suffix.lower() in UNREAD]:
        names = ", ".join(str(path.relative_to(folder)) for path in left[:20]) + (" ..." if len(left) > 20 else "")
        warnings.warn(f"{len(left)} files were left out: {names}. Convert them to WAV, FLAC, MP3 or OGG.", stacklevel=2)
    if not files:
        raise FileNotFoundError(f"{folder} holds no audio: expected files that end in {', '.join(SUFFIXES)}.")
    rate, long = model.rate, model.sampling(seconds=seconds).seconds
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, min(most, len(files))).round().astype(int)]
    each = max(1, most // len(chosen))
    codec: Any = getattr(model.pipe, "vae", None)

    def read(file: Path) -> dict[str, Tensor]:
        """The pieces of a file that sound, [pieces, samples], and how many are silent."""
        pieces = torch.stack(_pieces(file, rate, long, each))
        loud = pieces[pieces.square().mean(1) > SILENCE]
        silent = torch.tensor(len(pieces) - len(loud))
        if model.adapter.is_tiny and len(loud):  # so that a listener judges the music, and not which codec it went through
            with torch.no_grad():
                spare = -loud.shape[-1] % codec.downsampling_ratio  # the codec takes whole tokens
                heard = torch.nn.functional.pad(loud[:, None], (0, spare)).to(codec.device)
                loud = codec.decode(codec.encode(heard)).sample[:, 0, : loud.shape[-1]]
        return {"loud": loud, "silent": silent}

    every = list(collect(model, workers, read, chosen))
    clips = [
        Clip(wave[None].numpy(), rate, str(file.relative_to(folder)))
        for file, found in zip(chosen, every, strict=True) for wave in found["loud"]
    ]  # fmt: skip
    if not clips:
        raise ValueError(f"{folder} holds nothing but silence.")
    if silent := sum(int(found["silent"]) for found in every):
        warnings.warn(f"{silent} of {len(clips) + silent} pieces of {folder} are silent and were left out.", stacklevel=2)
    return clips


def _files(folder: Path) -> list[Path]:
    """All files below a folder, also behind links; nothing hidden, and no folder twice."""
    found, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        found += [] if real in seen else [Path(place, name) for name in names if not name.startswith(".")]
        seen.add(real)
    return sorted(file for file in found if file.is_file())  # no links to nothing


def _pieces(file: Path, rate: int, seconds: float, most: int) -> list[Tensor]:
    """Up to `most` pieces of a file, evenly spread, each float32 [samples]; only those are decoded."""
    size = int(seconds * rate)
    try:
        metadata = sf.info(file)
        if metadata.samplerate < LOWEST:
            raise ValueError(f"its sampling rate is {metadata.samplerate} Hz, expected at least {LOWEST}")
        long = int(np.ceil(seconds * metadata.samplerate))
        count = min(most, max(1, metadata.frames // long))
        starts = np.linspace(0, max(0, metadata.frames - long), count).astype(int)
        waves = [sf.read(file, long, int(start), dtype="float32", always_2d=True)[0].mean(1) for start in starts]
    except Exception as error:
        raise ValueError(f"{file} cannot be read as audio ({error}): repair it or remove it from the folder.") from error
    waves = [wave for wave in waves if len(wave)]  # a file that was cut short is shorter than it says
    if not waves:
        raise ValueError(f"{file} holds no sound, or was cut short: replace it, or remove it from the folder.")
    parts = [resampled(torch.from_numpy(wave), metadata.samplerate, rate) for wave in waves]
    return [part.repeat(-(-size // len(part)))[:size] for part in parts]


@dataclass(frozen=True, eq=False)
class ProbeScorer:
    """A linear classifier on what another scorer's network hears: log-odds of your own concept, next to that scorer's concepts.

    Few clips cannot calibrate it: the log-odds rank clips, but what probability each stands for was not tested. `probe_scorer`
    fits one.

    Args:
        name: Its name in tables.
        concept: Your concept.
        base: The other scorer.
        weights: The classifier's weights, float64 [features].
        bias: The classifier's bias.
        auroc: How well it classifies clips that it was not fitted on, by cross-validation with up to five folds; .5 is chance.
        units: The units of its scores.
        queries: Empty: it is not asked in words.

    Example:
        >>> import numpy as np
        >>> listener = audioscope.scoring.listener_scorer()
        >>> audioscope.scoring.ProbeScorer("mine", "brass", listener, np.zeros(8), 0.0, auroc=0.91)
        ProbeScorer('brass' on listener: AUROC 0.91 on clips it was not fitted on)
    """

    name: str
    concept: str
    base: Any
    weights: np.ndarray
    bias: float
    auroc: float
    units: str = "log-odds"
    queries: Mapping[str, str] = field(default_factory=dict)

    @property
    def needs(self) -> str:
        return str(self.base.needs)

    @property
    def concepts(self) -> list[str]:
        return [self.concept, *(name for name in self.base.concepts if name != self.concept)]

    @property
    def fingerprint(self) -> str:
        own = hashlib.sha256(self.weights.tobytes() + np.float64(self.bias).tobytes()).hexdigest()[:8]
        return f"{self.base.fingerprint}-{own}"

    def check(self, model: Any) -> None:
        self.base.check(model)

    def layers(self, audio: Tensor, rate: int) -> list[Tensor]:
        """The layers of the base scorer, for distances.

        Args:
            audio: Float [clips, channels, samples].
            rate: Its sampling rate, Hz.

        Returns:
            One tensor for each layer, [clips, channels, ...].
        """
        return list(self.base.layers(audio, rate))

    def __call__(self, audio: Tensor, rate: int) -> pd.DataFrame:
        own = _heard(self.base, audio, rate) @ self.weights + self.bias
        others = scores_of(self.base, audio, rate).drop(columns=self.concept, errors="ignore")
        return pd.concat([pd.DataFrame({self.concept: own}), others], axis=1)

    def __repr__(self) -> str:
        return f"ProbeScorer({self.concept!r} on {self.base.name}: AUROC {self.auroc:.2f} on clips it was not fitted on)"


def _heard(scorer: Any, audio: Tensor, rate: int) -> np.ndarray:
    """The outputs of all layers of a scorer's network, averaged over positions: float64 [clips, features]."""
    layers = scorer.layers(audio, rate)
    return torch.cat([layer.flatten(2).mean(2) for layer in layers], 1).double().cpu().numpy()


def probe_scorer(
    concept: str, with_: Sequence[Clip], without: Sequence[Clip], base: Any, groups: Sequence[Hashable] | None = None
) -> ProbeScorer:
    """A scorer of your own concept, from clips that have it and clips that do not; channels are averaged.

    Args:
        concept: Its name.
        with_: Clips that have it, at least 5.
        without: Clips that do not, at least 5, like the others in everything else.
        base: A scorer whose network hears them, such as `listener_scorer()` for `tiny` or `Clap()`.
        groups: What belongs together when the AUROC is measured, for the clips with the concept and then for those without, such as the
            number of a pair; None is the `prompt` (the file, for clips from `read_folder`).

    Returns:
        The scorer, with the AUROC that was measured on clips it was not fitted on.

    Raises:
        ValueError: There are too few clips, they differ in rate or length, or all clips of either kind are in one group.

    Example:
        >>> prompts = [f"a {genre} song with {lead}" for genre in ("jazz", "metal") for lead in ("flute", "violin", "cello")]
        >>> fast, slow = (model.generate([f"{tempo} music, {text}" for text in prompts], seed=range(6), steps=4) for tempo in ("fast", "slow"))
        >>> audioscope.scoring.probe_scorer("mine", fast, slow, audioscope.scoring.listener_scorer()).concepts[:2]
        ['mine', 'female']
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with_, without = (
        all_of(name, listed(name, value, "clips"), Clip) for name, value in (("with_", with_), ("without", without))
    )
    if min(len(with_), len(without)) < FOLDS:
        raise ValueError(
            f"There are {len(with_)} clips with {concept!r} and {len(without)} without, expected at least {FOLDS} of each."
        )
    clips = [*with_, *without]
    shapes = {(clip.rate, clip.samples.shape[1]) for clip in clips}
    if len(shapes) > 1:
        raise ValueError(f"The clips differ in rate or length (Hz, samples: {sorted(shapes)}): expected equal ones.")
    base = completed(base)
    if not hasattr(base, "layers"):
        raise ValueError(f"The scorer {base.name!r} has no layers() to build on.")
    labels = [clip.prompt for clip in clips] if groups is None else listed("groups", groups, "one group for each clip")
    if len(labels) != len(clips):
        raise ValueError(f"There are {len(labels)} groups for {len(clips)} clips, expected one for each clip.")
    numbers = pd.factorize(pd.Series(labels))[0]
    folds = min(FOLDS, len(set(numbers[: len(with_)])), len(set(numbers[len(with_) :])))
    if folds < 2:
        raise ValueError(
            f"All clips with {concept!r}, or all without, come from one file or prompt: how well they can be told apart "
            "cannot be measured. Add others."
        )
    audio = torch.from_numpy(np.stack([clip.mono[None] for clip in clips]))
    features = _heard(base, audio, clips[0].rate)
    has = np.repeat([1, 0], [len(with_), len(without)])

    def classifier() -> Any:
        # strongly regularized: there are more features than clips
        return make_pipeline(StandardScaler(), LogisticRegression(C=0.003, class_weight="balanced", max_iter=2000))

    out = np.zeros(len(clips))
    for train, test in StratifiedGroupKFold(folds).split(features, has, numbers):
        out[test] = classifier().fit(features[train], has[train]).decision_function(features[test])
    scale, line = classifier().fit(features, has)
    weights = line.coef_[0] / scale.scale_
    bias = float(line.intercept_[0] - (scale.mean_ * weights).sum())
    return ProbeScorer(f"probe of {concept}", concept, base, weights, bias, float(auroc(out[has == 1], out[has == 0])))


def pairs_like(
    model: Model,
    scorer: Scorer,
    concept: str,
    prompts: Iterable[str] | None = None,
    pairs: int = 32,
    *,
    group: str = "",
    seed: int = 0,
    progress: bool = True,
) -> Concept:
    """A concept from what its scorer hears in the model: the prompts that sound most like it, each with one that does not.

    Every prompt is generated once and scored. The best become clean prompts. The corrupted prompt of each is the one of the lower
    half that shares the most words with it, and serves as its neutral prompt, too; it is not a counterfactual, since other words
    differ as well. Pairs are dealt to the four splits in turn, so that layers, vectors and reports use different pairs.

    Args:
        model: The model.
        scorer: A scorer of the concept.
        concept: Its name.
        prompts: The prompts to try; None is 192 of the shipped ones.
        pairs: How many pairs to make, from 8 to half the number of prompts.
        group: The concept's group, for controls.
        seed: The seed of the first prompt; the others count up.
        progress: Whether to show a progress bar.

    Returns:
        The concept.

    Raises:
        ValueError: There are too few prompts, or the scorer does not know the concept.

    Example:
        >>> prompts = audioscope.datasets.some_prompts(16)
        >>> scorer = audioscope.scoring.listener_scorer()
        >>> concept = audioscope.scoring.pairs_like(model, scorer, "fast", prompts, pairs=8, progress=False)
        >>> len(concept.split("build"))
        2
    """
    of_kind("model", model, Model).check_unsteered("a concept")
    scorer = completed(scorer)
    scorer.check(model)
    check_scores(scorer, concept)
    seed, group = seed_number(seed), said_text("group", group)
    tried = list(dict.fromkeys(some_prompts(192, "build") if prompts is None else texts("prompts", prompts)))
    pairs = whole("pairs", pairs, len(SPLITS) * 2, len(tried) // 2, f", half of the {len(tried)} prompts")
    clips = model.generate(tried, seed=[seed + number for number in range(len(tried))], progress=progress)
    sounds = torch.from_numpy(np.stack([clip.samples for clip in clips]))
    scores = scores_of(scorer, sounds, clips[0].rate)[concept].to_numpy()
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")
    rest = [tried[i] for i in order[len(tried) // 2 :]]
    rows = []
    for number, place in enumerate(order[:pairs]):
        words = set(tried[place].split())
        other = max(rest, key=lambda text: len(words & set(text.split())) / len(words | set(text.split())))
        rest.remove(other)
        rows.append({"concept": concept, "clean": tried[place], "corrupted": other, "neutral": other,
                     "split": SPLITS[number % len(SPLITS)], "group": group or None})  # fmt: skip
    return load_concepts(pd.DataFrame(rows))[concept]
