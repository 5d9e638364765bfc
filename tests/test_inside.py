"""Laws of the sites inside and around attention modules: heads, keys, values, feed-forward modules, blocks."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import audioscope
from audioscope import Ablate, Apply, PatchOutput, PatchText, Read, Row
from audioscope.errors import UnknownName
from audioscope.sites import KINDS, place

A, B = "a fast happy song with violin", "a slow sad song with drums and more words"
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}  # of a batch's rows among each other: some CPUs multiply its last rows by another kernel


def sampled(model, *rows, steps=3, **more):
    """Latents (and reads) of a few steps on a fraction of a second."""
    seconds = min(1.0, model.adapter.max_duration(model.pipe) or 1.0)
    return model.run(list(rows), decode=False, steps=steps, seconds=seconds, **more)


def off(one, other, scale):
    return float((one - other).float().norm() / scale.float().norm())


def edited(*edits):
    return Row(B, 0, edits)


def kinds(model):
    """Those that the model has: not all put tokens before the music's."""
    return [kind for kind in KINDS if not kind.endswith(".memory") or model.adapter.leading(model.denoiser)]


def test_every_kind_of_site_is_found(model):
    for kind in kinds(model):
        sites = model.sites.select(kind)
        assert {site.kind for site in sites} == {kind}
        widths = {
            site.path: values.shape[-1]
            for site, values in zip(
                sites, sampled(model, Row(A, 0), read=Read(sites, pool=False), steps=1).reads.values(), strict=True
            )
        }
        assert widths == {site.path: site.width for site in sites}, "as wide as the site says"
    for site in model.sites:
        assert [head.head for head in site.heads] == list(range(len(site.heads))) and len(site.heads) > 1
        assert sum(head.width for head in site.heads) == site.heads[0].width * len(site.heads)
        assert {each.module for each in site.inside} == {site.path} and {each.layer for each in site.inside} == {site.layer}
        assert model.sites[site.heads[-1].path] == site.heads[-1]


def test_all_heads_of_a_site_are_its_output(model):
    for site in (model.sites.all[0], model.sites.cross[0], model.sites.cross[-1]):
        clean, corrupted, whole, heads, one = sampled(
            model, Row(A, 0), Row(B, 0), edited(PatchOutput(site, A)), edited(PatchOutput(site.heads, A)),
            edited(PatchOutput(site.heads[:1], A)),
        ).latents  # fmt: skip
        assert off(heads, whole, clean - corrupted) < 1e-5
        assert off(one, whole, whole - corrupted) > 0.01, "one head is not all of them"


def test_keys_and_values_of_a_site_are_its_text(model):
    """The prompts differ in length, so that the keys must come with their mask."""
    for site in (model.sites.cross[0], model.sites.cross[-1]):
        clean, corrupted, text, both, keys = sampled(
            model, Row(A, 0), Row(B, 0), edited(PatchText(site, A)), edited(PatchOutput([site.keys, site.values], A)),
            edited(PatchOutput(site.keys, A)),
        ).latents  # fmt: skip
        assert off(both, text, clean - corrupted) < 1e-5
        assert off(keys, text, clean - corrupted) > 1e-3
        window = {"steps": (1, 2)}
        text, both = sampled(
            model, edited(PatchText(site, A, **window)), edited(PatchOutput([site.keys, site.values], A, **window))
        ).latents
        assert off(both, text, clean - corrupted) < 1e-5, "the mask, too, is the other prompt's in the window alone"


def test_keys_and_values_of_self_attention_are_columns_of_a_projection(model):
    """Read by a hook of our own: which columns of which module, for each of the five."""
    site = model.sites.select("self")[0]
    module = model.denoiser.get_submodule(site.module.partition(".")[2])
    heads, width = len(site.heads), site.heads[0].width
    seen = {}

    def saw(name):
        return lambda module, args, output: seen.setdefault(name, output.float())

    if hasattr(module, "to_k"):
        hooks = [getattr(module, name).register_forward_hook(saw(name)) for name in ("to_k", "to_v")]
    else:
        hooks = [module.to_qkv.register_forward_hook(saw("to_qkv"))]
    row = model.adapter.rows(1, model.sampling().guidance)["cond"][0]
    run = sampled(model, Row(A, 0), read=Read((*site.keys, *site.values), pool=False), steps=1)
    for hook in hooks:
        hook.remove()
    keys, values = (run.reads[each.path][0, 0] for each in (*site.keys, *site.values))
    if "to_qkv" in seen:
        many = seen["to_qkv"].shape[-1] // (heads * width)  # q, k, v; of differential attention q, q, k, k, v
        assert many in (3, 5)
        expected = seen["to_qkv"].tensor_split([heads * width * (many // 2), heads * width * (many - 1)], dim=-1)[1:]
    else:
        expected = seen["to_k"], seen["to_v"]
    for mine, theirs in zip((keys, values), expected, strict=True):
        torch.testing.assert_close(mine, theirs[row][model.adapter.leading(model.denoiser) :])


def test_what_belongs_to_the_text_has_no_mean(model):
    """Padding would count in it, whose length hangs on the other rows of a batch."""
    for part in (model.sites.cross[0].keys, model.sites.cross[0].values):
        with pytest.raises(ValueError, match="belongs to the text, whose padding would count"):
            sampled(model, edited(Ablate(part, to="mean")))


@dataclass(frozen=True)
class PatchMusic(PatchOutput):
    """The patch of a whole site, but for its memory."""

    def change(self, own, other, here):
        return torch.cat([own[: here.leading], other[here.leading :]])


def test_memory_and_music_are_all_that_a_site_gives(model):
    leading = model.adapter.leading(model.denoiser)
    if not leading:
        assert not any(site.memory for site in model.sites)
        with pytest.raises(ValueError, match="No sites selected by 'cross.memory'"):
            model.sites.select("cross.memory")
        return
    site = model.sites.cross[1]
    (memory,) = site.memory
    assert (memory.width, memory.timed, memory.module) == (leading * site.width, False, site.path)
    clean, corrupted, whole, both, one, other = sampled(
        model, Row(A, 0), Row(B, 0), edited(PatchOutput(site, A)), edited(PatchOutput(memory, A), PatchMusic(site, A)),
        edited(PatchOutput(memory, A)), edited(PatchMusic(site, A)),
    ).latents  # fmt: skip
    torch.testing.assert_close(whole, both, **ROUNDING)
    assert min(off(each, corrupted, clean - corrupted) for each in (one, other)) > 1e-4
    seen = sampled(
        model, Row(B, 0), edited(PatchOutput(memory, A)), edited(Ablate(memory)), read=Read((memory, site), pool=False)
    ).reads
    assert not seen[memory.path][2].any() and seen[memory.path].shape[2:] == (1, memory.width)
    torch.testing.assert_close(
        seen[site.path][0, 0], seen[site.path][1, 0], **ROUNDING
    )  # in the first step, the music's tokens stay
    assert off(*seen[memory.path][:2, 0], seen[memory.path][0, 0]) > 1e-4


def test_edits_of_a_site_and_its_memory_act_in_the_rows_order(model):
    """They meet at one place: what is patched and then steered keeps the steering, and the other way around it does not."""
    if not model.adapter.leading(model.denoiser):
        pytest.skip("this model has no memory")
    site, memory = model.sites.cross[1], model.sites.cross[1].memory[0]
    more, patch = Apply(memory, lambda output, here: output + 1), PatchOutput(site, A)
    reads = sampled(
        model, Row(A, 0), edited(patch, more), edited(more, patch), read=Read((memory,), steps=(0,), pool=False), steps=1
    ).reads[memory.path]
    torch.testing.assert_close(reads[1], reads[0] + 1)
    torch.testing.assert_close(reads[2], reads[0], **ROUNDING)
    with pytest.raises(ValueError, match="one token, its own mean"):
        sampled(model, edited(Ablate(memory, to="mean")))


def test_a_block_cuts_the_text_in_two(model):
    """What a block gives is all that comes before; the text after it is the rest. A U-Net's skips lead around its blocks."""
    if model.adapter.denoiser == "unet":
        pytest.skip("a U-Net has skip connections")
    blocks = model.sites.select("block")
    later = [
        [site for site in model.sites.cross if model.sites.every.index(site) > model.sites.every.index(block)] for block in blocks
    ]
    rows = [edited(PatchOutput(b, A), *([PatchText(after, A)] if after else [])) for b, after in zip(blocks, later, strict=True)]
    alone = [edited(PatchOutput(block, A)) for block in blocks]
    clean, corrupted, *found = sampled(model, Row(A, 0), Row(B, 0), *rows, *alone).latents
    both, ones = found[: len(blocks)], found[len(blocks) :]
    assert max(off(one, clean, clean - corrupted) for one in [*both, ones[-1]]) < 1e-5
    assert min(off(one, clean, clean - corrupted) for one in ones[:-1]) > 1e-3, "the text after it matters"


def test_in_the_first_step_one_head_does_not_change_another(model):
    site = model.sites.cross[1]
    first, second = site.heads[:2]
    how = {"read": Read((first, second), steps=(0,)), "steps": 1}
    plain = sampled(model, Row(B, 0), Row(B, 0), **how).reads
    reads = sampled(model, Row(B, 0), edited(PatchOutput(first, A)), **how).reads
    assert torch.equal(reads[second.path], plain[second.path])
    assert not torch.allclose(reads[first.path], plain[first.path])


def test_edits_inside_that_ask_for_nothing_change_no_bit(model):
    sites = model.sites.select(kinds(model))
    same = Apply(sites, lambda output, here: output)
    plain = sampled(model, *[Row(B, 0)] * 3).latents
    found = sampled(model, Row(B, 0), edited(PatchOutput(sites, B)), edited(same)).latents
    assert torch.equal(found[[0, 2]], plain[[0, 2]])
    torch.testing.assert_close(found[1], plain[1], **ROUNDING)  # it is given what another row computed


def test_edits_and_reads_of_all_kinds_in_one_run(model):
    """nnsight must be asked in running order, whatever the order of the selection."""
    site = model.sites.cross[0]
    everything = model.sites.select(kinds(model))[::-1]
    edits = (
        PatchText(site, A),
        PatchOutput(site.heads, A),
        Ablate(site.values),
        Ablate("block", steps=(1, 2)),
        Ablate("feed_forward"),
    )
    reads = sampled(model, Row(B, 0), edited(*edits), read=Read(everything, pool=False)).reads
    assert set(reads) == {each.path for each in everything}
    for each in [*site.values, *model.sites.select("feed_forward")]:
        assert not reads[each.path][1].any(), "silenced"


def test_a_planted_head_is_found(stable_audio_3):
    """Only two heads of a random model pass text on: patched one by one, just these have an effect."""
    model = audioscope.Model(stable_audio_3.pipe, "planted", stable_audio_3.adapter)
    planted = {model.sites.cross[1].heads[2].path, model.sites.cross[3].heads[0].path}
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    try:
        for head in model.sites.select("cross.heads"):
            if head.path not in planted:
                where = place(model.denoiser, head)
                model.denoiser.get_submodule(where.module).weight.data[:, where.columns] = 0
        clean, corrupted, *patched = sampled(
            model, Row(A, 0), Row(B, 0), *(edited(PatchOutput(head, A)) for head in model.sites.select("cross.heads"))
        ).latents
        moved = {
            head.path: off(one, corrupted, clean - corrupted)
            for head, one in zip(model.sites.select("cross.heads"), patched, strict=True)
        }
        assert {path for path, effect in moved.items() if effect > 1e-3} == planted
    finally:
        model.denoiser.load_state_dict(before)


def test_text_belongs_to_whole_modules(model):
    for site in (*model.sites.cross[0].inside, *model.sites.select("block")[:1]):
        with pytest.raises(
            ValueError,
            match=r"PatchText needs the text of a cross-attention module, but .* (cross-attention|blocks): use PatchOutput",
        ):
            sampled(model, edited(PatchText(site, A)))


def test_an_unknown_head_is_named(tiny):
    with pytest.raises(UnknownName, match=r"Nearest: .*cross_attn\.heads"):
        tiny.sites["transformer.transformer_blocks.3.cross_attn.heads.9"]
    with pytest.raises(TypeError, match=r"a kind \(cross, self, cross\.heads"):
        tiny.sites.select(2.5)


def test_heads_are_localized_like_layers(tiny, tmp_path):
    """A sweep over heads has their names, resumes, and its one patched head is what patching it by hand gives."""
    sites = [tiny.sites[2].heads, tiny.sites[11].heads]
    how = {"pairs": 2, "sites": sites, "steps": 3, "progress": False}
    atlas = audioscope.localize(tiny, ["fast", "female"], out=tmp_path, **how)
    impacts = atlas.impacts()
    labels = [f"{layer}.{head}" for layer in (2, 11) for head in range(4)]
    assert impacts["layer"].tolist() == labels * 2 and atlas.layer_means()["layer"].tolist() == labels
    assert atlas.settings["patch"] == "output" and atlas.threshold == 2.5 / 8
    assert audioscope.localize(tiny, ["fast", "female"], out=tmp_path, **how).table.equals(atlas.table)
    again = audioscope.Atlas.load(tmp_path)
    assert again.impacts().equals(impacts)
    unit = atlas.table.query("concept == 'fast' and pair == 1 and row == 'patched'").iloc[3]
    row = Row(unit["corrupted_prompt"], int(unit["seed"]), (PatchOutput(unit["site"], unit["clean_prompt"]),))
    by_hand = tiny.clips([row], steps=3)[0]
    kept = audioscope.Clip.load(tmp_path / unit["clip"])
    assert np.linalg.norm(by_hand.mono - kept.mono) < 0.01 * np.linalg.norm(kept.mono)  # 16 bits, another batch
    described = atlas.chart().to_dict()["description"]
    assert "2 concepts by 8 heads" in described


def test_heads_of_both_kinds_of_attention_in_one_sweep(tiny):
    """They share numbers; their kinds and paths tell them apart."""
    sites = [tiny.sites["transformer.transformer_blocks.1.self_attn"].heads[0], tiny.sites[1].heads[0]]
    atlas = audioscope.localize(tiny, ["fast"], 1, sites=sites, steps=1, clips=False, progress=False)
    impacts = atlas.impacts()
    assert impacts["layer"].tolist() == ["self 1.0", "cross 1.0"] and impacts["site"].tolist() == [site.path for site in sites]


def test_vectors_and_saes_take_heads_and_blocks(tiny):
    """A vector and an SAE are as wide as a head; a vector moves it, and acts on nothing before it."""
    head, block = tiny.sites[2].heads[1], tiny.sites.select("block")[3]
    vector = audioscope.caa(tiny, "fast", [head, block], pairs=2, steps=2, progress=False)
    assert {path: value.shape[-1] for path, value in vector.directions.items()} == {head.path: 32, block.path: 128}
    clips = tiny.clips([Row(B, 0), Row(B, 0, (vector.edit(2.0),))], steps=2)
    assert abs(clips[0].mono - clips[1].mono).max() > 0.01
    stream = audioscope.sae.TokenStream(tiny, head.path, ["a fast song"], positions=8, steps=2)
    assert stream.read(["a fast song"], [0])[0].shape == (1, 2, 8, 32)


def test_text_tokens_are_not_time(tiny):
    for site in (*tiny.sites[2].keys, *tiny.sites[2].values):
        assert not site.timed
        with pytest.raises(ValueError, match="not of time: read it with pool=False"):
            sampled(tiny, Row(A, 0), read=Read((site,)))
        with pytest.raises(ValueError, match="it has no stream of activations"):
            audioscope.sae.TokenStream(tiny, site.path)
        with pytest.raises(ValueError, match="belongs to the text"):
            audioscope.caa(tiny, "fast", [site], pairs=2, steps=1, progress=False)
        vector = audioscope.SteeringVector(
            {site.path: torch.ones(1, site.width)}, {site.path: torch.ones(1)}, torch.ones(1), tiny.name, tiny.fingerprint, {}
        )
        with pytest.raises(ValueError, match="belongs to the text, not to the sound"):
            vector.check(tiny.name, tiny.fingerprint, tiny.sites)


@pytest.mark.slow
def test_a_page_of_heads_names_them(tiny, tmp_path):
    from audioscope.cli.main import main

    how = ["--concepts", "fast", "--pairs", "1", "--steps", "1", "--bare", "--out", str(tmp_path)]
    assert main(["atlas", "--sites", "cross.heads", *how, "--workers", "1"]) == 0
    page = (tmp_path / "index.html").read_text()
    assert "heads of cross-attention" in page and "11.3" in page and "(2.5 over 48 heads)" in page
