"""Small random pipelines of the real classes: what works on their structure works on the published weights."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PROMPTS = ("a slow sad song with violin", "a fast happy song with drums and flute")  # of different lengths, in words
WORDS = ["<pad>", "<unk>", *sorted({word for prompt in PROMPTS for word in prompt.split()} | {"music"})]


def word_tokenizer(length: int = 8) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", model_max_length=length)


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    """With random weights everywhere: some start at zero, and then no edit would change anything."""
    for weight in module.parameters():
        torch.nn.init.normal_(weight, std=0.15)
    return module.eval()


def build_stable_audio(layers: int = 4):
    from diffusers import AutoencoderOobleck, CosineDPMSolverMultistepScheduler, StableAudioDiTModel, StableAudioPipeline
    from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    transformer = StableAudioDiTModel(
        sample_size=32, in_channels=8, num_layers=layers, attention_head_dim=16, num_attention_heads=2,
        num_key_value_attention_heads=1, out_channels=8, cross_attention_dim=32, time_proj_dim=16,
        global_states_input_dim=64, cross_attention_input_dim=32,
    )  # fmt: skip
    return StableAudioPipeline(
        vae=AutoencoderOobleck(8, [2, 4], [1, 2], 8, 8, 2, 16_000),
        text_encoder=T5EncoderModel(
            T5Config(vocab_size=len(WORDS), d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=2)
        ).eval(),
        projection_model=StableAudioProjectionModel(32, 32, 0, 10),
        tokenizer=word_tokenizer(),
        transformer=shaken(transformer),
        scheduler=CosineDPMSolverMultistepScheduler(),
    )


def build_audioldm2(language_model: str = "GPT2LMHeadModel"):
    import transformers
    from diffusers import AudioLDM2Pipeline, AudioLDM2ProjectionModel, AudioLDM2UNet2DConditionModel, AutoencoderKL, DDIMScheduler
    from transformers import (
        ClapConfig,
        ClapFeatureExtractor,
        ClapModel,
        GPT2Config,
        RobertaTokenizer,
        SpeechT5HifiGan,
        SpeechT5HifiGanConfig,
        T5Config,
        T5EncoderModel,
        T5Tokenizer,
    )

    torch.manual_seed(0)
    unet = AudioLDM2UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=8, sample_size=32, in_channels=4, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=[[None, 16, 32, None]] * 2, attention_head_dim=8, transformer_layers_per_block=1,
    )  # fmt: skip
    text = {"hidden_size": 8, "intermediate_size": 37, "num_attention_heads": 1, "num_hidden_layers": 1,
            "vocab_size": 100, "projection_dim": 8}  # fmt: skip
    audio = {"spec_size": 8, "window_size": 4, "num_mel_bins": 8, "intermediate_size": 37, "depths": [1, 1],
             "num_attention_heads": [1, 1], "num_hidden_layers": 1, "hidden_size": 192, "projection_dim": 8, "patch_size": 2,
             "patch_stride": 2, "patch_embed_input_channels": 4}  # fmt: skip
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *sorted({letter for word in WORDS for letter in word}), "\u0120"]
    gpt2 = GPT2Config(n_embd=16, n_head=1, n_layer=1, vocab_size=100, n_positions=99, max_new_tokens=8)
    whole = getattr(transformers, language_model)(gpt2)
    whole.config.max_new_tokens = 8
    vae = AutoencoderKL(
        block_out_channels=[8, 16], in_channels=1, out_channels=1, norm_num_groups=8, latent_channels=4,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
    )  # fmt: skip
    vocoder = SpeechT5HifiGanConfig(
        model_in_dim=8, sampling_rate=25, upsample_initial_channel=16, upsample_rates=[2, 2], upsample_kernel_sizes=[4, 4],
        resblock_kernel_sizes=[3, 7], resblock_dilation_sizes=[[1, 3, 5], [1, 3, 5]], normalize_before=False,
    )  # fmt: skip
    return AudioLDM2Pipeline(
        unet=shaken(unet),
        scheduler=DDIMScheduler(
            beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
        ),
        vae=vae.eval(),
        text_encoder=ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=16)).eval(),
        text_encoder_2=T5EncoderModel(
            T5Config(vocab_size=len(pieces), d_model=32, d_ff=37, d_kv=8, num_heads=1, num_layers=1)
        ).eval(),
        tokenizer=RobertaTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], model_max_length=77),
        tokenizer_2=T5Tokenizer(
            vocab=[(piece, -1.0) for piece in ["<pad>", "</s>", "<unk>", "\u2581", *pieces[4:-1]]],
            extra_ids=0,
            model_max_length=77,
        ),
        feature_extractor=ClapFeatureExtractor(feature_size=8, hop_length=7900),
        language_model=whole.eval(),
        projection_model=AudioLDM2ProjectionModel(text_encoder_dim=16, text_encoder_1_dim=32, langauge_model_dim=16).eval(),
        vocoder=shaken(SpeechT5HifiGan(vocoder)),
    )


def build_ace_step(turbo: bool = False):
    from diffusers import AceStepPipeline, AceStepTransformer1DModel, AutoencoderOobleck, FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.ace_step import AceStepAudioTokenDetokenizer, AceStepAudioTokenizer, AceStepConditionEncoder
    from transformers import Qwen3Config, Qwen3Model

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
             "rope_theta": 10_000.0, "sliding_window": 16}  # fmt: skip
    pooled = {"audio_acoustic_hidden_dim": 8, "pool_window_size": 2, "num_attention_pooler_hidden_layers": 1}
    transformer = AceStepTransformer1DModel(
        **shape, num_hidden_layers=4, in_channels=24, audio_acoustic_hidden_dim=8, patch_size=2, is_turbo=turbo
    )
    condition = AceStepConditionEncoder(
        **shape, text_hidden_dim=32, timbre_hidden_dim=8, num_lyric_encoder_hidden_layers=1, num_timbre_encoder_hidden_layers=1
    )
    text = Qwen3Config(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        vocab_size=len(WORDS), max_position_embeddings=512,
    )  # fmt: skip
    tokenizer = word_tokenizer(512)
    tokenizer.padding_side = "left"  # as Qwen3-Embedding's is
    return AceStepPipeline(
        transformer=shaken(transformer),
        condition_encoder=condition.eval(),
        vae=AutoencoderOobleck(6, [1, 2], [2, 4], 3, 8, 2, 50).eval(),
        text_encoder=Qwen3Model(text).eval(),
        tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
        audio_tokenizer=AceStepAudioTokenizer(
            **shape, **pooled, fsq_dim=32, fsq_input_levels=[4, 4, 4], fsq_input_num_quantizers=1
        ).eval(),
        audio_token_detokenizer=AceStepAudioTokenDetokenizer(**shape, **pooled).eval(),
    )


def build_stable_audio_3(distilled: bool = True):
    """With what the published model has and `tiny` has not: differential attention, the SAME autoencoder, re-noising."""
    from diffusers import AutoencoderSAME, FlowMatchEulerDiscreteScheduler, StableAudio3DiTModel, StableAudio3Pipeline
    from diffusers.pipelines.stable_audio_3 import StableAudio3DurationEmbedder
    from transformers import T5GemmaConfig, T5GemmaEncoderModel, T5GemmaModuleConfig

    torch.manual_seed(0)
    module = T5GemmaModuleConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=64, sliding_window=64, layer_types=["full_attention"],
    )  # fmt: skip
    transformer = StableAudio3DiTModel(
        io_channels=8, embed_dim=32, depth=4, num_heads=4, cond_token_dim=32, global_cond_dim=32, local_add_cond_dim=5,
        timestep_features_dim=16, ff_mult=2, num_memory_tokens=3, use_differential_attention=True,
    )  # fmt: skip
    vae = AutoencoderSAME(
        audio_channels=2, patch_size=2, encoder_channels=8, encoder_c_mults=(2,), encoder_strides=(2,),
        encoder_transformer_depths=(1,), latent_dim=8, use_differential_attention=True, dim_heads=4, ff_mult=2, sampling_rate=16,
    )  # fmt: skip
    return StableAudio3Pipeline(
        transformer=shaken(transformer),
        vae=vae.eval(),
        text_encoder=T5GemmaEncoderModel(
            T5GemmaConfig(encoder=module.to_dict(), decoder=module.to_dict(), is_encoder_decoder=False)
        ).eval(),
        tokenizer=word_tokenizer(16),
        duration_embedder=StableAudio3DurationEmbedder(output_dim=32, fourier_dim=16).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0, stochastic_sampling=distilled),
    )


BUILDERS = {
    "stable_audio": build_stable_audio,
    "stable_audio_3": build_stable_audio_3,
    "audioldm2": build_audioldm2,
    "ace_step": build_ace_step,
}
