"""Path patching: what a site sends to chosen receivers alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import audioscope
from audioscope import Ablate, Apply, MuteWord, PatchOutput, PatchPath, PatchText, Read, Row, SlidePrediction
from audioscope.errors import UnknownName
from audioscope.sites import MODULES

A, B = "a fast happy song with violin", "a slow sad song with drums and more words"
ROUNDING = {"rtol": 1e-4, "atol": 2e-5}


def sampled(model, *rows, steps=2, **more):
    seconds = min(1.0, model.adapter.max_duration(model.pipe) or 1.0)
    return model.run(list(rows), decode=False, steps=steps, seconds=seconds, **more)


def edited(*edits):
    return Row(B, 0, edits)


def off(one, other, scale):
    return float((one - other).float().norm() / scale.float().norm())


def modules(model):
    return [site for site in model.sites.every if site.kind in MODULES]


def ends(model, steps=4):
    """A sender, those between, and the receiver, so many modules later: after 2 self-attention, 3 cross-attention, 4 feed-forward."""
    every = modules(model)
    start = every.index(model.sites.cross[0])
    return every[start], every[start + 1 : start + steps], every[start + steps]


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_the_receiver_gets_what_the_stream_carries_past_all_between(model, steps):
    sender, between, receiver = ends(model, steps)
    read = Read((receiver, *between), steps=(0,), pool=False)
    plain, path, by_hand, whole = (
        sampled(model, Row(A, 0), edited(*edits), read=read, steps=1).reads
        for edits in (
            (), (PatchPath(sender, A, receiver),), (PatchOutput(sender, A), PatchOutput(between, B)), (PatchOutput(sender, A),),
        )
    )  # fmt: skip
    here = receiver.path
    torch.testing.assert_close(path[here][1], by_hand[here][1], **ROUNDING)
    size = plain[here][0] - plain[here][1]
    assert off(path[here][1], plain[here][1], size) > 1e-6, "something arrives"
    assert steps < 4 or off(path[here][1], whole[here][1], size) > 1e-4, "other ways lead there, too"
    for site in between:
        torch.testing.assert_close(path[site.path][1], plain[site.path][1], **ROUNDING)


def test_a_path_keeps_to_the_rows_other_edits(model):
    """With the modules between silenced, the stream carries the same as when the sender is patched."""
    sender, between, receiver = ends(model)
    others = [Ablate("cross", steps=(0, 1)), Ablate(between)]  # after the first step, the row has latents of its own
    path, patched, without = sampled(
        model, edited(*others, PatchPath(sender, A, receiver, steps=(1, 2))), edited(PatchOutput(sender, A, steps=(1, 2)), *others),
        edited(*others), read=Read((receiver,), steps=(1,), pool=False),
    ).reads[receiver.path]  # fmt: skip
    torch.testing.assert_close(path, patched, **ROUNDING)
    assert not torch.allclose(path, without, **ROUNDING)


def test_the_heads_of_a_site_send_together_what_it_sends(model):
    sender, _, receiver = ends(model)
    one, heads, first, itself, plain = sampled(
        model, edited(PatchPath(sender, A, receiver)), edited(PatchPath(sender.heads, A, receiver)),
        edited(PatchPath(sender.heads[0], A, receiver)), edited(PatchPath(sender, B, receiver)), Row(B, 0),
    ).latents  # fmt: skip
    size = one - plain
    assert off(one, heads, size) < 1e-2 and off(one, first, size) > 1e-2
    torch.testing.assert_close(itself, plain, **ROUNDING)


def test_a_memory_sends_alone_what_the_music_does_not(tiny):
    sender, receiver = tiny.sites.cross[2], tiny.sites.cross[3]
    reads = sampled(
        tiny, Row(B, 0), edited(PatchPath(sender.memory, A, receiver)), edited(PatchPath(sender, A, receiver)),
        read=Read((receiver, *receiver.memory), steps=(0,), pool=False), steps=1,
    ).reads  # fmt: skip
    music, memory = reads[receiver.path], reads[receiver.memory[0].path]
    torch.testing.assert_close(music[1], music[0], **ROUNDING)
    torch.testing.assert_close(memory[1], memory[2], **ROUNDING)
    assert not torch.allclose(memory[1], memory[0], **ROUNDING) and not torch.allclose(music[2], music[0], **ROUNDING)


def test_it_acts_in_its_steps_and_branch(tiny):
    sender, _, receiver = ends(tiny)
    for branch, acts in (("cond", True), ("uncond", False)):
        seen = sampled(
            tiny, Row(B, 0), edited(PatchPath(sender, A, receiver, steps=(1, 2), branch="cond")),
            read=Read((receiver,), pool=False, branch=branch), guidance=3.0, steps=3,
        ).reads[receiver.path]  # fmt: skip
        torch.testing.assert_close(seen[1, 0], seen[0, 0], **ROUNDING)
        assert torch.allclose(seen[1, 1], seen[0, 1], **ROUNDING) is not acts


@pytest.mark.parametrize("number", [3, 4, 5], ids=["self", "cross", "feed_forward"])
def test_an_edge_that_was_left_in_a_model_is_found(stable_audio_3, number):
    """Of a random model, all modules after the sender but one are deaf to the stream: it alone receives something."""
    model = audioscope.Model(stable_audio_3.pipe, "one edge", stable_audio_3.adapter)
    sender, later = model.sites.cross[0], [site for site in modules(model) if site.layer > 0]
    planted = later[number]
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    try:
        for site in later:
            if site != planted:
                module = model.denoiser.get_submodule(site.path.split(".", 1)[1])
                ears = [part for name, part in module.named_modules() if name.endswith(("to_q", "to_qkv")) or name == "linear_in"]
                for ear in ears or [next(part for part in module.modules() if isinstance(part, torch.nn.Linear))]:
                    for weight in ear.parameters():
                        weight.data.zero_()
        plain, *found = sampled(model, Row(B, 0), *(edited(PatchPath(sender, A, site)) for site in later)).latents
        moved = {site.path: float((one - plain).norm()) for site, one in zip(later, found, strict=True)}
    finally:
        model.denoiser.load_state_dict(before)
    assert [path for path, size in moved.items() if size > 1e-6 * float(plain.norm())] == [planted.path], moved


def test_all_that_read_a_memory_receive_together_what_it_sends(tiny):
    """What stands in it reaches the sound through them alone."""
    memory, later = tiny.sites.cross[2].memory, [site for site in modules(tiny) if site.layer > 2]
    later.append(tiny.sites["transformer.transformer_blocks.2.ff"])
    assert set(PatchPath(memory, A).received(tiny.sites)) == set(later)
    patched, path, some, plain = sampled(
        tiny, edited(PatchOutput(memory, A)), edited(PatchPath(memory, A)), edited(PatchPath(memory, A, later[::2])), Row(B, 0)
    ).latents  # fmt: skip
    size = patched - plain
    assert off(path, patched, size) < 1e-3 and off(path, plain, size) > 0.5 and off(some, patched, size) > 1e-2


def raised(output, here):
    return output + 0.5


@pytest.mark.parametrize(
    "edits",
    [
        [Apply("transformer.transformer_blocks.3", raised)], [PatchOutput("transformer.transformer_blocks.3", A)], [Apply(2, raised)],
        [Ablate("transformer.transformer_blocks.2.cross_attn.memory")], [PatchText([4, 9], A)], [MuteWord(5, "slow")], [Ablate("feed_forward")],
        [SlidePrediction("cross", A, B, 2.0)],
    ],
    ids=lambda edits: f"{type(edits[0]).__name__}({edits[0].sites})",
)  # fmt: skip
@pytest.mark.parametrize("part", ["", ".heads.1", ".memory"])
def test_from_its_own_prompt_a_path_changes_nothing_whatever_else_the_row_does(tiny, edits, part):
    """In the first step: in later ones, the unedited run that it copies from has gone another way."""
    path = PatchPath("transformer.transformer_blocks.2.cross_attn" + part, B, [6, 9])
    if part != ".heads.1" and edits[0].sites in (2, "transformer.transformer_blocks.2.cross_attn.memory"):
        path = PatchPath(
            "transformer.transformer_blocks.1.cross_attn" + part, B, [6, 9]
        )  # a sender puts out what it does unedited
    if isinstance(edits[0], Ablate) and edits[0].sites == "feed_forward":
        path = PatchPath("transformer.transformer_blocks.0.cross_attn" + part, B, [6, 9])
    rows = [Row(B, 7, each) for each in (tuple(edits), (*edits, path), (path, *edits))]
    reads = sampled(tiny, *rows, read=Read(tiny.sites.select([6, 9, 11]), steps=(0,), pool=False), steps=1, guidance=3.0).reads
    for values in reads.values():
        torch.testing.assert_close(values[1], values[0], **ROUNDING)
        torch.testing.assert_close(values[2], values[0], **ROUNDING)


def test_paths_of_one_row_may_not_end_at_one_site(tiny):
    first, second = PatchPath(0, A, [6, 7]), PatchPath(3, A, 6)
    with pytest.raises(ValueError, match=r"Two PatchPath of one row end at transformer.transformer_blocks.6.cross_attn"):
        sampled(tiny, edited(first, second))
    apart = [edited(replace(first, steps=(0, 1)), replace(second, steps=(1, 2))), edited(first, PatchPath(3, A, 8))]
    apart += [edited(replace(first, branch="cond"), replace(second, branch="uncond"))]
    for latents in sampled(tiny, *apart, guidance=3.0).latents:
        assert torch.isfinite(latents).all()


def test_batches_do_not_change_a_path(tiny):
    """Rows of carriers and of slides follow in a batch, and each finds its own, whatever the seeds."""
    rows = [Row(B, 3, (PatchPath(0, A, 6),)), Row(A, 4, (SlidePrediction("cross", B, A, 0.5), PatchPath(1, B, 5))), Row(B, 5)]
    whole = sampled(tiny, *rows, guidance=3.0).latents
    for row, latents in zip(rows, whole, strict=True):
        torch.testing.assert_close(sampled(tiny, row, guidance=3.0).latents[0], latents, rtol=1e-3, atol=1e-3)


def test_attention_can_be_read_of_a_receiver(tiny):
    """What it looks at changes, and what is before it does not."""
    how = {"steps": 1, "by": "layer", "sites": [3, 6]}
    plain, path = (tiny.attention(B, edits=edits, **how) for edits in ((), PatchPath(0, A, 6)))
    changed = np.abs(path.of("drums") - plain.of("drums")).reshape(2, -1).max(1)
    assert changed[0] < 1e-5 < 1e-4 < changed[1]


def test_what_one_receiver_puts_out_reaches_the_others(model):
    """Of two receivers, the first does what it does alone, and the second what it does if the first is patched beside it."""
    sender, between, last = ends(model)
    first = between[1]
    both, one, nothing = (
        sampled(model, Row(A, 0), *(edited(*edits) for edits in rows), read=Read((last, first), steps=(0,), pool=False), steps=1).reads
        for rows in (
            [[PatchPath(sender, A, [first, last])], [PatchPath(sender, A, last), PatchPath(sender, A, first)]],
            [[PatchPath(sender, A, first)], [PatchPath(sender, A, last)]], [[], []],
        )
    )  # fmt: skip
    torch.testing.assert_close(both[first.path][1], one[first.path][1], **ROUNDING)
    torch.testing.assert_close(both[last.path][1], both[last.path][2], **ROUNDING)
    assert not torch.allclose(one[first.path][1], nothing[first.path][1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(one[first.path][2], nothing[first.path][2], **ROUNDING)


@pytest.mark.parametrize(
    ("sites", "receivers", "said"),
    [
        (6, 3, "runs before"), (6, 6, "runs before"), ("cross", 6, "runs before"), (["cross.heads"], 0, "runs before"), (3, [6, 2], "runs before"),
        ("block", 11, "gives nothing"), ("cross.keys", 11, "gives nothing"), (0, "block", "receives nothing of its own"), (0, [], "receivers: No sites selected"), (0, 6.5, "receivers: sites is 6.5"), (11, "all", "runs before"),
        ("transformer.transformer_blocks.11.ff", None, "nothing receives"),
        (0, [4, "transformer.transformer_blocks.4.cross_attn.heads.1"], "receives nothing of its own"), (0, 12, "has layers 0 to 11"),
    ],
)  # fmt: skip
def test_a_path_that_is_none_is_refused_before_any_work(tiny, sites, receivers, said, monkeypatch):
    monkeypatch.setattr(type(tiny.pipe), "__call__", lambda *args, **kwargs: pytest.fail("work was done"))
    with pytest.raises((ValueError, UnknownName, TypeError), match=said):
        sampled(tiny, edited(PatchPath(sites, A, receivers)))


def test_receivers_may_be_a_generator_and_a_path_lasts(tiny):
    path = PatchPath((site for site in tiny.sites.cross[:2]), A, receivers=(site for site in tiny.sites.cross[4:6]))
    assert path.received(tiny.sites) == path.received(tiny.sites) == tiny.sites.cross[4:6]
    assert path == PatchPath(tiny.sites.cross[:2], A, tiny.sites.cross[4:6])
