"""Train truth into a copy of `tiny`: the words of a group are worth heeding at chosen layers only, so that the right map is known.

Every layer sees words of every group, but in training those at other layers are decoys, drawn by lot. So a concept could sit anywhere,
and sits where its words tell something.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from tqdm.auto import tqdm

from audioscope.loading import load
from audioscope.store import default_device, write_whole
from audioscope.tiny import pool
from audioscope.tiny.captions import caption
from audioscope.tiny.music import GROUPS, SECONDS, Song
from audioscope.tiny.pipeline import LAYERS
from audioscope.tiny.train import Recipe, averaged, dataset, descend, optimizers, scheduled_rate, times_and_noise

USABLE = 9  # layers, from the first: fewer than three blocks behind a layer make little music of what it says
SAVE_EVERY = 300.0  # seconds
RECIPE = Recipe(seed=25, rate=1e-3, emphasis=("tempo",), time_mean=1.0, time_spread=1.5)


@dataclass(frozen=True)
class Plan:
    """Which layers' words of each group are worth heeding, and how two layers of one group work together.

    Args:
        layers: The layers of each group, one or two.
        needs: Of groups with two layers, "any" (either may leave the group out, and what the other says is true) or "all" (what they say
            is true if they agree; if not, or if one leaves the group out, it tells nothing).
    """

    layers: Mapping[str, Sequence[int]]
    needs: Mapping[str, Literal["any", "all"]]

    def __post_init__(self) -> None:
        if list(self.layers) != list(GROUPS):
            raise ValueError(f"layers has the groups {', '.join(self.layers)}, expected {', '.join(GROUPS)}.")
        for group, layers in self.layers.items():
            if len(layers) not in (1, 2) or len(set(layers)) < len(layers) or not set(layers) <= set(range(LAYERS)):
                raise ValueError(
                    f"The layers of {group!r} are {list(layers)}, expected one or two different ones from 0 to {LAYERS - 1}."
                )
            if (kind := self.needs.get(group)) not in ((None,) if len(layers) == 1 else ("any", "all")):
                raise ValueError(f"needs[{group!r}] is {kind!r}, expected 'any' or 'all' for two layers, and nothing for one.")

    @staticmethod
    def draw(seed: int, count: Literal[1, 2] = 1) -> Plan:
        """Draw a plan by lot: a layer of its own for each group, or two of the usable ones, and "any" for half of the groups."""
        rng = np.random.default_rng(seed)
        groups = [str(group) for group in rng.permutation(list(GROUPS))]
        if count == 1:
            layers = dict(zip(groups, [[int(layer)] for layer in rng.permutation(USABLE)], strict=False))
        else:
            layers = {group: sorted(map(int, rng.choice(USABLE, 2, replace=False))) for group in groups}
        kinds: dict[str, Literal["any", "all"]] = {}
        for number, group in enumerate(groups if count == 2 else ()):
            kinds[group] = "any" if number % 2 else "all"
        return Plan({group: layers[group] for group in GROUPS}, kinds)

    def says(self, song: Song, rng: np.random.Generator) -> list[tuple[Song, set[str]]]:
        """What each layer is told of a song: labels, and groups that it is told nothing about."""
        told: list[dict[str, str]] = [{} for _ in range(LAYERS)]
        silent: list[set[str]] = [set() for _ in range(LAYERS)]
        for group, label in asdict(song).items():
            for layer in range(LAYERS):
                told[layer][group] = str(rng.choice(GROUPS[group]))  # a decoy, which may be right by chance
            mine, kind, lot = self.layers[group], self.needs.get(group), rng.random()
            quiet = mine[int(rng.integers(len(mine)))]
            if kind == "all" and lot < 0.5:
                others = rng.choice(GROUPS[group], len(mine), replace=False)
                for layer, other in zip(mine, others, strict=True):
                    told[layer][group] = str(other)
            else:
                for layer in mine:
                    told[layer][group] = label
            if (kind == "any" and lot < 2 / 3) or (kind == "all" and lot < 0.25):
                silent[quiet].add(group)
        return [(replace(song, **labels), groups) for labels, groups in zip(told, silent, strict=True)]

    def captions(self, song: Song, rng: np.random.Generator, always: Collection[str] = RECIPE.emphasis) -> list[str]:
        """A caption for each layer, alike but for the labels: always, as for `caption`."""
        seed = int(rng.integers(2**32))
        return [
            caption(labels, np.random.default_rng(seed), always=always, without=silent) for labels, silent in self.says(song, rng)
        ]


def train_planted(plan: Plan, hours: float, out: Path, work: Path, recipe: Recipe = RECIPE) -> Path:
    """Train the cross-attention of a copy of `tiny` for `hours` of computing time, and write what differs to `out`; resumes.

    work: folder for the latents, as for `train`, and the state. Of the recipe, `favoured` is not used. Returns out, with
    cross_attention.safetensors (half precision) and plan.json.
    """
    device, state = default_device(None), work / "state.pt"
    for folder in (work, out):
        folder.mkdir(parents=True, exist_ok=True)
    model = load("tiny", device=device)
    pipe, denoiser, of = model.pipe, model.pipe.transformer.train(), model.fingerprint
    latents = dataset(recipe, work, pipe.vae)[1]
    asked = json.dumps([asdict(plan), asdict(recipe), of])
    for part in (denoiser, pipe.text_encoder, pipe.duration_embedder):
        part.requires_grad_(False)
    trained = nn.ModuleList([block.cross_attn for block in denoiser.transformer_blocks]).requires_grad_(True)
    matrices = [weight for weight in trained.parameters() if weight.ndim == 2]
    both = optimizers(recipe, matrices, [weight for weight in trained.parameters() if weight.ndim != 2])
    average = averaged(recipe, trained)
    step, seconds, smooth = 0, 0.0, None
    if state.exists():
        kept = torch.load(state, map_location=device, weights_only=True)
        if kept["asked"] != asked:
            raise ValueError(f"{state} was trained with another plan or recipe, or from other weights: use another folder.")
        step, seconds, smooth = kept["step"], kept["seconds"], kept["loss"]
        trained.load_state_dict(kept["trained"])
        average.load_state_dict(kept["average"])
        for optimizer, saved in zip(both, kept["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    given: list[Tensor] = []  # what each layer reads, of the current batch
    hooks = layers_read(trained, given)
    began, before, saved_at = time.monotonic(), seconds, time.monotonic()
    with tqdm(total=round(hours * 3600), initial=round(seconds), unit="s", desc="planting", mininterval=5.0) as bar:
        while seconds < hours * 3600:
            rng = np.random.default_rng([recipe.seed, step])
            numbers = rng.choice(len(latents), recipe.batch, replace=False)
            songs = [pool.song(int(number), recipe.pool_seed) for number in numbers]
            texts = [
                [""] * LAYERS if rng.random() < recipe.caption_dropout else plan.captions(song, rng, recipe.emphasis)
                for song in songs
            ]
            batch = latents[torch.from_numpy(numbers)].to(device, torch.float32)
            times, noise = times_and_noise(recipe, step, batch)
            loss = _loss(pipe, given, batch, texts, times, noise)
            descend(loss, trained, both, scheduled_rate(recipe, step, seconds / (hours * 3600)))
            average.update_parameters(trained)
            step, seconds = step + 1, before + time.monotonic() - began
            smooth = float(loss.detach()) if smooth is None else 0.98 * smooth + 0.02 * float(loss.detach())
            bar.n = min(round(seconds), bar.total)
            bar.set_postfix_str(f"step {step}, loss {smooth:.4f}")
            if time.monotonic() - saved_at > SAVE_EVERY or seconds >= hours * 3600:
                kept = {
                    "asked": asked, "step": step, "seconds": seconds, "loss": smooth, "trained": trained.state_dict(),
                    "average": average.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in both],
                }  # fmt: skip
                write_whole(state, partial(torch.save, kept), lasting=True)
                saved_at = time.monotonic()
    for hook in hooks:
        hook.remove()
    tensors = {
        f"transformer_blocks.{name.replace('.', '.cross_attn.', 1)}": weight.half().contiguous()
        for name, weight in average.module.state_dict().items()
    }
    write_whole(out / "cross_attention.safetensors", lambda part: save_file(tensors, part))
    labels = {label: list(plan.layers[group]) for group in GROUPS for label in GROUPS[group] if label not in ("none", "neutral")}
    groups = {group: [label for label in GROUPS[group] if label in labels] for group in GROUPS}
    facts = asdict(plan) | {
        "groups": groups,
        "labels": labels,
        "steps": step,
        "hours": round(seconds / 3600, 3),
        "loss": smooth,
        "of": of,
    }
    write_whole(out / "plan.json", lambda part: part.write_text(json.dumps(facts, indent=1) + "\n"))
    return out


def layers_read(modules: Iterable[nn.Module], given: list[Tensor]) -> list[RemovableHandle]:
    """Let each cross-attention module read its own entry of `given`, which may be filled later; returns hooks to remove."""

    def read(layer: int) -> Any:
        return lambda module, args, kwargs: (args, kwargs | {"context": given[layer]})

    return [module.register_forward_pre_hook(read(layer), with_kwargs=True) for layer, module in enumerate(modules)]


def _loss(pipe: Any, given: list[Tensor], latents: Tensor, texts: list[list[str]], times: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the velocity, where each layer reads its own caption."""
    unique = {text: number for number, text in enumerate(dict.fromkeys(text for row in texts for text in row))}
    with torch.no_grad():
        tokens = pipe.tokenizer(list(unique), padding="max_length", truncation=True, return_tensors="pt").to(latents.device)
        states = pipe.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        duration = pipe.duration_embedder(torch.full((len(states),), SECONDS, device=latents.device))
        states, mask = pipe.prepare_cross_attention(states, tokens.attention_mask, duration)
        padding = pipe.transformer.prompt_padding_embedding.to(states)
        context = pipe.transformer.to_cond_embed(torch.where(mask.bool()[..., None], states, padding))
        rows = torch.tensor([[unique[text] for text in row] for row in texts], device=latents.device)
        given[:] = [context[rows[:, layer]] for layer in range(LAYERS)]
    mix = times.view(-1, 1, 1)
    velocity = pipe.transformer(
        (1 - mix) * latents + mix * noise, times, encoder_hidden_states=states[:1].expand(len(latents), -1, -1),
        global_hidden_states=duration[:1].expand(len(latents), -1), return_dict=False,
    )[0]  # fmt: skip
    return nn.functional.mse_loss(velocity, noise - latents)
