"""Adapters and sites: real configurations without weights, refusals, and adapters that do not fit."""

import dataclasses
import inspect
import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from helpers.pipelines import BUILDERS, PROMPTS, build_ace_step, build_audioldm2, build_stable_audio_3

import audioscope
from audioscope import tracing
from audioscope.adapters import (  # fmt: skip
    ACE_STEP,
    ACE_STEP_TURBO,
    AUDIOLDM2,
    REFUSED,
    STABLE_AUDIO_3,
    STABLE_AUDIO_3_BASE,
    TINY,
    adapter_for,
    adapter_of_class,
)
from audioscope.edits import Apply, PatchText
from audioscope.loading import read_sites
from audioscope.model import Model
from audioscope.tracing import Row

A, B = PROMPTS
FIXTURES = Path(__file__).parent / "fixtures"
COUNTS = {  # model: pipeline class, cross-attention sites by stream, self-attention sites
    "stable-audio-open-1.0": ("StableAudioPipeline", {"": 24}, 24),
    "stable-audio-3-medium": ("StableAudio3Pipeline", {"": 24}, 24),
    "audioldm2": ("AudioLDM2Pipeline", {"gpt2": 16, "t5": 16}, 64),
    "audioldm2-music": ("AudioLDM2Pipeline", {"gpt2": 16, "t5": 16}, 64),
    "audioldm2-large": ("AudioLDM2Pipeline", {"gpt2": 32, "t5": 32}, 192),
    "ace-step-1.5-base": ("AceStepPipeline", {"": 24}, 24),
    "ace-step-1.5-turbo": ("AceStepPipeline", {"": 24}, 24),
    "ace-step-1.5-xl-turbo": ("AceStepPipeline", {"": 32}, 32),
}


@pytest.mark.parametrize("name", COUNTS)
def test_sites_come_from_configuration_alone(name):
    pipeline, sites = read_sites(FIXTURES / name)
    streams = [site.stream for site in sites.cross]
    found = {stream: streams.count(stream) for stream in dict.fromkeys(streams)}
    assert (pipeline, found, len(sites) - len(sites.cross)) == COUNTS[name]
    assert [site.layer for site in sites.cross] == list(range(len(sites.cross)))


def test_audioldm2_sites_are_those_of_the_paper_in_running_order():
    """The paper's functional layers of AudioLDM2-large are 45 to 51 of 64, counted from 1: up_blocks.1, attentions 5 to 10."""
    _, sites = read_sites(FIXTURES / "audioldm2-large")
    assert {site.path for site in sites.cross} == {site.path for site in audioscope.datasets.published("audioldm2-large").sites}
    functional = [site.path.removeprefix("unet.up_blocks.1.attentions.").split(".")[0] for site in sites.cross[44:51]]
    assert functional == ["5", "5", "6", "6", "9", "9", "10"]
    published = {site.path: site for site in audioscope.datasets.published("audioldm2-large").sites}
    assert all(published[site.path] == site for site in sites.cross), "layer, width or stream differ"


def test_streams_are_what_a_run_hands_to_each_site(audioldm2):
    """GPT-2 states are 16 wide and T5 states 32 in this random pipeline."""
    seen = {}
    hooks = []
    for site in audioldm2.sites.cross:
        module = audioldm2.denoiser.get_submodule(site.path.split(".", 1)[1])

        def note(module, args, kwargs, site=site):
            seen[site] = kwargs["encoder_hidden_states"].shape[-1]

        hooks.append(module.register_forward_pre_hook(note, with_kwargs=True))
    try:
        audioldm2.run([Row(A, 0)], steps=1, guidance=1.0, seconds=10.24, decode=False)
    finally:
        for hook in hooks:
            hook.remove()
    assert seen == {site: {"gpt2": 16, "t5": 32}[site.stream] for site in audioldm2.sites.cross}


@pytest.mark.slow
def test_sites_command_reads_no_weights(tmp_path):
    command = [sys.executable, "-m", "audioscope", "sites", "--json", "--model", str(FIXTURES / "audioldm2-large")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = json.loads(done.stdout)
    assert len(lines) == 256 and {line["stream"] for line in lines} == {"", "gpt2", "t5"}


@pytest.mark.parametrize("name", REFUSED)
def test_pipelines_whose_text_enters_otherwise_are_refused_in_a_line(tmp_path, name, capsys):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name, "unet": ["diffusers", "UNet2DConditionModel"]}))
    from audioscope.cli.main import main

    assert main(["sites", "--model", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and name in said and REFUSED[name] in said


def test_what_is_refused_is_diffusers_own_and_minimax_has_no_text_to_swap():
    """A refusal by a misspelt name refuses nothing. MiniMax's blocks get the latents and positions alone."""
    import diffusers
    from diffusers.models.transformers.transformer_minimax_music3 import MiniMaxMusic3TransformerBlock

    assert not [name for name in REFUSED if not hasattr(diffusers, name)]
    assert list(inspect.signature(MiniMaxMusic3TransformerBlock.forward).parameters) == ["self", "hidden_states", "rotary_emb"]


def test_a_pipeline_without_an_adapter_still_shows_its_sites(tmp_path, capsys):
    source = FIXTURES / "stable-audio-open-1.0"
    index = json.loads((source / "model_index.json").read_text()) | {"_class_name": "SomeNewPipeline"}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "transformer").symlink_to(source / "transformer")
    from audioscope.cli.main import main

    assert main(["sites", "--model", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert shown.out.count("attn2") == 24
    for fact in ("denoiser", "order of the guidance branches", "text arguments", "duration", "sampling rate"):
        assert fact in shown.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"branches": ("cond", "uncond")}, "does not stack rows as cond before uncond"),
        ({"text": ("context_states",)}, "got no text in context_states"),
        ({"seconds": "length"}, "length"),
        ({"count": "clips_per_prompt"}, "clips_per_prompt"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_at_load(tiny, change, message):
    with pytest.raises(ValueError, match=message):
        Model(tiny.pipe, "tiny", dataclasses.replace(TINY, **change))


def test_a_pipeline_that_calls_its_denoiser_twice_a_step_is_refused(stable_audio):
    forward = stable_audio.denoiser.forward
    calls = []

    def twice(*args, **kwargs):
        if len(calls) % 2 == 0:
            calls.append(1)
            stable_audio.denoiser(*args, **kwargs)
        calls.append(1)
        return forward(*args, **kwargs)

    with patch.object(stable_audio.denoiser, "forward", twice), pytest.raises(ValueError, match="denoiser calls in 2 steps"):
        tracing.check(stable_audio.pipe, stable_audio.adapter, stable_audio.sites)


def test_the_right_adapter_for_each_kind(tiny):
    assert adapter_for(build_stable_audio_3()) is STABLE_AUDIO_3 and adapter_for(tiny.pipe) is TINY
    assert adapter_for(build_stable_audio_3(distilled=False)) is STABLE_AUDIO_3_BASE
    assert adapter_for(build_ace_step()) is ACE_STEP and adapter_for(build_ace_step(turbo=True)) is ACE_STEP_TURBO
    assert adapter_of_class("AudioLDM2Pipeline") is AUDIOLDM2 and adapter_of_class("Unheard") is None


def test_a_turbo_model_has_no_guidance():
    model = Model(build_ace_step(turbo=True), "turbo")
    assert model.sampling()["guidance"] == 1.0
    with pytest.raises(ValueError, match="guidance built in"):
        model.generate("music", guidance=3.0)
    clean, corrupted, swapped = model.run(
        [Row(A, 0), Row(B, 0), Row(B, 0, (PatchText("cross", A),))], steps=3, guidance=1.0, seconds=2.0, decode=False
    ).latents
    torch.testing.assert_close(swapped, clean, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(clean, corrupted, rtol=1e-2, atol=1e-2)


def test_audioldm2_folders_that_name_gpt2model_work_too():
    """transformers 5 took away what the pipeline needs to step a bare GPT2Model; the same weights with a head do."""
    from transformers import GPT2Model

    whole, bare = build_audioldm2(), build_audioldm2()
    bare.language_model = GPT2Model(whole.language_model.config).eval()
    bare.language_model.load_state_dict(whole.language_model.transformer.state_dict())
    results = [
        Model(pipe, "gpt2").run([Row(A, 0)], steps=2, guidance=3.0, seconds=10.24, decode=False).latents for pipe in (whole, bare)
    ]
    assert torch.equal(*results)


def test_ace_step_rows_do_not_hear_their_neighbours_padding(ace_step):
    """The plain pipeline's do, since it drops the mask of its packed condition: that is what the adapter mends."""
    short, long = "music", "a fast happy song with drums and flute and violin"
    plain = ace_step.pipe(
        [short, long], lyrics=[""] * 2, generator=[torch.Generator().manual_seed(0) for _ in range(2)],
        num_inference_steps=2, guidance_scale=3.0, audio_duration=2.0, output_type="latent",
    )[0][0]  # fmt: skip
    settings = {"steps": 2, "guidance": 3.0, "seconds": 2.0, "decode": False}
    alone = ace_step.run([Row(short, 0)], **settings).latents[0]
    together = ace_step.run([Row(short, 0), Row(long, 0)], **settings).latents[0]
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(plain, alone, rtol=1e-3, atol=1e-3), "the plain pipeline masks now: drop the mending"


def test_negative_prompts_where_there_are_none(ace_step):
    with pytest.raises(ValueError, match="takes none"):
        ace_step.run([Row(A, 0)], steps=1, guidance=3.0, seconds=1.0, negative_prompt="noise")


@pytest.mark.parametrize("name", ["tiny", *BUILDERS])
def test_decoded_sound_is_the_pipelines_own(request, name):
    """But for loudness on ACE-Step, whose pipeline brings every clip to one peak."""
    model = request.getfixturevalue(name)
    settings = model.sampling(2, 1.0, None)
    own = model.pipe(
        [A], generator=[torch.Generator().manual_seed(0)], num_inference_steps=2, guidance_scale=1.0, output_type="pt",
        **{model.adapter.seconds: settings["seconds"]}, **{n: [value] for n, value in model.adapter.each},
    )[0].float()  # fmt: skip
    audio = model.run([Row(A, 0)], **settings).audio
    samples = settings["seconds"] * model.rate
    assert audio.ndim == 3 and audio.shape[-1] == pytest.approx(samples, abs=1.0)
    own = own.reshape(audio.shape[0], audio.shape[1], -1)[..., : audio.shape[-1]].clamp(-1, 1)
    if name == "ace_step":
        own, audio = own / own.abs().max(), audio / audio.abs().max()
    assert audio.abs().max() > 1e-3, "silence would tell nothing"
    torch.testing.assert_close(audio, own, rtol=1e-4, atol=1e-5)


def test_long_sound_is_decoded_in_parts(stable_audio, monkeypatch):
    rows = [Row(A, 0), Row(B, 1), Row(A, 2)]
    whole = stable_audio.run(rows, **stable_audio.sampling(2, 1.0, None)).audio
    monkeypatch.setattr(tracing, "DECODED", 1)
    torch.testing.assert_close(stable_audio.run(rows, **stable_audio.sampling(2, 1.0, None)).audio, whole, rtol=1e-4, atol=1e-5)


def test_text_that_enters_elsewhere_too_is_found_at_load(stable_audio):
    forward = stable_audio.denoiser.forward

    def leaking(*args, **kwargs):
        return (forward(*args, **kwargs)[0] + 5 * kwargs["encoder_hidden_states"].mean((1, 2)).view(-1, 1, 1),)

    with patch.object(stable_audio.denoiser, "forward", leaking), pytest.raises(ValueError, match="text enters elsewhere too"):
        tracing.check(stable_audio.pipe, stable_audio.adapter, stable_audio.sites)


HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


@HALVES
@pytest.mark.parametrize("name", BUILDERS)
def test_laws_hold_in_half_precision(tmp_path, name, dtype):
    BUILDERS[name]().save_pretrained(tmp_path)
    model = audioscope.load(tmp_path, dtype=dtype)
    rows = [
        Row(A, 0),
        Row(B, 0),
        Row(B, 0, (PatchText("cross", A),)),
        Row(A, 0, (Apply("cross", lambda output, here: output / 2),)),
    ]
    run = model.run(rows, **model.sampling(3, 3.0, None))
    clean, corrupted, swapped, halved = run.latents.float()
    torch.testing.assert_close(swapped, clean, rtol=2e-2, atol=2e-2)
    assert min((clean - other).abs().max() for other in (corrupted, halved)) > 10 * (clean - swapped).abs().max()
    assert run.audio.dtype == torch.float32 and run.audio.isfinite().all()


@HALVES
def test_tiny_sounds_in_half_precision_as_in_float32(tiny, dtype):
    model = audioscope.load("tiny", dtype=dtype)
    assert model.pipe.transformer.dtype == dtype and torch.equal(model.pipe.vae.basis, tiny.pipe.vae.basis)
    moved = audioscope.load("tiny").pipe.to(dtype)
    assert moved.transformer.dtype == dtype and torch.equal(moved.vae.basis, tiny.pipe.vae.basis)

    def log_mel(model, **keywords):
        clip = model.generate("a jazz song with a flute", steps=8, **keywords)
        return tiny.pipe.vae.log_mel(torch.from_numpy(clip.samples)).flatten()

    same, silent = log_mel(model), log_mel(model, edits=Apply("cross", lambda output, here: 0 * output))
    heard = torch.stack([log_mel(tiny), same, silent]).corrcoef()[0]
    assert heard[1] > 0.98 and heard[2] < 0.9, heard  # .995 and more, against less than .9


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("name", BUILDERS)
def test_laws_hold_on_a_gpu(tmp_path, name):
    BUILDERS[name]().save_pretrained(tmp_path)
    model = audioscope.load(tmp_path, device="cuda")
    rows = [Row(A, 0), Row(B, 0), Row(B, 0, (PatchText("cross", A),))]
    clean, corrupted, swapped = model.run(rows, **model.sampling(3, 3.0, None), decode=False).latents.cpu()
    torch.testing.assert_close(swapped, clean, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(clean, corrupted, rtol=1e-2, atol=1e-2)


def test_a_folder_of_a_modular_pipeline_is_refused_by_its_name(tmp_path):
    """As diffusers itself saves MiniMax Music 3: without a model_index.json."""
    import diffusers

    diffusers.MiniMaxMusic3ModularPipeline().save_pretrained(str(tmp_path))
    for ask in (read_sites, audioscope.load):
        with pytest.raises(ValueError, match="MiniMaxMusic3ModularPipeline cannot be analyzed by layer: its layers attend"):
            ask(tmp_path)
    file = tmp_path / "modular_model_index.json"
    file.write_text(file.read_text().replace("MiniMaxMusic3ModularPipeline", "OtherModularPipeline"))
    with pytest.raises(ValueError, match="modular pipeline, OtherModularPipeline"):
        audioscope.load(tmp_path)
