"""The tiny model put together: a small Stable Audio 3 from diffusers' and transformers' own classes."""

from __future__ import annotations

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableAudio3DiTModel, StableAudio3Pipeline
from diffusers.pipelines.stable_audio_3.modeling_stable_audio_3 import StableAudio3DurationEmbedder
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5GemmaConfig, T5GemmaEncoderModel
from transformers.models.t5gemma.configuration_t5gemma import T5GemmaModuleConfig

from audioscope.tiny.captions import vocabulary
from audioscope.tiny.codec import MelCodec

WIDTH = 128
LAYERS = 12
TEXT_TOKENS = 40


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per word of the captions' vocabulary, lowercase; everything else is <unk>."""
    words = ["<pad>", "<eos>", "<unk>", *vocabulary()]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", model_max_length=TEXT_TOKENS
    )


def build(codec: MelCodec, seed: int = 0) -> StableAudio3Pipeline:
    """A pipeline with random weights: 12 layers of width 128, about 3 M parameters in the transformer."""
    torch.manual_seed(seed)
    words = tokenizer()
    module = T5GemmaModuleConfig(
        vocab_size=len(words), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, head_dim=WIDTH // 4, query_pre_attn_scalar=WIDTH // 4,
        max_position_embeddings=TEXT_TOKENS, pad_token_id=0, eos_token_id=1, bos_token_id=1,
    )  # fmt: skip
    config = T5GemmaConfig(
        encoder=module, decoder=T5GemmaModuleConfig(**module.to_dict()), is_encoder_decoder=False, vocab_size=len(words)
    )
    transformer = StableAudio3DiTModel(
        io_channels=codec.config.latent_dim, embed_dim=WIDTH, depth=LAYERS, num_heads=4, cond_token_dim=WIDTH,
        global_cond_dim=WIDTH, local_add_cond_dim=1, timestep_features_dim=64, ff_mult=2.0, num_memory_tokens=4,
        use_differential_attention=False,
    )  # fmt: skip
    for name, weight in transformer.named_parameters():
        if name.endswith(("self_attn.to_out.weight", "cross_attn.to_out.weight", "ff.proj_out.weight")):
            torch.nn.init.normal_(weight, std=0.02 / (2 * LAYERS) ** 0.5)  # residual branches start small
    return StableAudio3Pipeline(
        vae=codec,
        text_encoder=T5GemmaEncoderModel(config),
        tokenizer=words,
        duration_embedder=StableAudio3DurationEmbedder(output_dim=WIDTH, fourier_dim=32, max_val=8.0, max_freq=100.0),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0, stochastic_sampling=False),
    )
