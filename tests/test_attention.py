"""Attention maps: they are what the model computes, on all adapters, and the generation is not changed by looking."""

import base64
import re
import threading
import warnings
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import KINDS
from test_inside import A, B, edited, sampled

import audioscope
from audioscope import Ablate, Apply, AttentionMap, MuteWord, PatchOutput, PatchText, Read, Row
from audioscope.attention import _gathered as gathered
from audioscope.attention import contribution, watching
from audioscope.sites import output_projection
from audioscope.words import WORD, numbers_of, tokens_of

STEPS = 3


def how(model):
    return dict(model.sampling(steps=STEPS, seconds=min(1.0, model.adapter.max_duration(model.pipe) or 1.0)))


@pytest.mark.parametrize("kind", ["cross", "self"])
def test_weights_times_values_are_what_the_heads_give(model, kind):
    """And through the output projection, the module's output, on every adapter, in every step; without guidance mixed up."""
    settings = how(model)
    sites = model.sites.select(kind)[:2]
    branch = model.adapter.branches[-1]
    layout = model.adapter.rows(1, settings["guidance"])
    branch = branch if branch in layout else "cond"
    found: dict[str, list] = {}

    def at(site, step, weights, call, output):
        values = call.value[0]
        heads = torch.einsum("hij,hjw->ihw", weights.to(values), values).flatten(1)
        found.setdefault(site.path, []).append(
            (step, heads, output(heads), weights, contribution(output, values), call.valid, float(values.abs().max()))
        )

    plain = model.run([Row(A, 0)], decode=False, within=watching(model, sites, layout[branch][0], at), **settings)
    read = Read(tuple(sites) + tuple(head for site in sites for head in site.heads), pool=False, branch=branch)
    run = model.run([Row(A, 0)], decode=False, read=read, **settings)
    assert torch.equal(plain.latents, run.latents), "looking changes no bit"
    leading = model.adapter.leading(model.denoiser)
    for site in sites:
        assert [step for step, *_ in found[site.path]] == list(range(STEPS))
        for step, heads, whole, weights, norms, valid, largest in found[site.path]:
            expected = torch.cat([run.reads[head.path][0, step] for head in site.heads], -1)
            torch.testing.assert_close(heads[leading:].float(), expected, rtol=1e-4, atol=1e-5 * largest)
            scale = getattr(model.denoiser.get_submodule(site.path.partition(".")[2]), "rescale_output_factor", 1.0)
            out = run.reads[site.path][0, step]
            torch.testing.assert_close(whole[leading:].float() / scale, out, rtol=1e-4, atol=1e-5 * float(norms.max()))
            differential = getattr(model.denoiser.get_submodule(site.path.partition(".")[2]), "use_differential", False)
            sums = torch.full_like(weights[..., 0], 0.0 if differential else 1.0)  # two softmaxes, one subtracted
            torch.testing.assert_close(weights.sum(-1), sums, rtol=1e-4, atol=1e-5)
            assert norms.shape == (len(site.heads), weights.shape[-1]) and 0 < valid <= weights.shape[-1]


def test_every_token_has_a_name(model):
    settings = how(model)
    attention = model.attention("a slow song with violin", by=("layer", "head"), sites=model.sites.cross[:2], **settings)
    assert attention.words == ["a", "slow", "song", "with", "violin"]
    assert attention.values.shape[2:] == (5 + len(attention.others), len(attention.seconds))
    assert attention.others, "padding, ends or the duration are apart, not hidden"
    assert attention.seconds[0] > 0 and np.all(np.diff(attention.seconds) > 0)


@pytest.mark.parametrize("word", [None, "", 1.5, -1, True, [0]])
def test_what_is_no_word_cannot_be_muted(word):
    with pytest.raises(ValueError, match="word is"):
        MuteWord("cross", word)
    with pytest.raises(ValueError, match="renormalize is 'no'"):
        MuteWord("cross", 0, renormalize="no")
    assert MuteWord("cross", np.array(4)).word == 4


def test_a_word_is_all_of_its_pieces(tiny):
    """A word that the tokenizer cuts up is one word; punctuation is apart."""
    site = tiny.sites[0]
    names = tokens_of(tiny.pipe, tiny.adapter, "a mid-tempo song, with drums", site, 41, 41, 4.096)
    assert names[:9] == [0, 1, 1, 1, 2, ",", 3, 4, "<eos>"] and names[-1] == "(duration)" and set(names[9:-1]) == {"(padding)"}
    found = tiny.attention("a mid-tempo song, with drums", sites=0, steps=1)
    assert found.words == ["a", "mid-tempo", "song", "with", "drums"] and found.others == [
        ",",
        "<eos>",
        "(padding)",
        "(duration)",
    ]


@pytest.mark.parametrize("name", KINDS)
def test_words_have_their_own_tokens_on_every_adapter(name, request):
    """All pieces of a word, and nothing of its neighbors, whatever precedes the prompt; spelled out by what the tokenizer calls them."""
    prompt, model = "a mid-tempo song, with violins", request.getfixturevalue(name)
    words = WORD.findall(prompt)
    for stream in {site.stream for site in model.sites.cross} - {"gpt2"}:
        site = next(site for site in model.sites.cross if site.stream == stream)
        tokenizer = model.pipe.tokenizer_2 if stream == "t5" else model.pipe.tokenizer
        before = model.pipe._format_prompt(prompt=prompt, lyrics="", audio_duration=1.0)[0] if model.adapter.packed_by else prompt
        pieces = tokenizer.convert_ids_to_tokens(tokenizer(before, truncation=True).input_ids)
        names = tokens_of(model.pipe, model.adapter, prompt, site, len(pieces) + len(model.adapter.trailing), len(pieces), 1.0)
        spelled = {
            word: "".join(piece for piece, name in zip(pieces, names, strict=False) if name == number)
            for number, word in enumerate(words)
        }
        for word, found in spelled.items():
            if stream == "t5":
                assert found.replace("▁", "").replace("<unk>", "-") == word
            else:  # whole words, and <unk> for what the small vocabulary lacks
                assert found == (word if word in ("a", "song", "with") else "<unk>" * (3 if "-" in word else 1))


def test_one_hyphen_is_as_good_as_another():
    found = WORD.findall("a hip\u2011hop vio\u00adlin, don\uff07t stop: 4/4 at 120.5 BPM. Ok")
    assert found == ["a", "hip\u2011hop", "vio\u00adlin", "don\uff07t", "stop", "4/4", "at", "120.5", "BPM", "Ok"]
    assert [numbers_of(word, found) for word in ("hip-hop", "VIOLIN", "don't")] == [[1], [2], [3]]


def test_a_prompt_that_is_in_the_template_is_found_after_it(ace_step):
    """What precedes the prompt contains "Caption" and "a", too."""
    whole = ace_step.pipe._format_prompt(prompt="Caption", lyrics="", audio_duration=1.0)[0]
    spans = ace_step.pipe.tokenizer(whole, return_offsets_mapping=True)["offset_mapping"]
    names = tokens_of(ace_step.pipe, ace_step.adapter, "Caption", ace_step.sites[0], len(spans), len(spans), 1.0)
    mine = [span for span, name in zip(spans, names, strict=True) if name == 0]
    assert mine and all(first >= whole.index("# Caption\n") + len("# Caption\n") for first, _ in mine)


def test_an_edit_reads_the_same_row_whether_given_or_steered(tiny):
    """One that copies from another prompt brings a row of its own."""

    class Slider:
        metadata: ClassVar[dict[str, str]] = {}

        def edit(self, strength=1.0, **how):
            return PatchOutput(6, "a fast song with drums")

    given = tiny.attention("a slow song with violin", steps=2, by="layer", edits=Slider().edit())
    with tiny.steer(Slider()):
        steered = tiny.attention("a slow song with violin", steps=2, by="layer")
    assert np.array_equal(given.values, steered.values)
    with pytest.raises(ValueError, match="prompt is ''"):
        tiny.attention("a song", edits=PatchOutput(6, ""))


def test_muting_leaves_the_filters_of_others(tiny, monkeypatch):
    """A filter that somebody sets while a run goes on stays."""
    monkeypatch.setattr(warnings, "filters", list(warnings.filters))
    mute = (MuteWord("cross", "violin"),)
    tiny.run([Row("a violin", 0, mute)], steps=1, on_step=lambda step: warnings.filterwarnings("error", message="zzz"))
    assert any(str(message and message.pattern) == "zzz" for _, message, *_ in warnings.filters)
    many = len(warnings.filters)
    tiny.run([Row("a violin", 0, mute)], steps=1)
    assert len(warnings.filters) == many


def test_words_are_words_in_any_script(tiny):
    """Marks belong to their letters, however they are coded; one word is asked for at a time."""
    assert WORD.findall("धीमा गाना, R&B, cafe\u0301") == ["धीमा", "गाना", "R&B", "cafe\u0301"]
    assert WORD.findall("calm,sad,piano violin/drums (with flute)and a<b>c song:fast+slow") == [
        *("calm", "sad", "piano", "violin", "drums", "with", "flute", "and", "a", "b", "c", "song", "fast", "slow")
    ]
    assert WORD.findall("don't hip-hop R&B 4/4 120.5 hip\u2011hop") == ["don't", "hip-hop", "R&B", "4/4", "120.5", "hip\u2011hop"]
    found = tiny.attention("slow R&B in a cafe\u0301, don’t stop", steps=1, sites=0)
    assert found.words == ["slow", "R&B", "in", "a", "cafe\u0301", "don’t", "stop"]
    for word in ("r&b", "café", "don't"):
        assert found.of(word).shape == found.seconds.shape
    with pytest.raises(audioscope.errors.UnknownName, match=r"no word 'slow R&B'.*one word at a time"):
        found.of("slow R&B")
    assert np.array_equal(found.of("(padding)"), found.values[len(found.words) + found.others.index("(padding)")])


@pytest.mark.parametrize("kind", ["weights", "values"])
def test_a_map_shows_what_is_computed_word_by_word_and_moment_by_moment(model, kind):
    """The public map, cell by cell, on every adapter: the sums over a word's tokens, in the order of time."""
    settings, prompt = how(model), "a slow song with violin"
    site = next(site for site in model.sites.cross if site.stream != "gpt2")
    found = model.attention(prompt, sites=[site], by=("layer", "head", "step"), kind=kind, **settings)
    seen = []

    def at(site, step, weights, call, output):
        names = tokens_of(model.pipe, model.adapter, prompt, site, weights.shape[-1], call.valid, settings["seconds"])
        if kind == "values":  # the length of what each token of each head adds: the others' values are 0
            heads, tokens, _ = (value := call.value[0]).shape
            alone = torch.zeros(heads, tokens, heads, value.shape[-1])
            alone[range(heads), :, range(heads)] = value
            weights = weights.abs() * (alone.flatten(2) @ output.weight.T).square().sum(-1).sqrt()[:, None]
        columns = [[name == word for name in names] for word in [*range(5), *found.others]]
        seen.append(torch.stack([weights[..., torch.tensor(mine)].sum(-1) for mine in columns], 1))  # [heads, words, tokens]

    row = model.adapter.rows(1, settings["guidance"])["cond"][0]
    model.run([Row(prompt, 0)], decode=False, within=watching(model, [site], row, at), **settings)
    leading = model.adapter.leading(model.denoiser)
    expected = torch.stack(seen, 1)[..., leading:][..., : len(found.seconds)]
    assert expected.std(-1).max() > 0, "the order of moments shows"
    np.testing.assert_allclose(found.values[0], expected.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["tiny", "stable_audio", "stable_audio_3", "audioldm2"])
def test_the_other_branch_looks_at_the_negative_prompt(name, request):
    """In the first step, before the branches have met, as at a prompt."""
    model = request.getfixturevalue(name)
    sites = [site for site in model.sites.cross if site.stream != "gpt2"][:3]
    settings = {**how(model), "steps": 1, "guidance": 3.0, "by": ("layer", "head"), "sites": sites}
    del settings["negative_prompt"]
    prompt, negative = "a slow song with violin", "a fast song with guitar"  # as long: AudioLDM2 pads one to the other
    other = model.attention(prompt, branch="uncond", negative_prompt=negative, **settings)
    as_prompt = model.attention(negative, negative_prompt=prompt, **settings)
    assert other.words == as_prompt.words and "branch 'uncond'" in repr(other) and negative in repr(other)
    assert negative in other.chart().to_dict()["title"]["subtitle"]
    cond = model.attention(prompt, negative_prompt=negative, **settings)
    for number in range(len(other.words)):
        np.testing.assert_allclose(other.of(number), as_prompt.of(number), rtol=1e-3, atol=1e-5)
    assert max(np.abs(other.of(number) - cond.of(number)).max() for number in range(5)) > 1e-4


def test_threads_take_turns_at_looking(tiny):
    """A map made while another thread generates is the same, and so is what the other one hears; nothing stays behind."""
    prompt, jobs = "a slow song with violin", {}
    asked = {
        "plain": lambda: tiny.generate(prompt, seed=1, steps=5).samples,
        "muted": lambda: tiny.generate(prompt, seed=2, steps=5, edits=MuteWord("cross", "violin")).samples,
        "map": lambda: tiny.attention(prompt, by=("layer", "step"), steps=3).values,
        "another map": lambda: tiny.attention("a fast song", by="layer", steps=4).values,
    }
    alone = {name: ask() for name, ask in asked.items()}
    threads = [threading.Thread(target=lambda name=name: jobs.update({name: asked[name]()})) for name in asked for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, expected in alone.items():
        assert np.array_equal(jobs[name], expected) and np.array_equal(asked[name](), expected), name


def test_axes_are_means_of_one_another(tiny):
    """What is averaged is the mean of what is told apart; and the weights of a moment add up to 1."""
    prompt = "a fast song with violin"
    full = tiny.attention(prompt, by=("step", "head", "layer"), steps=STEPS)
    assert full.by == ("layer", "head", "step") and full.values.shape[:3] == (12, 4, STEPS)
    for by, axes in ((("layer",), (1, 2)), (("head",), (0, 2)), (("step",), (0, 1)), ((), (0, 1, 2))):
        np.testing.assert_allclose(tiny.attention(prompt, by=by, steps=STEPS).values, full.values.mean(axes), atol=1e-6)
    np.testing.assert_allclose(full.values.sum(-2), 1.0, atol=1e-5)
    frame = full.to_frame()
    assert len(frame) == full.values.size
    line = frame.query("layer == '3' and head == '1' and step == '2' and word == 'violin'")
    np.testing.assert_array_equal(line["weight"], full.of("violin")[3, 1, 2])


def test_the_memory_looks_at_words_too(model, tmp_path):
    """Its tokens are those that come before the music's, as the model computes them; a file keeps them."""
    site, leading, found = model.sites.cross[1], model.adapter.leading(model.denoiser), []
    layout = model.adapter.rows(1, how(model)["guidance"])
    prompt = "a slow song with violin"
    with watching(model, (site,), layout["cond"][0], lambda site, step, weights, *_: found.append(weights[:, :leading])):
        attention = model.attention(prompt, sites=site, by=("head", "step"), **how(model))
    if not leading:
        assert attention.memory is None and attention.to_frame(memory=True).equals(attention.to_frame())
        with pytest.raises(ValueError, match="has no memory"):
            attention.of("violin", memory=True)
        return
    assert attention.memory.shape == (*attention.values.shape[:-1], leading)
    expected = torch.stack([weights.sum(2).float() for weights in found], 1)  # over all that is looked at
    np.testing.assert_allclose(attention.memory.sum(-2), expected, atol=1e-5)
    np.testing.assert_array_equal(attention.at(head=1, step=2).memory, attention.memory[1, 2])
    again = AttentionMap.load(attention.save(tmp_path))
    assert np.array_equal(again.memory, attention.memory) and np.array_equal(again.values, attention.values)
    line = attention.to_frame(memory=True).query("head == '1' and step == '0' and word == 'violin' and second != second")
    np.testing.assert_array_equal(line["weight"], attention.of("violin", memory=True)[1, 0])


class Loud:
    """A score that lets gradients through, of any audio: what a fixed random wave has in common with it."""

    name, concepts, units, fingerprint = "loud", ("loud",), "dB", "loud"

    def scores(self, audio, rate):
        wave = torch.randn(audio.shape[1:], generator=torch.Generator().manual_seed(0))
        return (audio * wave).flatten(1).sum(1, keepdim=True)

    def __call__(self, audio, rate):
        return pd.DataFrame(self.scores(audio, rate).detach().numpy(), columns=["loud"])


@pytest.mark.parametrize("kind", ["cross", "self"])
@pytest.mark.parametrize("branch", ["cond", "uncond"])
def test_what_words_bring_to_a_score_adds_up(model, kind, branch, monkeypatch):
    """To the slope of the score by the scale of the module's output, by finite differences, less what its bias brings.

    The latents are scored: an untrained decoder clips.
    """
    monkeypatch.setattr("audioscope.attention.sound_of", lambda model, latents, how: latents.float())
    site, prompt, far = model.sites.select(kind)[1], "a slow song with violin", 0.02
    settings = how(model) | ({"negative_prompt": "a fast song"} if branch == "uncond" and model.adapter.negative else {})
    if branch not in model.adapter.rows(1, settings["guidance"]):
        pytest.skip("without guidance, there is one branch")
    scored = {"branch": branch, "kind": "score", "concept": "loud", "scorer": Loud(), **settings}
    found = model.attention(prompt, sites=site, by=("head", "step"), **scored)
    total = found.values.sum() + (0.0 if found.memory is None else found.memory.sum())
    assert (found.values < 0).any() and (found.values > 0).any() and found.settings["scorer"] == "loud"
    summed = model.attention(prompt, sites=site, **scored)
    np.testing.assert_allclose(summed.values, found.values.sum((0, 1)), rtol=1e-3, atol=1e-4 * np.abs(found.values).max())
    bias = getattr(output_projection(model.denoiser.get_submodule(site.path.partition(".")[2])), "bias", None)
    fixed = 0.0 if bias is None else bias.detach()

    def scaled(amount):
        return Apply(site, lambda output, here: output + amount * (output - fixed), branch=branch)

    run = model.run([Row(prompt, 0, (scaled(sign * far),)) for sign in (1, -1)], decode=False, **settings)
    up, down = Loud().scores(run.latents.float(), model.rate)[:, 0].tolist()
    assert float(total) == pytest.approx((up - down) / (2 * far), rel=0.05, abs=1e-3 * float(np.abs(found.values).sum()))


def test_a_score_is_followed_back_or_said_why_not(tiny):
    found = tiny.attention("a slow song with violin", kind="score", concept="violin", steps=STEPS)
    assert found.of("violin").sum() > 5 * abs(found.of("with").sum()), "the word brings the concept"
    for wrong, said in (
        ({"kind": "score"}, "needs a concept"), ({"concept": "violin"}, "only it takes one"), ({"scorer": Loud()}, "only it takes one"),
        ({"kind": "score", "concept": "tuba"}, "cannot score 'tuba'"),
        ({"kind": "score", "concept": "violin", "edits": Ablate(0)}, "without edits"),
        ({"kind": "score", "concept": "fast", "scorer": audioscope.scoring.MeasureScorer()}, "no `scores`"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            tiny.attention("a slow song with violin", steps=1, **wrong)


def test_edits_and_branches_are_seen(tiny):
    """An edit of an earlier layer changes where a later one looks; the other branch sees no words."""
    slow, fast = "a slow song with violin", "a fast song with violin"
    how = {"sites": 3, "by": "step", "steps": STEPS, "kind": "values"}
    edited = tiny.attention(slow, edits=Ablate(0), **how).values[0]
    assert np.abs(edited - tiny.attention(slow, **how).values[0]).max() > 1e-3
    both = [f"{tiny.sites[3].path}.{what}" for what in ("keys", "values")]
    for other in (PatchText(0, fast), MuteWord(0, "slow"), *(PatchOutput(part, fast) for part in both)):
        with pytest.raises(ValueError, match="read the attention without it"):
            tiny.attention(slow, edits=other, **how)
    empty = tiny.attention(slow, branch="uncond", **how).values
    assert np.abs(empty - tiny.attention(fast, branch="uncond", **how).values).max() > 0, "the two runs are other music"


def test_the_other_branch_reads_other_words(tiny):
    """The negative prompt, or no words."""
    how = {"branch": "uncond", "steps": 1}
    assert tiny.attention("a slow song", **how).words == []
    found = tiny.attention("a slow song", negative_prompt="a fast violin", **how)
    assert found.words == ["a", "fast", "violin"] and found.others == ["<eos>", "(padding)", "(duration)"]
    with pytest.raises(ValueError, match="expected 'cond'"):
        MuteWord("cross", "slow", branch="both")


def test_a_map_is_kept(tiny, tmp_path):
    attention = tiny.attention("a fast song with violin", by="layer", steps=2)
    again = AttentionMap.load(attention.save(tmp_path))
    assert np.array_equal(again.values, attention.values) and again.words == attention.words and repr(again) == repr(attention)
    assert "violin" in repr(attention) and again.settings["fingerprint"] == tiny.fingerprint
    (tmp_path / "attention.json").unlink()
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(FileNotFoundError, match="no attention map"):
            AttentionMap.load(folder)
    with pytest.raises(ValueError, match="is a file, or lies in one"):
        attention.save(tmp_path / "attention.parquet")


def test_what_is_not_finite_is_no_map(tiny):
    weight = tiny.denoiser.transformer_blocks[3].cross_attn.to_out.weight
    kept = weight.detach().clone()
    try:
        weight.data.fill_(float("nan"))
        with pytest.raises(FloatingPointError, match="NaN or infinity for 'a song'"):
            tiny.attention("a song", steps=1)
    finally:
        weight.data.copy_(kept)


def test_looking_beside_edits_warns_of_nothing(tiny):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny.attention("a slow song", steps=2, edits=Ablate(3))
        tiny.generate("a slow song", steps=2, edits=[MuteWord(3, "slow"), Ablate(3)])


def test_a_chart_that_is_saved_runs_nothing_of_a_prompt(tiny, tmp_path):
    hostile = "slow <script>alert(1)</script> violin</script><img src=x onerror=alert(2)>"
    tiny.attention(hostile, steps=1, sites=0).chart().save(tmp_path / "chart.html")
    text = (tmp_path / "chart.html").read_text()
    assert "</script><img" not in text and "alert(1)</script>" not in text and text.count("alert(2)") >= 1


def test_moments_are_the_middles_of_tokens_in_what_is_heard(tiny, stable_audio):
    """In seconds: of 64 tokens of tiny; and of a model of fixed length, as many as are heard of it."""
    found = tiny.attention("a slow song", sites=0, steps=1).seconds
    assert len(found) == 64 and found[0] == pytest.approx(0.032) and found[-1] == pytest.approx(4.064)
    longest = stable_audio.adapter.max_duration(stable_audio.pipe)
    whole = stable_audio.attention("a slow song", sites=0, steps=1, seconds=longest).seconds
    half = stable_audio.attention("a slow song", sites=0, steps=1, seconds=longest / 2).seconds
    assert len(half) == len(whole) // 2 and np.array_equal(half, whole[: len(half)])
    assert np.diff(whole) == pytest.approx(longest / len(whole), rel=1e-4) and whole[0] == pytest.approx(longest / len(whole) / 2)


def test_masked_tokens_get_no_attention(audioldm2):
    """Beside a longer row, a prompt is padded: its padding is masked by adding to the logits."""
    site = next(site for site in audioldm2.sites.cross if site.stream != "gpt2")
    last = [each for each in audioldm2.sites.cross if each.stream == site.stream][-1]
    alone = audioldm2.attention("a slow song", sites=site, **how(audioldm2))
    longer = PatchOutput(last, "a fast happy song with drums and flute and violin")  # brings a row of its own
    beside = audioldm2.attention("a slow song", sites=site, edits=longer, **{**how(audioldm2), "steps": 1})
    assert "(padding)" in beside.others and "(padding)" not in alone.others
    assert beside.of("(padding)").max() < 1e-6
    first = audioldm2.attention("a slow song", sites=site, **{**how(audioldm2), "steps": 1})
    np.testing.assert_allclose(beside.values[:3], first.values[:3], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(beside.values.sum(0), 1.0, atol=1e-5)


@pytest.mark.parametrize("kind", ["weights", "score"])
def test_sites_of_several_resolutions_share_moments(tiny, kind):
    """As in a U-Net: weights are averaged over finer moments, scores are summed; and self-attention looks at the coarser ones."""
    rng, leading, sampling = torch.Generator().manual_seed(0), tiny.adapter.leading(tiny.denoiser), tiny.sampling(steps=2)
    for where, tokens in (("cross", [3, 3]), ("self", [leading + 64, leading + 32])):
        sites = tiny.sites.select(where)[:2]
        sums = {
            site: torch.rand(1, 1, leading + many, looked, generator=rng)
            for site, many, looked in zip(sites, (64, 32), tokens, strict=True)
        }
        names: dict = {site: [0, 1, "<eos>"] for site in sites}
        found = gathered(tiny, Row("a song", 0), sampling, sites, ("layer",), ["a", "song"], names, sums, {"kind": kind})
        for number, (site, many) in enumerate(zip(sites, (64, 32), strict=True)):
            mine = sums[site][:, :, leading:].sum((0, 1))  # [moments, tokens]
            coarse = mine.unflatten(0, (32, many // 32))
            coarse = coarse.sum(1) if kind == "score" else coarse.mean(1)
            if where == "cross":
                np.testing.assert_allclose(found.values[number], coarse.T, rtol=1e-5)
            else:
                looked = coarse[:, leading:].unflatten(1, (32, many // 32)).sum(2)
                np.testing.assert_allclose(found.values[number, -32:], looked.T, rtol=1e-5)


def test_names_of_moments_are_names_of_one(stable_audio):
    site = stable_audio.sites.select("self")[0]
    others = stable_audio.attention("a slow song", sites=site, **how(stable_audio)).others
    assert len(set(others)) == len(others) > 4


def test_a_chart_is_drawn_from_the_first_moment_to_the_last(tiny):
    found = tiny.attention("a slow song", sites=0, steps=1)
    (drawn,) = (lines for lines in found.chart().to_dict()["datasets"].values() if "start" in lines[0])
    assert min(line["start"] for line in drawn) == 0 and max(line["end"] for line in drawn) == pytest.approx(4.096, abs=1e-3)
    assert all(line["start"] < line["second"] < line["end"] for line in drawn)


def test_self_attention_looks_at_moments(tiny):
    attention = tiny.attention("a fast song", sites="self", by="layer", steps=1)
    assert attention.words == [] and attention.others[0] == "(memory)" and attention.others[1].endswith(" s")
    np.testing.assert_allclose(attention.values.sum(-2), 1.0, atol=1e-5)
    assert attention.values.shape == (12, 1 + len(attention.seconds), len(attention.seconds))


def test_what_cannot_be_mapped_is_said(tiny):
    for change, said in (
        ({"sites": "all"}, "mixes cross-attention"), ({"sites": "cross.heads"}, "is no attention module"), ({"by": "word"}, "expected some of"),
        ({"kind": "truth"}, "'weights', 'values' or 'score'"), ({"branch": "both"}, "expected one of"), ({"prompt": ""}, "expected a text"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            tiny.attention(**{"prompt": "a song", "steps": 1, **change})
    with pytest.raises(audioscope.errors.UnknownName, match="no word 'violine'. Nearest: violin"):
        tiny.attention("a song with violin", steps=1).of("violine")


def test_a_processor_that_hides_its_weights_is_named(stable_audio):
    class Own:
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **more):
            return hidden_states

    site = stable_audio.sites.cross[1]
    module = stable_audio.denoiser.get_submodule(site.path.partition(".")[2])
    before, module.processor = module.processor, Own()
    try:
        with pytest.raises(ValueError, match="never shows its weights"):
            stable_audio.attention(A, sites=[site], **how(stable_audio))
    finally:
        module.processor = before
    assert sampled(stable_audio, Row(A, 0)).finite.all(), "no hook or mode is left"
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in stable_audio.denoiser.modules())


def test_a_muted_word_adds_nothing(model):
    """Its part of the map times the values is gone from the output, in the first step; with all else as it was, other rows to the bit."""
    settings, sites = how(model), [site for site in model.sites.cross if site.stream != "gpt2"][:2]
    first = sites[0]
    found = []

    def at(site, step, weights, call, output):
        values = call.value[0]
        if step == 0:
            names = tokens_of(model.pipe, model.adapter, A, site, weights.shape[-1], call.valid, settings["seconds"])
            mine = torch.tensor([name == 1 for name in names])
            assert mine.any()
            found.append(
                (torch.einsum("hij,hjw->ihw", weights[..., mine].to(values), values[:, mine]), float(values.abs().max()))
            )
            found.append(weights[..., mine].sum(-1).T)

    looking = watching(model, [first], model.adapter.rows(1, settings["guidance"])["cond"][0], at)
    model.run([Row(A, 0)], decode=False, within=looking, **settings)
    word = A.split()[1]
    mutes = [(), (MuteWord(first, word),), (MuteWord(first, 1, renormalize=True),), (MuteWord(first.heads[1], word),)]
    read = Read(first.heads, steps=(0,), pool=False)
    run = model.run([*(Row(A, 0, mute) for mute in mutes), Row(B, 1)], decode=False, read=read, **settings)
    leading = model.adapter.leading(model.denoiser)
    heads = torch.stack([run.reads[head.path][:, 0] for head in first.heads], 2)  # [rows, tokens, heads, width]
    (part, largest), share = found[0], found[1][leading:]
    close = {"rtol": 1e-4, "atol": 2e-5 * largest}
    torch.testing.assert_close(heads[0] - heads[1], part[leading:].float(), **close)
    torch.testing.assert_close((heads[0] - heads[3])[:, 1], part[leading:, 1].float(), **close)
    torch.testing.assert_close(heads[0][:, 0], heads[3][:, 0], **close)  # one head's cut is its own
    if not getattr(model.denoiser.get_submodule(first.path.partition(".")[2]), "use_differential", False):
        torch.testing.assert_close(heads[2] * (1 - share)[..., None], heads[1], **close)
    plain = model.run([*(Row(A, 0) for _ in mutes), Row(B, 1)], decode=False, **settings)
    assert torch.equal(run.latents[0], plain.latents[0]) and torch.equal(run.latents[4], plain.latents[4])
    assert len({latents.sum().item() for latents in run.latents[:4]}) == 4


def test_two_words_can_be_muted_at_once(tiny):
    """In any order, with a window of steps, and beside other edits; nothing is left behind."""
    both = [MuteWord("cross", "slow"), MuteWord("cross", "drums", steps=(0, 2))]
    one, other, alone, late = sampled(
        tiny, edited(*both), edited(*both[::-1]), edited(both[0]), edited(both[0], MuteWord("cross", "drums", steps=(2, 3)))
    ).latents
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(one, alone, rtol=1e-4, atol=1e-4) and not torch.allclose(one, late, rtol=1e-4, atol=1e-4)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in tiny.denoiser.modules())


def test_muting_ends_with_the_run_whatever_happens(tiny):
    """Also after Ctrl-C inside an attention module, after which torch runs no hooks; and beside edits that nnsight does."""
    prompt = "a slow song with violin"
    module = tiny.denoiser.transformer_blocks[3].cross_attn.to_out

    def stop(module, args):
        raise KeyboardInterrupt

    before = tiny.generate(prompt, steps=2).samples
    for act in (
        lambda: tiny.generate(prompt, steps=2, edits=MuteWord("cross", "violin")),
        lambda: tiny.attention(prompt, steps=2),
    ):
        with module.register_forward_pre_hook(stop), pytest.raises(KeyboardInterrupt):
            act()
        assert np.array_equal(tiny.generate(prompt, steps=2).samples, before)
    both = tiny.generate(prompt, steps=2, edits=[MuteWord([1, 2], "violin"), Ablate(5)]).samples
    assert not np.array_equal(both, tiny.generate(prompt, steps=2, edits=Ablate(5)).samples)
    assert not np.array_equal(both, tiny.generate(prompt, steps=2, edits=MuteWord([1, 2], "violin")).samples)
    assert np.array_equal(tiny.generate(prompt, steps=2).samples, before)


def test_words_beyond_the_end_are_said(tiny, ace_step):
    """A prompt that is cut off has words that no token stands for."""
    long = " ".join(["slow"] * 60) + " violin"
    with pytest.warns(UserWarning, match="no attention: .*violin"):
        tiny.attention(long, steps=1)
    with pytest.raises(ValueError, match="was cut off before it"):
        tiny.generate(long, steps=1, edits=MuteWord("cross", "violin"))
    with pytest.warns(UserWarning):
        ace_step.attention("a slow song with violin " * 60, **how(ace_step))
    assert ace_step.attention("audio", **how(ace_step)).of("audio").sum() > 0
    assert ace_step.attention("audio", branch="uncond", **{**how(ace_step), "guidance": 3.0}).others == ["(null condition)"]


def test_words_that_cannot_be_muted_are_said(tiny):
    for edit, said in (
        (MuteWord("self", "slow"), "needs a cross-attention module or its heads"),
        (MuteWord("cross", "tuba"), "no word 'tuba'. Nearest"), (MuteWord("cross", 77), "no word 77"),
    ):  # fmt: skip
        with pytest.raises((ValueError, KeyError), match=said):
            sampled(tiny, edited(edit))
    for other in (PatchText("cross", A), PatchOutput("cross.keys", A), PatchOutput("cross.values", A)):
        for mute in (MuteWord("cross.heads", "slow"), MuteWord("cross", "slow"), MuteWord(3, "slow", renormalize=True)):
            for edits in ((mute, other), (other, mute)):
                with pytest.raises(ValueError, match="gives .* another text"):
                    sampled(tiny, edited(*edits))
    for other in (PatchText(3, A, steps=(1, 3)), PatchOutput(tiny.sites[3].keys, A, steps=(1, 3))):
        with pytest.raises(ValueError, match="gives .* another text"):
            sampled(tiny, edited(MuteWord(3, "slow", steps=(0, 2)), other))
        at_other_times = sampled(tiny, edited(MuteWord(3, "slow", steps=(0, 1)), other), edited(other)).latents
        assert not torch.equal(*at_other_times), "before it, it may"
    elsewhere = sampled(
        tiny, edited(MuteWord(3, "slow"), PatchOutput(tiny.sites[4].keys, A)), edited(MuteWord(3, "slow"))
    ).latents
    assert not torch.equal(*elsewhere), "at another layer, it may"


def test_there_is_a_page_for_every_model(model, tmp_path, monkeypatch):
    """With a button for each word of the prompt, which can be heard cut out."""
    from audioscope.pages import attention, attention_page

    monkeypatch.setattr(attention, "sound", lambda clip: {})  # the random pipelines have rates that MP3 does not
    made, clips = [], type(model).clips
    monkeypatch.setattr(type(model), "clips", lambda *given, **more: made.extend(given[1]) or clips(*given, **more))
    sites = (site for site in model.sites.cross)  # read once
    text = attention_page(model, "a slow slow song", tmp_path / "page.html", sites=sites, **how(model)).read_text()
    assert text.count('class="word small"') == text.count("<canvas") >= 4 and text.count("without “slow”") == 2
    assert [edit.word for row in made for edit in row.edits] == ["a", "slow", "song"] and not made[0].edits
    site = next(site for site in model.sites.cross if site.stream != "gpt2")
    for kind in ("weights", "values"):
        made.clear()
        text = attention.attention_html(model, "a slow song", sites=[site], kind=kind, **how(model))
        assert {each.path for row in made[1:] for edit in row.edits for each in edit.where(model.sites)} == {site.path}
        drawn = np.frombuffer(base64.b64decode(re.search(r'"values": ?"([^"]*)"', text)[1]), np.uint8)
        found = model.attention("a slow song", sites=[site], by=("layer", "step"), kind=kind, **how(model)).values
        scaled = 255 * np.clip(found / found[:, :, :3].max(), 0, 1)
        assert len(found.ravel()) == len(drawn) and np.abs(scaled.ravel() - drawn).max() < 1.01


def test_a_page_has_no_button_for_what_is_cut_off(tiny, tmp_path):
    from audioscope.pages import attention_page, show_attention

    with pytest.warns(UserWarning, match="no attention: .*violin"):
        text = attention_page(tiny, " ".join(["slow"] * 60) + " violin", tmp_path / "page.html", sites=[0], steps=1).read_text()
    assert "without “slow”" in text and "without “violin”" not in text
    for wrong in (None, ["a song"], 3):
        with pytest.raises(ValueError, match="expected a text"):
            show_attention(tiny, wrong, steps=1)


def test_the_command_prints_a_map_and_writes_a_page(tmp_path, capsys):
    from audioscope.cli.main import main

    page = tmp_path / "page.html"
    assert main(["attention", "a slow song", "--steps", "2", "--sites", "0,3", "--html", str(page)]) == 0
    said = capsys.readouterr().out
    assert "AttentionMap('a slow song'" in said and "(padding)" in said and "without “slow”" in page.read_text()
    tiny, ask = audioscope.load("tiny"), ["attention", "a slow song", "--steps", "2", "--sites", "3"]
    for more, how in (([], {"seed": 0}), (["--seed", "1", "--kind", "weights"], {"seed": 1, "kind": "weights"})):
        assert main([*ask, *more]) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        shown = {line[0]: float(line[1]) for line in lines if line and line[0] in ("a", "slow", "song")}
        found = tiny.attention("a slow song", sites=3, steps=2, **{"kind": "values", **how})
        assert shown == pytest.approx({word: found.of(word).mean() for word in found.words}, abs=1e-4)
    assert main(["attention", "a slow song", "--sites", "self,cross"]) != 0
    assert "mixes cross-attention" in capsys.readouterr().err
