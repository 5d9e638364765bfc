"""Adapters: the facts about a pipeline class that cannot be read from its module tree."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from torch import Tensor


def _stable_audio(pipe: Any, latents: Tensor) -> Tensor:
    audio: Tensor = pipe.vae.decode(latents.to(pipe.vae.dtype)).sample
    return audio


def _audioldm2(pipe: Any, latents: Tensor) -> Tensor:
    mel = pipe.vae.decode(latents.to(pipe.vae.dtype) / pipe.vae.config.scaling_factor).sample
    audio: Tensor = pipe.mel_spectrogram_to_waveform(mel).unsqueeze(1)
    return audio


def _ace_step(pipe: Any, latents: Tensor) -> Tensor:
    """Decode latents and turn down only clips above full scale; the pipeline itself brings every clip to a peak of -1 dB."""
    audio: Tensor = pipe.vae.decode(latents.transpose(1, 2).to(pipe.vae.dtype)).sample.float()
    return audio / audio.abs().amax((1, 2), keepdim=True).clamp_min(1.0)


def _audioldm2_stream(path: str, config: Any) -> str:
    """Each resnet is followed by one attention per text width of its block; the first two of them read GPT-2, later ones T5."""
    widths = config["cross_attention_dim"][0]
    number = re.search(r"attentions\.(\d+)", path)
    position = int(number[1]) % len(widths) if number and not isinstance(widths, int) else 0
    return "gpt2" if position <= 1 else "t5"


def _prepare_audioldm2(pipe: Any) -> None:
    """Put a language head on the GPT2Model that published folders name: without one, transformers 5 can no longer step it."""
    if type(pipe.language_model).__name__ == "GPT2Model":
        model = transformers.GPT2LMHeadModel(pipe.language_model.config)
        model.transformer = pipe.language_model
        model.tie_weights()
        pipe.register_modules(language_model=model.to(pipe.language_model.device, pipe.language_model.dtype).eval())


@torch.no_grad()
def _encode_audioldm2(pipe: Any, prompts: Sequence[str], guided: bool, negative: str | None) -> dict[str, Tensor]:
    """Encode each prompt by itself: GPT-2 counts padding as positions, so a batch would shift a prompt's states."""
    names = ("prompt_embeds", "attention_mask", "generated_prompt_embeds")
    alone = {
        prompt: pipe.encode_prompt(
            [prompt], pipe._execution_device, 1, guided, negative_prompt=None if negative is None else [negative]
        )
        for prompt in dict.fromkeys(prompts)
    }
    longest = max(mask.shape[1] for _, mask, _ in alone.values())

    def stacked(place: int, branch: int) -> Tensor:
        parts = [alone[prompt][place][branch] for prompt in prompts]
        if place == 2:  # the number of GPT-2 states is fixed
            return torch.stack(parts)
        return torch.stack([torch.nn.functional.pad(p, (0, 0) * (p.ndim - 1) + (0, longest - len(p))) for p in parts])

    cond = {name: stacked(place, -1) for place, name in enumerate(names)}
    return cond if not guided else cond | {f"negative_{name}": stacked(place, 0) for place, name in enumerate(names)}


def _prepare_ace_step(pipe: Any) -> None:
    """Pad texts on the right: padding before a text would shift its positions by the length of its neighbors in the batch."""
    pipe.tokenizer.padding_side = "right"


@dataclass(frozen=True)
class Adapter:
    """Where a pipeline keeps its denoiser and how it lays out rows, text, tokens and time.

    All pipelines that audioscope knows make one denoiser call per step, and text enters only through cross-attention.
    `audioscope.tracing.check` verifies this, and what the adapter says, when a model is loaded.

    Args:
        pipeline: The name of the pipeline's class.
        denoiser: The component that holds the attention sites.
        branches: The order in which guidance stacks its halves; ("cond",) if the model has none.
        text: The arguments of a cross-attention site that carry the text and its mask.
        seconds: The pipeline's argument for the duration in seconds.
        count: Its argument for clips per prompt, "" if none; always 1, since rows are prompts.
        leading_tokens: Tokens before the time tokens (memory, duration): a number, or a key of the denoiser's config.
        trailing: Names of the tokens that follow the text's in cross-attention, such as that of the duration.
        steps: The default number of denoising steps.
        guidance: The default scale of guidance; 1 means none.
        default_seconds: The default length of a clip, in s.
        max_seconds: The longest clip in s; None means what the pipeline's configuration says.
        extra: Additional arguments of the pipeline call, as (name, value).
        each: Additional arguments that take a list, as (name, the value for every prompt).
        negative: Whether the unconditional branch can take a negative prompt.
        encode: Makes the arguments that replace prompts, from the pipeline, the prompts, whether there is guidance, and the
            negative prompt; None passes the prompts themselves.
        rate: The component whose config has the sampling rate.
        audio: Turns latents into waveforms [rows, channels, samples], from the pipeline and the latents.
        stream: Tells which text encoder a site reads, from its path and the denoiser's config; None if there is only one.
        fixed_length: Whether latents have one length, whatever the duration.
        packed_by: The component that packs the condition and returns (states, mask), if the pipeline drops the mask.
        prepare: Makes a loaded pipeline run as its authors intended.
        scorer: The name of the default scorer.
        paper: Settings of TADA's localization, as (name, value), if it used the model.

    Example:
        >>> mine = audioscope.Adapter("MyPipeline", "transformer", ("uncond", "cond"), ("states", "mask"), seconds="duration")
        >>> mine.rows(2, guidance=7.0)
        {'uncond': range(0, 2), 'cond': range(2, 4)}
    """

    pipeline: str
    denoiser: str
    branches: tuple[str, ...]
    text: tuple[str, ...]
    seconds: str
    count: str = "num_waveforms_per_prompt"
    leading_tokens: int | str = 0
    trailing: tuple[str, ...] = ()
    steps: int = 50
    guidance: float = 1.0
    default_seconds: float = 10.0
    max_seconds: float | None = None
    extra: tuple[tuple[str, Any], ...] = ()
    each: tuple[tuple[str, Any], ...] = ()
    negative: bool = True
    encode: Callable[[Any, Sequence[str], bool, str | None], dict[str, Tensor]] | None = None
    rate: str = "vae"
    audio: Callable[[Any, Tensor], Tensor] = _stable_audio
    stream: Callable[[str, Any], str] | None = None
    fixed_length: bool = False
    packed_by: str = ""
    prepare: Callable[[Any], None] = lambda pipe: None
    scorer: str = "clap"
    paper: tuple[tuple[str, Any], ...] = ()

    @property
    def is_tiny(self) -> bool:
        """Whether it is the embedded model's, whose music the listener and the judge know."""
        return self.scorer == "listener"

    def rows(self, count: int, guidance: float) -> dict[str, range]:
        """Tell which rows of a denoiser call belong to each guidance branch.

        Args:
            count: The number of prompts.
            guidance: The scale of guidance; at most 1 means there is only "cond".

        Returns:
            The rows of each branch, by its name.
        """
        if guidance <= 1.0:
            return {"cond": range(count)}
        return {name: range(i * count, (i + 1) * count) for i, name in enumerate(self.branches)}

    def leading(self, denoiser: Any) -> int:
        """Count the leading tokens of a site's output that are not time (memory, duration).

        Args:
            denoiser: The pipeline's denoiser, whose config may say it.

        Returns:
            Their number.
        """
        return self.leading_tokens if isinstance(self.leading_tokens, int) else int(denoiser.config[self.leading_tokens])

    def max_duration(self, pipe: Any) -> float | None:
        """Find the longest clip that the pipeline makes.

        Args:
            pipe: The pipeline.

        Returns:
            Its length in s; None if neither the pipeline's configuration nor the adapter says.
        """
        if self.max_seconds is not None:
            return self.max_seconds
        longest, hop = getattr(getattr(pipe, self.denoiser).config, "sample_size", None), getattr(pipe.vae, "hop_length", None)
        return None if longest is None or hop is None else longest * hop / self.sampling_rate(pipe)

    def sampling_rate(self, pipe: Any) -> int:
        """Read the sampling rate of the pipeline's audio.

        Args:
            pipe: The pipeline.

        Returns:
            The rate in Hz.
        """
        return int(getattr(pipe, self.rate).config.sampling_rate)


STABLE_AUDIO = Adapter(
    pipeline="StableAudioPipeline", denoiser="transformer", branches=("uncond", "cond"),
    text=("encoder_hidden_states", "attention_mask"), seconds="audio_end_in_s", leading_tokens=1, trailing=("start", "end"), fixed_length=True,
    steps=100, guidance=7.0, paper=(("steps", 100), ("guidance", 7.0), ("seconds", 9.0)),
)  # fmt: skip
STABLE_AUDIO_3 = Adapter(  # the distilled checkpoint, with guidance built in
    pipeline="StableAudio3Pipeline", denoiser="transformer", branches=("uncond", "cond"),
    text=("context", "context_mask"), seconds="duration", leading_tokens="num_memory_tokens", trailing=("duration",),
    steps=8, max_seconds=384.0,
)  # fmt: skip
# Not distilled: recognized by its deterministic scheduler.
STABLE_AUDIO_3_BASE = replace(STABLE_AUDIO_3, steps=100, guidance=7.0)
# The embedded model is a Stable Audio 3 trained at one length; its codec tells it apart from the real ones.
TINY = replace(STABLE_AUDIO_3, steps=10, guidance=3.0, default_seconds=4.096, max_seconds=4.096, scorer="listener")
AUDIOLDM2 = Adapter(  # base, music and large; a site's tokens are time by mel bands, time first
    pipeline="AudioLDM2Pipeline", denoiser="unet", branches=("uncond", "cond"),
    text=("encoder_hidden_states", "attention_mask"), seconds="audio_length_in_s",
    steps=200, guidance=3.5, default_seconds=10.24, rate="vocoder", audio=_audioldm2, stream=_audioldm2_stream,
    prepare=_prepare_audioldm2, encode=_encode_audioldm2,
    paper=(("steps", 100), ("guidance", 4.5), ("seconds", 9.0)),
)  # fmt: skip
ACE_STEP = Adapter(  # ACE-Step 1.5 base and sft; lyrics, timbre and text come packed as one condition
    pipeline="AceStepPipeline", denoiser="transformer", branches=("cond", "uncond"),
    text=("encoder_hidden_states", "attention_mask"), seconds="audio_duration", count="",
    steps=50, guidance=7.0, max_seconds=600.0, each=(("lyrics", ""),), audio=_ace_step, packed_by="condition_encoder",
    prepare=_prepare_ace_step, negative=False,
)  # fmt: skip
ACE_STEP_TURBO = replace(ACE_STEP, branches=("cond",), steps=8, guidance=1.0)

NO_LAYER = "its text enters as one vector that every layer adds to its time embedding, so no layer has a text of its own to swap"
REFUSED = {
    "AudioLDMPipeline": NO_LAYER,
    "MusicLDMPipeline": NO_LAYER,
    "LongCatAudioDiTPipeline": "its text also enters every layer's normalization, and guidance calls the denoiser twice per step",
    "MiniMaxMusic3ModularPipeline": "its layers attend only to themselves: the condition joins the latents along "
    "the channels before the first layer, so no layer has a text of its own to swap",
}


def adapter_of_class(pipeline: str) -> Adapter | None:
    """The adapter of a pipeline class, as far as the class name tells; None if there is none.

    Raises ValueError, with the reason in one line, for a class whose text does not enter only through cross-attention.
    """
    if pipeline in REFUSED:
        raise ValueError(f"{pipeline} cannot be analyzed by layer: {REFUSED[pipeline]}.")
    return next((a for a in (STABLE_AUDIO, STABLE_AUDIO_3, AUDIOLDM2, ACE_STEP) if a.pipeline == pipeline), None)


def missing(pipeline: str) -> str:
    """The message for a pipeline class without an adapter: what the user must describe."""
    return (
        f"No adapter for {pipeline}. audioscope.load(..., adapter=audioscope.Adapter(...)) takes one. It names the "
        "denoiser component, the order of the guidance branches, the text arguments of a cross-attention site, the argument for "
        "the duration, and, where they differ from Stable Audio's, how latents become sound and which component has the sampling "
        "rate."
    )


def adapter_for(pipe: Any) -> Adapter:
    """The adapter of a loaded pipeline. Raises ValueError for a class that has none or that audioscope cannot analyse."""
    name = type(pipe).__name__
    adapter = adapter_of_class(name)
    if adapter is None:
        raise ValueError(missing(name))
    if adapter is STABLE_AUDIO_3 and type(pipe.vae).__name__ == "MelCodec":
        return TINY
    if adapter is STABLE_AUDIO_3 and not pipe.scheduler.config.get("stochastic_sampling", False):
        return STABLE_AUDIO_3_BASE
    if adapter is ACE_STEP and pipe.is_turbo:
        return ACE_STEP_TURBO
    return adapter
