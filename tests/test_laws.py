"""The laws of tracing and editing, on the shipped model and on small random ones of the real classes."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from helpers.pipelines import PROMPTS

from audioscope import tracing
from audioscope.edits import Ablate, PatchOutput, PatchText, SlidePrediction
from audioscope.tracing import Read, Row

A, B = PROMPTS
A_TOO = "a sad slow violin with song"  # as many words and letters as A: some pipelines' own batches depend on lengths
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def settings(model, guidance=3.0, **more):
    return {**model.sampling(3, guidance, None), "decode": False, **more}


def plain(model, prompts, seeds, guidance):
    """The pipeline's own call, without audioscope or nnsight."""
    return model.pipe(
        list(prompts), generator=[torch.Generator().manual_seed(s) for s in seeds], num_inference_steps=3,
        guidance_scale=guidance, output_type="latent", **{model.adapter.seconds: settings(model)["seconds"]},
        **{name: [value] * len(prompts) for name, value in model.adapter.each},
    )[0]  # fmt: skip


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_1_no_edit_is_the_plain_call_bit_for_bit(model, guidance):
    rows = [Row(A, 0), Row(A_TOO, 1)]
    if model.adapter.encode:  # texts encoded one by one differ from those of a batch in the last digit
        rows = rows[:1]
    expected = plain(model, [row.prompt for row in rows], [row.seed for row in rows], guidance)
    assert torch.equal(model.run(rows, **settings(model, guidance)).latents, expected)
    reading = model.run(rows, read=Read(model.sites.select("all")), **settings(model, guidance))
    assert torch.equal(reading.latents, expected), "reading every site changed the result"


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_2_text_swap_everywhere_is_the_clean_run_and_nowhere_the_corrupted(model, guidance):
    rows = [Row(A, 0), Row(B, 0), Row(B, 0, (PatchText("cross", A),)), Row(B, 0, ())]
    clean, corrupted, swapped, untouched = model.run(rows, **settings(model, guidance)).latents
    assert not torch.allclose(clean, corrupted, rtol=1e-2, atol=1e-2), "the prompts must differ for the law to say anything"
    torch.testing.assert_close(swapped, clean, **CLOSE)
    torch.testing.assert_close(untouched, corrupted, **CLOSE)


def test_3_swapping_a_prompt_with_itself_changes_nothing(model):
    for patch in (PatchText("cross", B), PatchOutput("all", B)):
        base, swapped = model.run([Row(B, 0), Row(B, 0, (patch,))], **settings(model)).latents
        torch.testing.assert_close(swapped, base, **CLOSE)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_4_packed_rows_are_separate_runs(model, guidance):
    site = model.sites.cross[1]
    rows = [
        Row(A, 0),
        Row(B, 1),
        Row(B, 0, (PatchText(site, A),)),
        Row(A, 2, (Ablate(site),)),
        Row(B, 3, (PatchOutput(site, A),)),
    ]
    packed = model.run(rows, **settings(model, guidance)).latents
    for row, together in zip(rows, packed, strict=True):
        alone = model.run([row], **settings(model, guidance)).latents[0]
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [PatchText, PatchOutput])
def test_5_windows_that_cover_all_steps_are_no_window(model, kind):
    site = model.sites.cross[0]
    parts = tuple(kind(site, A, steps=w) for w in ((0, 1), (1, 2), (2, 3)))
    whole, pieces, first = model.run(
        [Row(B, 0, (kind(site, A),)), Row(B, 0, parts), Row(B, 0, parts[:1])], **settings(model)
    ).latents  # fmt: skip
    torch.testing.assert_close(pieces, whole, **CLOSE)
    assert not torch.allclose(first, whole, rtol=1e-4, atol=1e-5), "one window alone must do less"


def test_6_an_edit_leaves_earlier_layers_of_the_first_step_unchanged(model):
    sites = model.sites.cross
    read = Read(sites, steps=(0,))
    reads = model.run([Row(B, 0), Row(B, 0, (PatchText(sites[2], A),))], read=read, **settings(model)).reads
    for site in sites:
        base, edited = reads[site.path]
        same = torch.allclose(base, edited, rtol=1e-5, atol=1e-6)
        if site.layer <= 2:  # what follows changes too, but by how much is the model's affair
            assert same == (site.layer < 2), f"layer {site.layer} {'changed' if not same else 'did not change'}"


def test_7_nothing_acts_or_stays_after_a_run_or_an_exception(model, monkeypatch):
    expected = plain(model, [A], [0], 3.0)
    change, seen, allowed = Ablate.change, [], 10**6

    def watched(self, own, other, here):
        seen.append(weakref.ref(own if own._base is None else own._base))  # `own` is a row of the whole tensor
        if len(seen) > allowed:
            raise RuntimeError("broken on purpose")
        return change(self, own, other, here)

    def nothing_is_left():
        gc.collect()
        assert seen and not any(ref() is not None for ref in seen), "a captured tensor is still referenced"
        assert torch.equal(plain(model, [A], [0], 3.0), expected), "an edit still acts"

    monkeypatch.setattr(Ablate, "change", watched)
    model.run([Row(A, 0, (Ablate("all"),))], **settings(model))
    nothing_is_left()
    seen.clear()
    allowed = 2
    with pytest.raises(RuntimeError, match="broken on purpose"):
        model.run([Row(A, 0, (Ablate("cross"),))], **settings(model))
    assert len(seen) == 3
    nothing_is_left()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_8_a_prediction_slid_from_its_own_prompt_is_a_patch(model, guidance):
    """At amount 1 and away from the row's own prompt, of the other prompt's text at these sites, and everywhere so of its run."""
    site = model.sites.cross[1]
    slides = [SlidePrediction(where, A, B) for where in ("cross", site)]
    none = [SlidePrediction("cross", A, B, 0.0), SlidePrediction(site, A, A, 2.0)]
    patches = [PatchText(where, A, branch="cond") for where in ("cross", site)]
    rows = [Row(B, 0), *(Row(B, 0, (edit,)) for edit in [*patches, *slides, *none])]
    own, clean, patched, everywhere, here, *untouched = model.run(rows, **settings(model, guidance)).latents
    torch.testing.assert_close(everywhere, clean, **CLOSE)
    torch.testing.assert_close(here, patched, **CLOSE)
    for each in untouched:
        torch.testing.assert_close(each, own, **CLOSE)
    assert not torch.allclose(patched, own, rtol=1e-4, atol=1e-5), "the site must do something for the law to say anything"


def test_9_a_slide_acts_in_its_window_whatever_its_neighbors(model):
    slide = SlidePrediction("cross", A, B, 3.0, steps=(1, 3))
    base, late, whole = model.run(
        [Row(A_TOO, 0), Row(A_TOO, 0, (slide,)), Row(A_TOO, 0, (replace(slide, steps=None),))], **settings(model)
    ).latents
    assert not torch.allclose(late, whole, rtol=1e-4, atol=1e-5) and not torch.allclose(late, base, rtol=1e-4, atol=1e-5)
    alone = model.run([Row(A_TOO, 0, (slide,))], **settings(model)).latents[0]
    torch.testing.assert_close(late, alone, rtol=1e-5, atol=1e-5)


def test_the_mask_travels_with_the_text():
    """No pipeline here hands a mask to its sites, but others do: the row's mask is swapped like its states."""
    states, mask = torch.randn(4, 5, 8), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).repeat(2, 1)
    actions = [tracing._Action(PatchText("cross", A), ((1, 0), (3, 2)), A, 0)]
    call = ((), {"encoder_hidden_states": states, "attention_mask": mask, "other": states})
    _, swapped = tracing._swap_text(call, ("encoder_hidden_states", "attention_mask"), actions, None)
    for row, source in ((0, 0), (1, 0), (2, 2), (3, 2)):
        assert torch.equal(swapped["encoder_hidden_states"][row], states[source])
        assert torch.equal(swapped["attention_mask"][row], mask[source])
    assert swapped["other"] is states and not mask[1].all(), "what is no text stays, and the originals are untouched"
    with pytest.raises(RuntimeError, match="adapter is wrong"):
        tracing._swap_text(((), {}), ("encoder_hidden_states",), actions, None)


def test_edits_that_could_never_act_are_refused(tiny):
    with pytest.raises(ValueError, match="window"):
        tiny.run([Row(A, 0, (Ablate("cross", steps=(2, 9)),))], **settings(tiny))
    with pytest.raises(ValueError, match="branch"):
        tiny.run([Row(A, 0, (Ablate("cross", branch="uncond"),))], **settings(tiny, guidance=1.0))


def test_branches_act_apart(model):
    site = model.sites.cross[0]
    rows = [Row(B, 0, (Ablate(site, branch=b),)) for b in ("both", "cond", "uncond")] + [Row(B, 0)]
    # Stable Audio's default unconditional text is zeros, where ablation has nothing to take away
    negative = A if model.adapter.negative else None
    both, cond, uncond, none = model.run(rows, **settings(model, negative_prompt=negative)).latents
    results = [both, cond, uncond, none]
    assert all(not torch.allclose(x, y, rtol=1e-4, atol=1e-5) for i, x in enumerate(results) for y in results[:i])


class Hooks:
    """The same edits by plain torch hooks: an independent path that shares no code with the package."""

    def __init__(self, model, path, text=None, output=None):
        component, rest = path.split(".", 1)
        self.module = getattr(model.pipe, component).get_submodule(rest)
        self.text, self.output = text, output

    def __enter__(self):
        if self.text:
            self.handle = self.module.register_forward_pre_hook(self._swap, with_kwargs=True)
        else:
            self.handle = self.module.register_forward_hook(lambda m, i, o: self.output(o))
        return self

    def __exit__(self, *_):
        self.handle.remove()

    def _swap(self, module, args, kwargs):
        name = "context" if "context" in kwargs else "encoder_hidden_states"
        states = kwargs[name].clone()
        half = len(states) // 2
        states[half - 1], states[-1] = states[0], states[half]  # the last row of each half reads the first row's text
        return args, {**kwargs, name: states}


@pytest.mark.parametrize("layer", [0, 2])
def test_plain_hooks_give_the_same_latents(model, layer):
    path = model.sites.cross[layer].path
    with Hooks(model, path, text=True):
        hooked = plain(model, [A, A_TOO], [0, 0], 3.0)[1]
    ours = model.run([Row(A, 0), Row(A_TOO, 0, (PatchText(path, A),))], **settings(model)).latents[1]
    torch.testing.assert_close(ours, hooked, rtol=1e-5, atol=1e-5)

    def zero_last(out):
        out = out.clone()
        out[len(out) // 2 - 1], out[-1] = 0, 0
        return out

    with Hooks(model, path, output=zero_last):
        hooked = plain(model, [A, A_TOO], [0, 0], 3.0)[1]
    ours = model.run([Row(A, 0), Row(A_TOO, 0, (Ablate(path),))], **settings(model)).latents[1]
    torch.testing.assert_close(ours, hooked, rtol=1e-5, atol=1e-5)


def test_reads_are_the_modules_outputs(model):
    path = model.sites.cross[1].path
    component, rest = path.split(".", 1)
    seen = []
    handle = (
        getattr(model.pipe, component).get_submodule(rest).register_forward_hook(lambda m, i, o: seen.append(o.detach().clone()))
    )
    try:
        plain(model, [A, A_TOO], [0, 1], 3.0)
    finally:
        handle.remove()
    whole = model.run([Row(A, 0), Row(A_TOO, 1)], read=Read((model.sites[path],), pool=False), **settings(model)).reads[path]
    leading = model.adapter.leading(model.denoiser)
    cond = model.adapter.rows(2, 3.0)["cond"]
    exact = {"rtol": 1e-3, "atol": 1e-6} if model.adapter.encode else {"rtol": 0, "atol": 0}
    for step, output in enumerate(seen):
        torch.testing.assert_close(whole[:, step], output[cond.start : cond.stop, leading:], **exact)
    pooled = model.run([Row(A, 0), Row(A_TOO, 1)], read=Read((model.sites[path],)), **settings(model)).reads[path]
    torch.testing.assert_close(pooled, whole.mean(2))


def test_activations_stream(tiny):
    """A generator: the second batch is not run before it is asked for."""
    prompts = [A, B, A]
    runs = []
    original = tracing.run
    try:
        tracing.run = lambda *a, **k: runs.append(1) or original(*a, **k)
        stream = tiny.activations(prompts, "cross", steps=2, batch_size=2)
        first = next(stream)
        assert len(runs) == 1
        rest = list(stream)
    finally:
        tracing.run = original
    assert len(runs) == 2 and [first.prompt, *(r.prompt for r in rest)] == prompts
    assert first.values[tiny.sites.cross[0].path].shape == (2, 128) and first.sigmas.shape == (2,)


def test_nnsight_leaves_no_save_on_every_object():
    assert not hasattr(object(), "save"), "nnsight's mount breaks torchsde"
