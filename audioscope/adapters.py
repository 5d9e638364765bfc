"""Adapters: the facts about a pipeline class that cannot be read from its module tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class Adapter:
    """Where a pipeline keeps its denoiser and how it lays out rows, text, tokens and time."""

    pipeline: str  # class name
    denoiser: str  # component that holds the attention sites
    branches: tuple[str, ...]  # order in which guidance stacks its halves
    text: tuple[str, ...]  # arguments of a cross-attention site that carry the text and its mask
    seconds: str  # the pipeline's argument for the duration in seconds
    leading_tokens: int | str = 0  # tokens before those of time (memory, duration): a number, or the denoiser's config entry
    steps: int = 50  # defaults of a generation
    guidance: float = 1.0
    default_seconds: float = 10.0
    max_seconds: float | None = None
    extra: tuple[tuple[str, Any], ...] = ()  # further arguments of the pipeline call

    def rows(self, count: int, guidance: float) -> dict[str, range]:
        """The rows of each guidance branch in a denoiser call for `count` prompts."""
        if guidance <= 1.0:
            return {"cond": range(count)}
        return {name: range(i * count, (i + 1) * count) for i, name in enumerate(self.branches)}

    def leading(self, denoiser: Any) -> int:
        """How many leading tokens of a site's output are not time (memory, duration)."""
        return self.leading_tokens if isinstance(self.leading_tokens, int) else int(denoiser.config[self.leading_tokens])

    def max_duration(self, pipe: DiffusionPipeline) -> float | None:
        """The longest clip in seconds that the pipeline makes, where its configuration or the adapter says."""
        if self.max_seconds is not None:
            return self.max_seconds
        longest = getattr(getattr(pipe, self.denoiser).config, "sample_size", None)
        if longest is None:
            return None
        return longest * pipe.vae.hop_length / pipe.vae.config.sampling_rate

    def sampling_rate(self, pipe: DiffusionPipeline) -> int:
        """Hz."""
        return int(pipe.vae.config.sampling_rate)


STABLE_AUDIO_3 = Adapter(
    pipeline="StableAudio3Pipeline", denoiser="transformer", branches=("uncond", "cond"),
    text=("context", "context_mask"), seconds="duration", leading_tokens="num_memory_tokens",
    steps=8, default_seconds=10.0, max_seconds=384.0,
)  # fmt: skip
# The embedded model is a Stable Audio 3 trained at one length; it is told from the real ones by its codec.
TINY = Adapter(
    pipeline="StableAudio3Pipeline", denoiser="transformer", branches=("uncond", "cond"),
    text=("context", "context_mask"), seconds="duration", leading_tokens="num_memory_tokens",
    steps=10, guidance=3.0, default_seconds=4.096, max_seconds=4.096,
)  # fmt: skip
STABLE_AUDIO = Adapter(
    pipeline="StableAudioPipeline", denoiser="transformer", branches=("uncond", "cond"),
    text=("encoder_hidden_states", "attention_mask"), seconds="audio_end_in_s", leading_tokens=1,
    steps=100, guidance=7.0,
)  # fmt: skip


def adapter_for(pipe: DiffusionPipeline) -> Adapter:
    """The adapter of a loaded pipeline. Raises ValueError for a class that has none, naming what one must say."""
    if type(getattr(pipe, "vae", None)).__name__ == "MelCodec":
        return TINY
    for adapter in (STABLE_AUDIO_3, STABLE_AUDIO):
        if adapter.pipeline == type(pipe).__name__:
            return adapter
    raise ValueError(
        f"No adapter for {type(pipe).__name__}. audioscope.load(..., adapter=Adapter(...)) takes one: it says where the "
        "denoiser is, the order of the guidance branches, the text arguments of a cross-attention site, and the duration argument."
    )
