"""Train the tiny model: rectified flow on the latents of rendered songs, text encoder and transformer together."""

from __future__ import annotations

import csv
import json
import shutil
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableAudio3Pipeline
from torch import Tensor, nn
from tqdm.auto import tqdm

from audioscope.loading import load
from audioscope.store import default_device, save_array, write_whole
from audioscope.tiny import pool
from audioscope.tiny.captions import caption
from audioscope.tiny.codec import MelCodec
from audioscope.tiny.music import SAMPLES, SECONDS
from audioscope.tiny.pipeline import build


@dataclass(frozen=True)
class Recipe:
    """What decides a run, apart from its length. The schedule follows the share of the time that is used up."""

    clips: int = 20_000
    pool_seed: int = 1
    seed: int = 0
    batch: int = 32
    rate: float = 2e-3  # peak learning rate, reached after `warmup` steps
    warmup: int = 100
    cooldown: float = 0.4  # last part of the time, in which the rate falls linearly to 2 %
    weight_decay: float = 0.01
    averaging: float = 0.998  # decay of the weight average
    caption_dropout: float = 0.1
    emphasis: tuple[str, ...] = ()  # groups that every caption names; the others are left out one time in four
    favoured: tuple[str, ...] = ()  # labels whose clips are drawn twice as often
    time_mean: float = 0.5  # of the logit-normal distribution of noise levels
    time_spread: float = 1.2


SAVE_EVERY = 300.0  # seconds
CANDIDATES = (0.8, 0.9, 1.0)  # shares of the time after which the averaged weights are kept, for the listener to choose from


def dataset(recipe: Recipe, folder: Path, codec: MelCodec | None = None) -> tuple[MelCodec, Tensor]:
    """The codec and the pool's latents [clips, latent_dim, tokens], float16; made once and kept in `folder`.

    codec: a codec that is already fitted; if None, one is fitted to the pool's first 2,000 clips. Raises ValueError if what is
    kept in `folder` was made with another codec or another version of the music.
    """
    file, codec_folder = folder / f"latents-{recipe.pool_seed}-{recipe.clips}.npy", folder / "codec"
    if file.exists():
        codec, whole = codec or MelCodec.from_pretrained(codec_folder), torch.from_numpy(np.load(file))
        first = codec.encode(torch.from_numpy(pool.clip(0, recipe.pool_seed))[None, None])[0]
        if not torch.allclose(first, whole[0].float(), rtol=1e-2, atol=1e-2):
            raise ValueError(f"{file} was made from other music or another codec: delete it, or use another folder.")
        return codec, whole
    with torch.no_grad():
        if codec is None:
            codec = MelCodec()
            start = torch.from_numpy(np.stack(list(pool.clips(range(2000), recipe.pool_seed))))
            kept = codec.fit(torch.cat([codec.patches(part).flatten(0, 1) for part in start.split(100)]))
            print(f"codec: {codec.config.latent_dim} components keep {kept:.1%} of the log-mel variance")
        waves = tqdm(pool.clips(range(recipe.clips), recipe.pool_seed), total=recipe.clips, desc="rendering", mininterval=5.0)
        latents = [codec.encode(torch.from_numpy(np.stack(part))[:, None]).half() for part in pool.batched(waves, 100)]
    folder.mkdir(parents=True, exist_ok=True)
    codec.save_pretrained(codec_folder)
    whole = torch.cat(latents)
    write_whole(file, lambda part: save_array(part, whole.numpy()))
    return codec, whole


class Trainer:
    """A pipeline under training, with its optimizers, weight average and clock; `save` and `load` lose nothing."""

    def __init__(self, recipe: Recipe, codec: MelCodec, device: str):
        self.recipe, self.device = recipe, device
        self.pipe = build(codec, recipe.seed).to(device)
        self.parts = nn.ModuleDict(
            {name: getattr(self.pipe, name) for name in ("transformer", "text_encoder", "duration_embedder")}
        ).train()
        matrices = [p for n, p in self.parts.named_parameters() if p.ndim == 2 and ("blocks" in n or "layers" in n)]
        others = [p for p in self.parts.parameters() if all(p is not matrix for matrix in matrices)]
        self.optimizers = optimizers(recipe, matrices, others)
        self.average = averaged(recipe, self.parts)
        self.step, self.seconds = 0, 0.0
        self.before: dict[str, Any] = {}  # training.json of the pipeline that this run started from

    def begin_from(self, pipe: StableAudio3Pipeline) -> None:
        """Copy the weights of a trained pipeline of the same shape; words that it does not know start at random."""
        old, new = pipe.tokenizer.get_vocab(), self.pipe.tokenizer.get_vocab()
        shared = [word for word in new if word in old]
        weights = {name: {k: v.clone() for k, v in getattr(pipe, name).state_dict().items()} for name in self.parts}
        for key, table in self.parts["text_encoder"].state_dict().items():
            if len(table) == len(new) and weights["text_encoder"][key].shape[:1] == (len(old),):  # one row per word
                rows = table.detach().cpu().clone()
                rows[[new[word] for word in shared]] = weights["text_encoder"][key][[old[word] for word in shared]]
                weights["text_encoder"][key] = rows
        if pipe.vae.config != self.pipe.vae.config:
            weights["transformer"] = translated(weights["transformer"], pipe.vae, self.pipe.vae, self.recipe.pool_seed)
        for name, part in self.parts.items():
            part.load_state_dict(weights[name])

    def _tokens(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        out = self.pipe.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        return out.input_ids.to(self.device), out.attention_mask.to(self.device)

    def loss(self, parts: nn.ModuleDict, latents: Tensor, texts: list[str], times: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error of the velocity noise - latents at times [batch] in (0, 1), as the sampler will request it."""
        ids, mask = self._tokens(texts)
        states = parts["text_encoder"](ids, attention_mask=mask)[0]
        duration = parts["duration_embedder"](torch.full((len(ids),), SECONDS, device=self.device))
        states, mask = self.pipe.prepare_cross_attention(states, mask, duration)
        mix = times.view(-1, 1, 1)
        velocity = parts["transformer"](
            (1 - mix) * latents + mix * noise, times, encoder_hidden_states=states, global_hidden_states=duration,
            encoder_attention_mask=mask, return_dict=False,
        )[0]  # fmt: skip
        return nn.functional.mse_loss(velocity, noise - latents)

    def train_step(self, latents: Tensor, progress: float) -> float:
        """One step on a batch drawn by the step's number; `progress` (0 to 1) sets the learning rate."""
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, self.step])
        numbers = rng.choice(len(latents), recipe.batch, replace=False, p=_chances(len(latents), recipe))
        batch = latents[torch.from_numpy(numbers)].to(self.device, torch.float32)
        songs = [pool.song(int(n), recipe.pool_seed) for n in numbers]
        texts = ["" if rng.random() < recipe.caption_dropout else caption(song, rng, always=recipe.emphasis) for song in songs]
        times, noise = times_and_noise(recipe, self.step, batch)
        loss = self.loss(self.parts, batch, texts, times, noise)
        descend(loss, self.parts, self.optimizers, scheduled_rate(recipe, self.step, progress))
        if self.step >= 2 * recipe.warmup:  # random weights do not belong in the average
            self.average.update_parameters(self.parts)
        self.step += 1
        return float(loss.detach())

    def save(self, file: Path) -> None:
        """Write everything that a later run needs, by rename."""
        state = {
            "recipe": asdict(self.recipe), "step": self.step, "seconds": self.seconds, "before": self.before,
            "parts": self.parts.state_dict(), "average": self.average.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
        }  # fmt: skip
        write_whole(file, lambda part: torch.save(state, part), lasting=True)

    def load(self, file: Path) -> None:
        try:
            state = torch.load(file, map_location=self.device, weights_only=True)
        except Exception as error:
            raise ValueError(f"{file} is damaged: delete it to start over.") from error
        if state["recipe"] != asdict(self.recipe):
            raise ValueError(f"{file} was trained with {state['recipe']}, not {asdict(self.recipe)}: use another folder.")
        self.step, self.seconds, self.before = state["step"], state["seconds"], state["before"]
        self.parts.load_state_dict(state["parts"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def export(self, folder: Path, facts: dict) -> None:
        """Save the averaged weights as a diffusers pipeline, with `training.json` next to it."""
        parts: Any = self.average.module if self.average.n_averaged > 0 else self.parts
        components = dict(self.pipe.components) | {name: parts[name].eval() for name in parts}
        type(self.pipe)(**components).save_pretrained(folder)
        (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n")


def optimizers(recipe: Recipe, matrices: list[nn.Parameter], others: list[nn.Parameter]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of blocks, AdamW for all other weights."""
    return [
        torch.optim.AdamW(others, lr=recipe.rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay),
        torch.optim.Muon(matrices, lr=recipe.rate, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"),
    ]


def averaged(recipe: Recipe, parts: nn.Module) -> torch.optim.swa_utils.AveragedModel:
    """A running mean of the weights, which is what is exported."""
    return torch.optim.swa_utils.AveragedModel(parts, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.averaging))


def times_and_noise(recipe: Recipe, step: int, latents: Tensor) -> tuple[Tensor, Tensor]:
    """The times [batch] in (0, 1) and the noise [batch, latent_dim, tokens] of a step, drawn by its number alone."""
    draw = torch.Generator().manual_seed(recipe.seed * 10**7 + step)
    times = torch.sigmoid(recipe.time_mean + recipe.time_spread * torch.randn(recipe.batch, generator=draw))
    return times.to(latents.device), torch.randn(latents.shape, generator=draw).to(latents.device)


def scheduled_rate(recipe: Recipe, step: int, progress: float) -> float:
    """The learning rate at a step; `progress` is the share of the time that is used up."""
    return recipe.rate * min(1.0, (step + 1) / recipe.warmup, max(0.02, (1 - progress) / recipe.cooldown))


def descend(loss: Tensor, parts: nn.Module, optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    """Take one step down the gradient of a loss, whose norm is limited to 1."""
    for optimizer in optimizers:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()


def translated(weights: dict[str, Tensor], old: MelCodec, new: MelCodec, seed: int, clips: int = 200) -> dict[str, Tensor]:
    """A transformer's weights for another codec's latents: it reads them as the old ones, and writes what they would be.

    Both translations are linear, fitted by least squares to the latents of the same clips. What the old codec cannot say is written
    as 0, and is left to training.
    """
    waves = torch.from_numpy(np.stack([pool.clip(number, seed) for number in range(clips)]))[:, None]
    before, after = (
        torch.cat([codec.encode(part) for part in waves.split(50)]).transpose(1, 2).flatten(0, 1) for codec in (old, new)
    )
    reads, writes = torch.linalg.lstsq(after, before).solution, torch.linalg.lstsq(before, after).solution
    same = torch.eye(before.shape[1])
    into = weights["proj_in.weight"] @ (same + weights["preprocess_conv.weight"][..., 0])
    out = (same + weights["postprocess_conv.weight"][..., 0]) @ weights["proj_out.weight"]
    blank = torch.zeros(after.shape[1], after.shape[1], 1)
    return weights | {
        "proj_in.weight": into @ reads.T, "proj_out.weight": writes.T @ out,
        "preprocess_conv.weight": blank, "postprocess_conv.weight": blank.clone(),
    }  # fmt: skip


@lru_cache(maxsize=1)
def _chances(clips: int, recipe: Recipe) -> np.ndarray | None:
    """How likely each clip of the pool is drawn, or None if all are equally likely."""
    if not recipe.favoured:
        return None
    songs = (pool.song(i, recipe.pool_seed) for i in range(clips))
    weights = np.array([2.0 if set(recipe.favoured) & set(asdict(song).values()) else 1.0 for song in songs])
    return weights / weights.sum()


def train(
    hours: float, out: Path, work: Path, resume: bool = False, recipe: Recipe | None = None, start: Path | None = None,
    codec: MelCodec | None = None,
) -> Path:  # fmt: skip
    """Train for `hours` of computing time (with earlier hours counted when resuming) and export to `out`; returns `out`.

    work: folder for the latents, the state after every five minutes, log.csv, and `candidates/`: the averaged
    weights near the end of the run, from which `audioscope.tiny.evaluate.choose` lets the listener choose.
    A killed run resumes from its last state with `resume`; without it, an existing state is an error.
    start: a pipeline to continue from, with its codec and weights but a new optimizer and schedule, such as data/tiny.
    codec: the codec to train with; None is that of `start`, or one fitted to the pool. With `start`, its weights are `translated`.
    """
    recipe = recipe or Recipe()
    device = default_device(None)
    for folder in (work, out):
        folder.mkdir(parents=True, exist_ok=True)  # a folder that cannot be written should fail now, not after an hour
    state = work / "state.pt"
    if state.exists() and not resume:
        raise FileExistsError(f"{state} exists: continue with --resume, or choose another --work folder.")
    earlier = load(start).pipe if start else None
    codec, latents = dataset(recipe, work, codec or (earlier.vae if earlier else None))
    trainer = Trainer(recipe, codec, device)
    if state.exists():
        trainer.load(state)
    elif earlier and start:
        trainer.begin_from(earlier)
        trainer.before = _facts(start)
    for folder in work.glob("candidates/step-*"):  # candidates of an earlier or shorter run are not candidates of this one
        if not state.exists() or _facts(folder).get("hours", 0) < CANDIDATES[0] * hours - 0.001:
            shutil.rmtree(folder)

    def facts() -> dict[str, Any]:
        return {
            "recipe": asdict(recipe), "steps": trainer.step, "hours": round(trainer.seconds / 3600, 3), "device": device,
            "threads": torch.get_num_threads(), "samples": SAMPLES, "loss": None if smooth is None else round(smooth, 4),
        } | ({"before": trainer.before} if trainer.before else {})  # fmt: skip

    total, began, done, saved = hours * 3600, time.monotonic(), trainer.seconds, time.monotonic()
    smooth: float | None = None
    rows: list[tuple[int, float, float]] = []
    with tqdm(total=round(total), initial=round(done), unit="s", desc="training", mininterval=5.0) as bar:
        while trainer.seconds < total:
            past = trainer.seconds / total
            loss = trainer.train_step(latents, past)
            trainer.seconds = done + time.monotonic() - began
            smooth = loss if smooth is None else 0.98 * smooth + 0.02 * loss
            bar.n = min(round(trainer.seconds), round(total))
            bar.set_postfix_str(
                f"step {trainer.step}, loss {smooth:.4f}, {trainer.step * recipe.batch / trainer.seconds:.0f} clips/s"
            )
            if trainer.step % 20 == 0:
                rows.append((trainer.step, round(trainer.seconds, 1), round(smooth, 5)))
            if any(past < part <= trainer.seconds / total for part in CANDIDATES):
                trainer.export(work / "candidates" / f"step-{trainer.step}", facts())
            if time.monotonic() - saved > SAVE_EVERY or trainer.seconds >= total:
                trainer.save(state)
                with open(work / "log.csv", "a", newline="") as file:
                    csv.writer(file).writerows(rows)
                rows, saved = [], time.monotonic()
    trainer.export(out, facts())
    return out


def _facts(folder: Path) -> dict[str, Any]:
    """The contents of training.json in a pipeline's folder; empty if there is none."""
    file = folder / "training.json"
    return json.loads(file.read_text()) if file.exists() else {}
