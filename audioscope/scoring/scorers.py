"""Scorers: audio in, one number per concept out. The only module that imports scorer models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil, gcd
from pathlib import Path
from typing import Any, Protocol

import librosa
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torchaudio.functional import resample

from audioscope.audio import ready_librosa
from audioscope.concepts import shipped_groups
from audioscope.errors import all_of, among, known_name, listed, plain_name, said, said_text, texts, truth, whole
from audioscope.installed import need
from audioscope.scoring import musicnn
from audioscope.store import LOADING, default_device, fingerprint
from audioscope.tiny import listener
from audioscope.tiny.bank import RATE
from audioscope.tiny.music import GROUPS, SAMPLES

# How each group of the paper's concepts is phrased in the query to a text-audio model.
PHRASES = {
    "voice": "{c} vocals",
    "tempo": "{c} tempo music",
    "mood": "{c} music",
    "genre": "{c} music",
    "lead": "{c}",
    "percussion": "{c}",
}


class Scorer(Protocol):
    """Audio in, one number for each concept out. Your own scorer needs only `concepts` and the call: the rest has defaults.

    It is called with audio [clips, channels, samples] float32 and its rate in Hz, and returns one row per clip and one column for
    each of its `concepts`, in `units`, as a DataFrame, an array, a tensor or lists. `needs` says what must be installed or
    downloaded, and `queries` what a text-audio model was asked for each concept. `fingerprint` changes when the scores do: without
    it, a folder of results cannot tell that the scorer changed. `check(model)` raises ValueError for a model whose audio it cannot
    judge. A scorer in "log-odds" may also have `calibrated`, the end of its calibrated range: an atlas then also offers its scores
    clipped there. One with `layers(audio, rate)` can also measure distances; one with `scores(audio, rate)`, a tensor
    [clips, concepts] through which gradients reach the audio, can also screen (`audioscope.screen`).

    Example:
        >>> class Loudness:
        ...     concepts = ["fast"]
        ...
        ...     def __call__(self, audio, rate):
        ...         return audio.square().mean((1, 2)).log10()
        >>> atlas = audioscope.localize(model, ["fast"], pairs=1, sites=[1], scorer=Loudness(), steps=1, progress=False)
        >>> atlas.scorers
        ['Loudness']
    """

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def concepts(self) -> Sequence[str]: ...

    @property
    def units(self) -> str: ...

    @property
    def needs(self) -> str: ...

    @property
    def queries(self) -> Mapping[str, str]: ...

    def check(self, model: Any) -> None: ...

    def __call__(self, audio: Tensor, rate: int) -> pd.DataFrame: ...


@dataclass(frozen=True, eq=False)
class _Completed:
    """A scorer of which only `concepts` and the call are required: what else it has is its own, the rest is filled in."""

    own: Any

    def __call__(self, audio: Tensor, rate: int) -> Any:
        return self.own(audio, rate)

    def __getattr__(self, name: str) -> Any:
        own = object.__getattribute__(self, "own")
        if name not in ("name", "fingerprint", "units", "needs", "queries", "check") or hasattr(own, name):
            return getattr(own, name)
        called = str(getattr(own, "name", getattr(own, "__name__", type(own).__name__)))
        filled = {"name": called, "fingerprint": f"unknown, {called}", "units": "score", "needs": "", "queries": {}}
        return filled.get(name, lambda model: None)  # check: any audio will do


CHANNELS = 32  # more of them than of samples are samples in the place of channels
LOUDEST = 100.0  # what strong edits give is louder than 1, but samples of int16 that nobody scaled are louder by far


def checked_sound(name: str, audio: Any) -> Tensor:
    """Clips as all that hears takes them, floats [clips, channels, samples]. Raises ValueError for anything else."""
    if not isinstance(audio, Tensor) or not audio.is_floating_point():
        kind = audio.dtype if isinstance(audio, Tensor) else type(audio).__name__
        raise ValueError(f"{name} is of {kind}, expected a tensor of floats, -1..1.")
    if audio.ndim != 3 or (len(audio) and audio.shape[1] > max(CHANNELS, audio.shape[2])):
        raise ValueError(f"{name} has shape {tuple(audio.shape)}, expected [clips, channels, samples].")
    return audio.detach()


def hearable(audio: Any, rate: Any) -> tuple[Tensor, int]:
    """What a scorer is called with, as every scorer here takes it: float32 [clips, channels, samples], with gradients, and the rate.

    Raises ValueError for anything else, so that no scorer has a number for sound in another form.
    """
    rate = whole("rate", rate, 1000, why=" Hz")
    if not checked_sound("audio", audio).numel():
        raise ValueError(f"audio has shape {tuple(audio.shape)}, expected [clips, channels, samples] with at least one of each.")
    if not float(peak := audio.detach().abs().max()) <= LOUDEST:
        raise ValueError(f"audio reaches {float(peak):g}, expected finite samples, -1..1: divide those of int16 by 32768.")
    return audio.float(), rate


def opinions(also: Any) -> tuple[Scorer, ...]:
    """One scorer, several, or none (None), each completed. Raises ValueError and TypeError for anything else."""
    several = (also,) if hasattr(also, "concepts") else () if also is None else also
    return tuple(map(completed, listed("also", several, "a list of scorers")))


def completed(scorer: Any) -> Scorer:
    """Your own scorer as a full `Scorer`: `concepts` and a call are enough, the rest has defaults.

    Without a `fingerprint`, a folder of results cannot tell that the scorer changed. Raises TypeError for anything that cannot
    score.
    """
    if isinstance(scorer, type) or not callable(scorer) or not hasattr(scorer, "concepts"):
        raise TypeError(
            f"scorer is {said(scorer)}, expected an object with `concepts` that is called with audio and its rate (see Scorer)."
        )
    names = scorer.concepts
    if isinstance(names, str) or not hasattr(names, "__getitem__") or not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"concepts of the scorer {said(scorer)} is {said(names)}, expected a list of names, in the order of its columns."
        )
    if not len(names) or len(set(names)) < len(names):
        raise ValueError(f"concepts of the scorer {said(scorer)} is {said(list(names))}, expected at least one name, each once.")
    called = getattr(scorer, "name", None)
    if called is not None and (not isinstance(called, str) or not called.strip()):
        raise TypeError(f"name of the scorer {said(scorer)} is {said(called)}, expected text, which stands in tables and charts.")
    plain_name("The scorer's name", called or "scorer")
    complete = all(hasattr(scorer, name) for name in ("name", "fingerprint", "units", "needs", "queries", "check"))
    return scorer if complete else _Completed(scorer)


def same_scorer(one: Any, other: Any) -> bool:
    """Whether two are the same scorer, of which one or both may have been completed."""
    own = [each.own if isinstance(each, _Completed) else each for each in (one, other)]
    return own[0] is own[1]


def resampled(audio: Tensor, rate: int, to: int) -> Tensor:
    """Audio [..., samples] at another rate, Hz, in bounded time: torchaudio's filter grows with what the rates do not share."""
    if max(rate, to) <= 1000 * gcd(rate, to):
        return resample(audio, rate, to)
    ready_librosa()
    return torch.from_numpy(librosa.resample(audio.cpu().numpy(), orig_sr=rate, target_sr=to, res_type="soxr_hq")).to(
        audio.device
    )


def scores_of(scorer: Any, audio: Tensor, rate: int) -> pd.DataFrame:
    """What a scorer says of clips [clips, channels, samples]: float32, one row per clip in order, one column for each concept.

    It gets a copy of the audio. Its answer may be a table, an array, a tensor or lists; by name if it has names, else in the order
    of its `concepts`. Raises ValueError that says what it returned if that is anything else.
    """
    names, answer = list(scorer.concepts), scorer(audio.clone(), rate)
    try:
        if isinstance(answer, Sequence) and answer and all(isinstance(row, Mapping) for row in answer):
            answer = pd.DataFrame(answer)
        if isinstance(answer, pd.DataFrame | Mapping):
            values = np.stack([_numbers(answer[name]) for name in names], 1)
        else:
            values = _numbers(answer if hasattr(answer, "__len__") else list(answer))
        values = values[:, None] if values.ndim == 1 and len(names) == 1 else values
        if values.shape != (len(audio), len(names)):
            raise ValueError(f"its shape is {list(values.shape)}")
        if np.isinf(values).any():
            raise ValueError("it contains infinity")
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"The scorer {getattr(scorer, 'name', scorer)!r} returned {type(answer).__name__} ({error}), expected numbers "
            f"[clips, concepts] = [{len(audio)}, {len(names)}], for the concepts {', '.join(names)}."
        ) from error
    return pd.DataFrame(values, columns=names)


def _numbers(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        return values.detach().float().cpu().numpy()
    if isinstance(values, Sequence) and not isinstance(values, str):
        return np.array([_numbers(value) for value in values], dtype=np.float32)
    found = np.asarray(values)
    if np.iscomplexobj(found) or any(value is None for value in found.ravel() if found.dtype == object):
        raise TypeError("it contains None, or complex numbers")
    return found.astype(np.float32)


def check_scores(scorer: Scorer, concept: str) -> None:
    """Raise ValueError if a scorer does not know a concept."""
    if not among(concept, list(scorer.concepts)):
        raise ValueError(f"The {scorer.name} cannot score {said(concept)}: it knows {', '.join(scorer.concepts)}.")


def noise_like(model: Any, seconds: float, clips: int) -> Tensor:
    """Noise of a model's rate and channels to try scorers on: float32 [clips, channels, samples]."""
    channels = int(getattr(model.pipe.vae.config, "audio_channels", 1))
    return 0.1 * torch.randn(clips, channels, int(seconds * model.rate), generator=torch.Generator().manual_seed(0))


def try_scorers(scorers: Iterable[Any], model: Any, seconds: float) -> None:
    """Let scorers judge the model, and two clips of noise as long as the model's, before anything is generated.

    Raises what they raise, and ValueError for an answer of another form (see `scores_of`).
    """
    noise = noise_like(model, seconds, 2)
    for scorer in scorers:
        scorer.check(model)
        scores_of(scorer, noise, model.rate)


def _tabled(scorer: Any, audio: Tensor, rate: int) -> pd.DataFrame:
    """What a scorer's `scores` gives as a table, one column for each concept."""
    with torch.no_grad():
        return pd.DataFrame(scorer.scores(audio, rate).cpu().numpy(), columns=scorer.concepts)


@dataclass(frozen=True, eq=False)
class ListenerScorer:
    """The tiny model's own classifier as a scorer: log-odds of each label of each group, calibrated up to +-6 and not clipped.

    `listener_scorer` makes one.

    Args:
        listener: The network, `audioscope.tiny.Listener`.
        name: "listener" or "judge".
        any_audio: Whether to accept models whose music the network was not trained on.
        units: The units of its scores.
        calibrated: The end of the range in which its probabilities were tested.
        needs: What must be installed.
        queries: Empty: it is not asked in words.

    Example:
        >>> clip = model.generate("a slow song with cello", seed=0)
        >>> import torch
        >>> scores = audioscope.scoring.listener_scorer()(torch.from_numpy(clip.samples)[None], clip.rate)
        >>> bool(scores["cello"][0] > scores["drums"][0])
        True
    """

    listener: Any
    name: str = "listener"
    any_audio: bool = False
    units: str = "log-odds"
    calibrated: float = 6.0
    needs: str = "nothing: it ships with audioscope"
    queries: Mapping[str, str] = field(default_factory=dict)

    @property
    def concepts(self) -> list[str]:
        return [name for names in GROUPS.values() for name in names if name != "none"]

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.listener)

    def check(self, model: Any) -> None:
        if not self.any_audio and not model.adapter.is_tiny:
            raise ValueError(
                f"The {self.name} knows only the tiny model's music, and {model.name} is another kind of model: give a scorer "
                "made for it, or listener_scorer(any_audio=True) if you know what you are doing."
            )

    def _heard(self, audio: Tensor, rate: int) -> Tensor:
        """The audio as mono at the listener's rate and length [clips, 65536]."""
        audio, rate = hearable(audio, rate)
        if not self.any_audio and (rate != RATE or audio.shape[-1] != SAMPLES):
            raise ValueError(
                f"The audio is {audio.shape[-1] / rate:g} s at {rate} Hz, but the {self.name} expects {SAMPLES / RATE:g} s at "
                f"{RATE} Hz: generate with the model's default length, or use any_audio=True."
            )
        mono = (resampled(audio, rate, RATE) if rate != RATE else audio).mean(1)
        return torch.nn.functional.pad(mono, (0, max(0, SAMPLES - mono.shape[-1])))[:, :SAMPLES]

    def __call__(self, audio: Tensor, rate: int) -> pd.DataFrame:
        return _tabled(self, audio, rate)

    def scores(self, audio: Tensor, rate: int) -> Tensor:
        """The scores of the call as a tensor, through which gradients reach the audio.

        Args:
            audio: Float [clips, channels, samples].
            rate: Its sampling rate, Hz.

        Returns:
            The log-odds, float32 [clips, concepts].
        """
        heard = self.listener.differentiable(self._heard(audio, rate))
        columns = {name: heard[group][:, i] for group, names in GROUPS.items() for i, name in enumerate(names)}
        return torch.stack([columns[name] for name in self.concepts], 1)

    @torch.no_grad()
    def layers(self, audio: Tensor, rate: int) -> list[Tensor]:
        """What the network's blocks give, for `feature_distance`.

        Args:
            audio: Float [clips, channels, samples].
            rate: Its sampling rate, Hz.

        Returns:
            One tensor for each block, [clips, channels, ...].
        """
        x, outputs = (self.listener.codec.log_mel(self._heard(audio, rate))[:, None] + 2.0) / 1.6, []
        for block in self.listener.body.body:
            x = block(x)
            outputs.append(x)
        return outputs


def listener_scorer(name: str = "listener", any_audio: bool = False) -> ListenerScorer:
    """The tiny model's listener as a scorer, or its judge, which measures the reported gains; nothing is localized or priced with it.

    Args:
        name: "listener" or "judge".
        any_audio: Whether to accept clips of other models, lengths and rates, which it was not trained on.

    Returns:
        The scorer.

    Raises:
        UnknownName: There is no listener of that name (a KeyError).

    Example:
        >>> audioscope.scoring.listener_scorer("judge").concepts[:3]
        ['female', 'male', 'slow']
    """
    any_audio = truth("any_audio", any_audio)
    known_name("listener", name, tuple(listener.POOLS))
    return ListenerScorer(listener.load(name), name, any_audio)


def _queries(concepts: Sequence[str] | Mapping[str, str] | None, template: str) -> dict[str, str]:
    """Concept -> text query: as given, or the template around each concept's phrase; None is the paper's concepts."""
    if isinstance(concepts, Mapping):
        return dict(concepts)
    groups = shipped_groups()
    names = [name for name in groups if name not in ("none", "neutral", "medium")] if concepts is None else list(concepts)
    return {name: template.format(PHRASES[groups[name]].format(c=name) if name in groups else name) for name in names}


class _TextScorer:
    """The base of scorers with text queries: `network` hears any audio, `queries` is concept -> text."""

    network: Any
    queries: dict[str, str]

    @property
    def concepts(self) -> list[str]:
        return list(self.queries)

    @cached_property
    def fingerprint(self) -> str:
        asked = hashlib.sha256(json.dumps(self.queries, sort_keys=True).encode()).hexdigest()[:8]
        return f"{fingerprint(self.network)}-{asked}"

    def check(self, model: Any) -> None:
        """Accept any model's audio."""


class Clap(_TextScorer):
    """Cosine similarity of sound and text in any CLAP checkpoint of transformers (the paper's scorer for two models).

    Longer clips are scored in windows of the checkpoint's length (10 s) and averaged; shorter ones are repeated, as its authors do.
    The level is not normalized.

    Args:
        checkpoint: A folder or a hub name.
        concepts: Names, or a mapping from name to text query; None is the paper's.
        template: Put around each concept's phrase.
        device: None is a GPU if there is one, else the CPU.

    Raises:
        FileNotFoundError: The folder holds no checkpoint.
        ConnectionError: The checkpoint is not there and cannot be fetched; the message says how to get it in one line.

    Example:
        >>> clap = audioscope.scoring.Clap(concepts=["violin", "drums"])  # doctest: +SKIP
        >>> audioscope.localize(audioscope.load("stabilityai/stable-audio-open-1.0"), ["violin"], scorer=clap)  # doctest: +SKIP
    """

    units = "cosine similarity"

    def __init__(
        self, checkpoint: str | Path = "laion/larger_clap_music", concepts: Sequence[str] | Mapping[str, str] | None = None,
        template: str = "This is a music of {}", device: str | None = None,
    ):  # fmt: skip
        from transformers import ClapModel, ClapProcessor

        self.name, self.needs = f"clap ({checkpoint})", f"the checkpoint {checkpoint}"
        try:
            with LOADING:
                self.processor = ClapProcessor.from_pretrained(checkpoint)
                self.network = ClapModel.from_pretrained(checkpoint).eval()
        except Exception as error:
            kind = FileNotFoundError if Path(checkpoint).is_absolute() or Path(checkpoint).exists() else ConnectionError
            raise kind(
                f"No CLAP checkpoint at {str(checkpoint)!r}: give a folder, or the name of a checkpoint on the hub that was "
                "downloaded once, such as with `hf download laion/larger_clap_music`."
            ) from error
        self.network.to(default_device(device))
        self.queries = _queries(concepts, template)

    @cached_property
    @torch.no_grad()
    def _texts(self) -> Tensor:
        asked = self.processor.tokenizer(list(self.queries.values()), padding=True, return_tensors="pt").to(self.network.device)
        return torch.nn.functional.normalize(_pooled(self.network.get_text_features(**asked)), dim=-1)

    def _windows(self, audio: Tensor, rate: int) -> tuple[dict[str, Tensor], int]:
        """The network's input for all windows of all clips, and how many windows a clip has."""
        extractor = self.processor.feature_extractor
        audio, rate = hearable(audio, rate)
        mono = resampled(audio.mean(1), rate, extractor.sampling_rate)
        length = extractor.nb_max_samples
        count = ceil(mono.shape[-1] / length)
        starts = torch.linspace(0, max(0, mono.shape[-1] - length), count).long().tolist()
        mel = log_mel(torch.stack([mono[:, start : start + length] for start in starts], 1).flatten(0, 1), extractor)
        return {"input_features": mel.to(self.network.device), "is_longer": torch.zeros(len(mel), 1, dtype=torch.bool)}, count

    @torch.no_grad()
    def embeddings(self, audio: Tensor, rate: int) -> Tensor:
        """Embed clips: the mean over windows, normalized again.

        Args:
            audio: Float [clips, channels, samples].
            rate: Its sampling rate, Hz.

        Returns:
            Unit vectors, float32 [clips, width].
        """
        return self._embedded(audio, rate)

    def _embedded(self, audio: Tensor, rate: int) -> Tensor:
        inputs, count = self._windows(audio, rate)
        each = torch.nn.functional.normalize(_pooled(self.network.get_audio_features(**inputs)), dim=-1)
        return torch.nn.functional.normalize(each.unflatten(0, (-1, count)).mean(1), dim=-1)

    def __call__(self, audio: Tensor, rate: int) -> pd.DataFrame:
        return _tabled(self, audio, rate)

    def scores(self, audio: Tensor, rate: int) -> Tensor:
        """The scores of the call as a tensor, through which gradients reach the audio.

        Args:
            audio: Float [clips, channels, samples].
            rate: Its sampling rate, Hz.

        Returns:
            The cosine similarities, float32 [clips, concepts].
        """
        return self._embedded(audio, rate) @ self._texts.T

    @torch.no_grad()
    def layers(self, audio: Tensor, rate: int) -> list[Tensor]:
        """Hidden states of the audio tower, for `feature_distance` (LPAPS).

        Args:
            audio: Float [clips, channels, samples].
            rate: Its sampling rate, Hz.

        Returns:
            One tensor for each layer, [clips, channels, ..., windows].
        """
        inputs, count = self._windows(audio, rate)
        states = self.network.audio_model(**inputs, output_hidden_states=True).hidden_states
        return [state.unflatten(0, (-1, count)).movedim(1, -1) for state in states]


def log_mel(waves: Tensor, extractor: Any) -> Tensor:
    """What a CLAP checkpoint's feature extractor makes of waves of at most its length, with gradients: mels in dB.

    waves: float [clips, samples], mono, at the extractor's rate. Returns float32 [clips, 1 (fusion: 4), frames, mels].
    """
    length, size = extractor.nb_max_samples, extractor.fft_window_size
    if waves.shape[1] < length:
        if extractor.padding in ("repeat", "repeatpad"):
            waves = waves.repeat(1, length // waves.shape[1] + (extractor.padding == "repeat"))[:, :length]
        waves = torch.nn.functional.pad(waves, (0, length - waves.shape[1]))
    fused = extractor.truncation == "fusion"
    filters = torch.as_tensor(extractor.mel_filters if fused else extractor.mel_filters_slaney).to(waves.device)
    window = torch.hann_window(size, dtype=torch.float64, device=waves.device)
    spectrum = torch.stft(waves.double(), size, extractor.hop_length, window=window, pad_mode="reflect", return_complex=True)
    power = spectrum.real.square() + spectrum.imag.square()
    mel = 10 * (power.mT @ filters.double()).clamp_min(1e-10).log10()
    return mel.float()[:, None].expand(-1, 4 if fused else 1, -1, -1)


def _pooled(output: Any) -> Tensor:
    """transformers 5 wraps features in an output object, earlier versions do not."""
    return getattr(output, "pooler_output", output)


class Muq(_TextScorer):
    """Similarity of sound and text in MuQ-MuLan (the paper's other scorer); needs the extra `muq` and its checkpoint.

    Args:
        checkpoint: A folder or a hub name.
        concepts: Names, or a mapping from name to text query; None is the paper's.
        template: Put around each concept's phrase.
        device: None is a GPU if there is one, else the CPU.

    Raises:
        ImportError: The extra is missing; the message has the command that adds it.
        ConnectionError: The checkpoint is missing; the message says how to get it in one line.

    Example:
        >>> muq = audioscope.scoring.Muq(concepts=["violin", "drums"])  # doctest: +SKIP
    """

    units, rate = "similarity", 24_000

    def __init__(
        self, checkpoint: str | Path = "OpenMuQ/MuQ-MuLan-large", concepts: Sequence[str] | Mapping[str, str] | None = None,
        template: str = "A {} track", device: str | None = None,
    ):  # fmt: skip
        need("muq", "The MuQ scorer")
        from muq import MuQMuLan

        self.name, self.needs = f"muq ({checkpoint})", f"the extra muq and the checkpoint {checkpoint}"
        try:
            with LOADING:
                self.network = MuQMuLan.from_pretrained(str(checkpoint)).eval()
        except Exception as error:
            raise ConnectionError(
                f"No MuQ-MuLan checkpoint at {str(checkpoint)!r}: download it once with `hf download {checkpoint}`."
            ) from error
        self.network.to(default_device(device))
        self.queries = _queries(concepts, template)

    @torch.no_grad()
    def __call__(self, audio: Tensor, rate: int) -> pd.DataFrame:
        audio, rate = hearable(audio, rate)
        device = next(self.network.parameters()).device
        heard = self.network(wavs=resampled(audio.mean(1), rate, self.rate).to(device))
        asked = self.network(texts=list(self.queries.values()))
        return pd.DataFrame(self.network.calc_similarity(heard, asked).cpu().numpy(), columns=self.concepts)


# Which of musicnn's tags stand for a concept: the tag of its name, and its synonyms, whatever they score.
TAGS: dict[str, tuple[str, ...]] = {
    "female": ("female", "woman", "female vocal", "female voice", "female vocalist", "female vocalists"),
    "male": ("male", "man", "male vocal", "male voice", "male vocalists"),
    "metal": ("metal", "heavy metal"),
    **{name: (name,) for name in ("slow", "fast", "happy", "sad", "opera", "jazz", "techno", "pop", "violin", "cello", "flute",
                                  "guitar", "piano", "drums")},
}  # fmt: skip


class Musicnn:
    """Log-odds of tags by musicnn, an outside ear: it learned from recordings of music, and its weights ship with audioscope.

    The score of a concept is the mean log-odds of its tags: over those that a net has, then over the nets that have any. It hears
    any model's audio, in windows of 3 s; a shorter clip is repeated. How well it hears a concept in music that certainly has it is
    its ceiling, to be stated beside every number ("An outside ear" in the documentation). It has no tags for trumpet, saxophone,
    trombone, xylophone, harmonica, bongos, maracas and reggae. Source: Pons and Serra, "musicnn: pre-trained convolutional neural
    networks for music audio tagging", 2019 (ISC licence).

    Args:
        tags: Concept -> its tags, such as {"harp": ("harp",)}; None is a fixed table of 17 concepts, not tuned to any clips,
            without those that `nets` have no tag for.
        nets: The training sets of the nets: "MTT" (MagnaTagATune) and "MSD" (Million Song Dataset), of 50 tags each.
        device: None is a GPU if there is one, else the CPU.
        name: Its name in tables; None is "musicnn", with the net if it is only one.

    Raises:
        UnknownName: There is no such net or tag; the message lists those that there are.
        ValueError: There are no tags of a concept in `nets`, or an argument is of another form.

    Example:
        >>> ear = audioscope.scoring.Musicnn()
        >>> clips = [model.generate(f"a {tempo} metal song", seed=0) for tempo in ("fast", "slow")]
        >>> import torch
        >>> scores = ear(torch.stack([torch.from_numpy(clip.samples) for clip in clips]), clips[0].rate)
        >>> bool(scores["fast"][0] > scores["fast"][1])
        True
        >>> audioscope.scoring.Musicnn({"harp": ("harp",)}).concepts
        ['harp']
    """

    units, needs = "log-odds", "nothing: it ships with audioscope"

    def __init__(
        self,
        tags: Mapping[str, Sequence[str]] | None = None,
        nets: Sequence[str] = musicnn.NETS,
        device: str | None = None,
        name: str | None = None,
    ):
        names = sorted(texts("nets", nets), key=lambda net: [*musicnn.NETS, net].index(net))
        known = {name: musicnn.tags_of(name) for name in names}
        if not names or len(known) < len(names):
            raise ValueError(f"nets is {said(nets)}, expected at least one net, each once.")
        if tags is None:
            tags = {concept: asked for concept, asked in TAGS.items() if any(set(asked) & set(have) for have in known.values())}
        if not isinstance(tags, Mapping) or not tags:
            raise ValueError(f"tags is {said(tags)}, expected the tags of each concept, such as {{'harp': ['harp']}}.")
        every = sorted({tag for name in musicnn.NETS for tag in musicnn.tags_of(name)})
        self.tags: dict[str, tuple[str, ...]] = {}
        for concept, asked in tags.items():
            plain_name("A concept of tags", said_text("A concept of tags", concept))
            asked = listed(f"tags[{concept!r}]", asked, "a list of tags")
            self.tags[concept] = tuple(known_name("musicnn tag", tag, every) for tag in asked)
            if not any(set(asked) & set(have) for have in known.values()):
                raise ValueError(f"{' and '.join(names)} of musicnn have none of the tags {asked} of {concept!r}.")
        if name is not None:
            plain_name("name", said_text("name", name))
        self.name = name or ("musicnn" if set(names) == set(musicnn.NETS) else f"musicnn ({names[0]})")
        self.queries = {concept: ", ".join(asked) for concept, asked in self.tags.items()}
        self.nets = [musicnn.load(name).to(default_device(device)) for name in names]

    @property
    def concepts(self) -> list[str]:
        return list(self.tags)

    @cached_property
    def fingerprint(self) -> str:
        table = hashlib.sha256(json.dumps(self.tags, sort_keys=True).encode()).hexdigest()[:8]
        return f"{fingerprint(*self.nets)}-{table}"

    def check(self, model: Any) -> None:
        """Accept any model's audio.

        Args:
            model: Any model.
        """

    def __call__(self, audio: Tensor, rate: int) -> pd.DataFrame:
        return _tabled(self, audio, rate)

    def scores(self, audio: Tensor, rate: int) -> Tensor:
        """The scores of the call as a tensor, through which gradients reach the audio.

        Args:
            audio: Float [clips, channels, samples].
            rate: Its sampling rate, Hz.

        Returns:
            The log-odds, float32 [clips, concepts].
        """
        wave = self._heard(audio, rate)
        heard = [(net.tags, net.log_odds(wave)) for net in self.nets]
        columns = []
        for asked in self.tags.values():
            each = [
                odds[:, [tags.index(tag) for tag in there]].mean(1)
                for tags, odds in heard if (there := [tag for tag in asked if tag in tags])
            ]  # fmt: skip
            columns.append(torch.stack(each).mean(0))
        return torch.stack(columns, 1)

    def layers(self, audio: Tensor, rate: int) -> list[Tensor]:
        """What the stages of each net give, for `feature_distance`.

        Args:
            audio: Float [clips, channels, samples].
            rate: Its sampling rate, Hz.

        Returns:
            One tensor for each stage, [clips, channels, ..., windows]; a net has five, which together take 0.6 MB for 3 s.
        """
        wave = self._heard(audio, rate)
        return [stage for net in self.nets for stage in net.features(wave)]

    def _heard(self, audio: Tensor, rate: int) -> Tensor:
        """The audio as mono at 16 kHz [clips, samples]."""
        audio, rate = hearable(audio, rate)
        return resampled(audio.mean(1), rate, musicnn.RATE)


MEASURED = {"fast": ("tempo", 1), "slow": ("tempo", -1), "happy": ("mode", 1), "sad": ("mode", -1)}


@dataclass(frozen=True)
class MeasureScorer:
    """A measurement as a scorer, without weights: each concept is a column of `measure` with a sign.

    A clip without the measurement (no onsets, silence) scores NaN, and its cell is left out.

    Args:
        which: Concept -> (column, 1 or -1).
        name: Its name in tables.
        units: Its units in tables.
        needs: What must be installed.
        queries: Empty: it is not asked in words.

    Raises:
        ValueError: A column does not exist, or a sign is not 1 or -1.

    Example:
        >>> scorer = audioscope.scoring.MeasureScorer({"fast": ("tempo", 1), "bright": ("centroid", 1)})
        >>> scorer.concepts
        ['fast', 'bright']
    """

    which: Mapping[str, tuple[str, int]] = field(default_factory=lambda: dict(MEASURED))
    name: str = "measures"
    units: str = "the measurement's own"
    needs: str = "nothing"
    queries: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = ("tempo", "onsets", "mode", "register", "centroid", "loudness")
        if not isinstance(self.which, Mapping):
            raise ValueError(
                f"which is {said(self.which)}, expected a dict of concepts, each with a column of `measure` and 1 or -1."
            )
        for concept, asked in self.which.items():
            column, sign = asked if isinstance(asked, tuple | list) and len(asked) == 2 else (asked, 0)
            if not among(column, columns) or not isinstance(sign, int | float | np.number) or sign not in (1, -1):
                raise ValueError(f"{said(concept)} is measured by {said(asked)}, expected one of {columns} with 1 or -1.")

    @property
    def concepts(self) -> list[str]:
        return list(self.which)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps({c: list(w) for c, w in self.which.items()}, sort_keys=True).encode()).hexdigest()[:16]

    def check(self, model: Any) -> None:
        """Accept any audio.

        Args:
            model: Any model.
        """

    def __call__(self, audio: Tensor, rate: int) -> pd.DataFrame:
        from audioscope.scoring.measures import measure

        table = measure(*hearable(audio, rate))
        return pd.DataFrame({concept: sign * table[column] for concept, (column, sign) in self.which.items()}, dtype=float)


def default_scorer(model: Any) -> Scorer:
    """The scorer that a model's adapter names: the listener for `tiny`, CLAP for the real models.

    Args:
        model: The model.

    Returns:
        The scorer.

    Example:
        >>> audioscope.scoring.default_scorer(model).name
        'listener'
    """
    if not hasattr(model, "adapter"):
        raise ValueError(f"model is {said(model)}, expected a Model.")
    return listener_scorer() if model.adapter.is_tiny else Clap()


def second_opinions(scorer: Scorer) -> tuple[Scorer, ...]:
    """The additional scorers of a sweep if none were named: the judge for `tiny`'s listener, else none."""
    if isinstance(scorer, ListenerScorer) and scorer.name == "listener":
        return (listener_scorer("judge", scorer.any_audio),)
    return ()


def feature_distance(layers: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """How different each clip sounds from another to a network: 0 for equal clips.

    Layer by layer, features are normalized to unit length over channels (dimension 1), and the squared differences are averaged
    over positions, then over layers. This is LPIPS without learned weights (Zhang et al., 2018), which with CLAP's tower is called
    LPAPS (Iashin and Rahtu, 2021).

    Args:
        layers: The hidden states of clips, such as a scorer's `layers` returns, each [clips, channels, ...].
        others: Those of the clips to compare them with, in the same shapes.

    Returns:
        The distances, float32 [clips].

    Example:
        >>> import torch
        >>> layers = audioscope.scoring.listener_scorer().layers(torch.randn(2, 1, 65536), 16_000)
        >>> audioscope.scoring.feature_distance(layers, layers).tolist()
        [0.0, 0.0]
    """
    layers, others = (
        all_of(name, listed(name, value, "what `layers` of a scorer returns"), Tensor)
        for name, value in (("layers", layers), ("others", others))
    )
    wrong = ValueError(
        "layers and others have other shapes: expected what `layers` of one scorer returns for as many clips, or one."
    )
    if (
        not layers
        or len(layers) != len(others)
        or any(one.ndim != two.ndim or one.shape[1:] != two.shape[1:] for one, two in zip(layers, others, strict=True))
    ):
        raise wrong
    if any(1 not in (len(one), len(two)) and len(one) != len(two) for one, two in zip(layers, others, strict=True)):
        raise wrong
    parts = []
    for one, two in zip(layers, others, strict=True):
        a, b = (torch.nn.functional.normalize(x.float(), dim=1) for x in (one, two))
        parts.append((a - b).square().sum(1).reshape(len(a), -1).mean(1))
    return torch.stack(parts).mean(0)
