"""Models that tests share: the shipped `tiny`, and a random Stable Audio of 4 layers built from the real classes."""

from pathlib import Path

import pandas as pd
import pytest
import torch

torch.set_num_threads(1)  # small tensors: threads cost more than they give, and tests may run side by side

import audioscope  # noqa: E402
from audioscope.model import Model  # noqa: E402

PROMPTS = ("a slow sad song with violin", "a fast happy song with drums")


@pytest.fixture(scope="session")
def tiny() -> Model:
    return audioscope.load("tiny")


@pytest.fixture(scope="session")
def stable_audio(tmp_path_factory) -> Model:
    """A random StableAudioPipeline of 4 layers, saved and loaded as a user's folder would be."""
    folder = tmp_path_factory.mktemp("stable-audio") / "pipe"
    build_stable_audio().save_pretrained(folder)
    return audioscope.load(folder)


@pytest.fixture(params=["tiny", "stable_audio"])
def model(request) -> Model:
    """Each law holds on both."""
    return request.getfixturevalue(request.param)


def build_stable_audio(layers: int = 4):
    from diffusers import AutoencoderOobleck, CosineDPMSolverMultistepScheduler, StableAudioDiTModel, StableAudioPipeline
    from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    torch.manual_seed(0)
    words = ["<pad>", "<unk>", *sorted({w for p in PROMPTS for w in p.split()} | {"music"})]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    transformer = StableAudioDiTModel(
        sample_size=32, in_channels=8, num_layers=layers, attention_head_dim=16, num_attention_heads=2,
        num_key_value_attention_heads=1, out_channels=8, cross_attention_dim=32, time_proj_dim=16,
        global_states_input_dim=64, cross_attention_input_dim=32,
    )  # fmt: skip
    for weight in transformer.parameters():  # some start at zero, and then no edit would change anything
        torch.nn.init.normal_(weight, std=0.15)
    return StableAudioPipeline(
        vae=AutoencoderOobleck(8, [2, 4], [1, 2], 8, 8, 2, 16_000),
        text_encoder=T5EncoderModel(
            T5Config(vocab_size=len(words), d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=2)
        ).eval(),
        projection_model=StableAudioProjectionModel(32, 32, 0, 10),
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", model_max_length=8),
        transformer=transformer,
        scheduler=CosineDPMSolverMultistepScheduler(),
    )


class Nearness:
    """A scorer without weights: how near a unit's clips are to its first one, the clean clip (0 is equal)."""

    name = fingerprint = "nearness"

    def __init__(self, concept: str):
        self.concepts = [concept]

    def check(self, model) -> None:
        pass

    def __call__(self, audio, rate):
        return pd.DataFrame({self.concepts[0]: -(audio - audio[:1]).flatten(1).norm(dim=1).numpy()})


@pytest.fixture(scope="session")
def root() -> Path:
    return Path(__file__).resolve().parent.parent
