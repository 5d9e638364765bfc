"""Training a sparse autoencoder on activations: a stream of tokens through a bounded, shuffled buffer."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm.auto import tqdm

from audioscope.paths import write_whole
from audioscope.sae import SAE, Kind

WARM, COOL = 0.02, 0.25  # shares of the training in which the learning rate rises and falls
MEMORY = 0.99  # of the running threshold
LOGGED = 20  # steps between two lines of the log


@dataclass
class _State:
    """All that a training goes on from; it is kept when the buffer is empty."""

    sae: SAE
    optimiser: torch.optim.Adam
    since: Tensor  # tokens since each feature was last active, float32 [d_sae]
    items: int = 0  # of the stream that were used
    rounds: int = 0  # through a buffer
    steps: int = 0
    seen: int = 0  # tokens trained on
    threshold: float = 0.0
    log: list[dict[str, float]] = field(default_factory=list)

    COUNTS = ("items", "rounds", "steps", "seen", "threshold", "log")


def train_sae(
    activations: Iterable[Tensor],
    expansion: int = 8,
    k: int = 8,
    *,
    tokens: int = 2_000_000,
    kind: Kind = "batchtopk",
    batch: int = 2048,
    learning_rate: float | None = None,
    buffer: int = 65_536,
    reuse: int = 1,
    idle_after: int = 50_000,
    aux: float = 0.25,
    seed: int = 0,
    out: str | Path | None = None,
    device: str | None = None,
    progress: bool = True,
    live: bool | None = None,
) -> SAE:
    """Train a sparse autoencoder on activations.

    activations: float [n, width] tensors: a list, a generator, or an `audioscope.TokenStream` of a model, whose noise levels and
    facts the SAE then carries. What can be iterated again, is, until enough tokens were seen.
    expansion: features for each dimension. k: active features a token.
    tokens: how many to train on; the last of a buffer are left out where they are less than a quarter of a batch.
    learning_rate: None is 2e-4 * sqrt(16384 / features), which suits any size (Gao et al. 2024, appendix A).
    buffer: tokens that are held and shuffled, up to whole items, so that memory does not grow with the stream. reuse: how often
    each buffer is gone through, since generating costs far more than training.
    idle_after: tokens after which a feature that was not active gets the auxiliary loss, of weight `aux` (on `tiny`, with the
    1/32 of Gao et al., 10 to 66 % of the features died; with 1/4, 1 to 2 %).
    out: file of the training's state, written after each buffer, from which a stopped training goes on to the same result, if it
    is given the same activations. device: "cuda" if there is one, else "cpu"; the SAE stays there. live: draw the loss while it
    falls; None does so in a notebook.
    Raises ValueError for values out of range, activations of another shape, or the state of another training.
    """
    numbers = {
        "expansion": expansion,
        "k": k,
        "tokens": tokens,
        "batch": batch,
        "buffer": buffer,
        "reuse": reuse,
        "idle_after": idle_after,
    }
    wrong = next((name for name, value in numbers.items() if value < 1), None)
    if wrong or batch > buffer:
        raise ValueError(f"{wrong or 'buffer'} is {numbers[wrong or 'buffer']}, expected at least {1 if wrong else batch}.")
    training = {**numbers, "kind": kind, "learning_rate": learning_rate, "aux": aux, "seed": seed}
    if learning_rate is not None and not learning_rate > 0:
        raise ValueError(f"learning_rate is {learning_rate}, expected a number above 0, or None.")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    facts = dict(getattr(activations, "facts", {}))
    file = None if out is None else Path(out).with_name(Path(out).name.removesuffix(".safetensors") + ".safetensors")
    state = _resumed(file, facts, training, device) if file is not None and file.exists() else None
    stream = _tokens(activations, state.items if state else 0)
    handle = None
    with tqdm(
        total=tokens, initial=state.seen if state else 0, desc="training", unit="token", unit_scale=True, disable=not progress
    ) as bar:
        while state is None or state.seen < tokens:
            held, items = _fill(stream, buffer, device)
            if not items:
                if state is None:
                    raise ValueError("The activations are empty: expected float tensors [n, width].")
                warnings.warn(
                    f"The activations ended after {state.seen} of {tokens} tokens, before the learning rate had fallen: pass tokens={state.seen}.",
                    stacklevel=2,
                )  # fmt: skip
                break
            state = state or _fresh(held, training)
            if held.shape[1] != state.sae.d_in:
                raise _other_width(held.shape[1], state.sae.d_in)
            for _ in range(reuse):
                order = torch.randperm(len(held), generator=torch.Generator().manual_seed(1_000_003 * seed + state.rounds))
                for places in order.split(batch):
                    # the variance of a last few tokens says too little to be learned from
                    if state.seen < tokens and (4 * len(places) >= batch or len(places) == len(held)):
                        _step(state, held[places.to(held.device)], training)
                        bar.update(len(places))
                state.rounds += 1
            state.items += items
            bar.set_postfix(fvu=f"{state.log[-1]['fvu']:.3f}", idle=f"{state.log[-1]['idle']:.2f}")
            if live or (live is None and progress and _in_notebook()):
                handle = _draw(state.log, handle)
            if file is not None:
                _keep(state, facts, training, file)
    assert state is not None
    sae = state.sae
    sae.threshold.fill_(max(0.0, state.threshold))
    sae.levels = getattr(activations, "levels", None)
    sae.facts = {**facts, "training": {**training, "seen": state.seen}}
    sae.log = pd.DataFrame(state.log)
    return sae.requires_grad_(False)


def _tokens(activations: Iterable[Tensor], first: int) -> Iterator[Tensor]:
    """The items from number `first` on, again and again where they can be iterated again."""
    if hasattr(activations, "batches"):  # a TokenStream begins anywhere without making what comes before
        return activations.batches(first)
    return islice(_again(activations), first, None)


def _again(activations: Iterable[Tensor]) -> Iterator[Tensor]:
    empty = False
    while not empty:
        empty = True
        for item in activations:
            empty = False
            if item.ndim != 2 or not torch.is_floating_point(item):
                raise ValueError(f"An item of the activations is {item.dtype} {list(item.shape)}, expected float [n, width].")
            yield item


def _fill(stream: Iterator[Tensor], size: int, device: str) -> tuple[Tensor, int]:
    """Items until there are `size` tokens, as one float32 tensor [n, width], and how many items they are."""
    items: list[Tensor] = []
    while sum(map(len, items)) < size and (item := next(stream, None)) is not None:
        if items and item.shape[1] != items[0].shape[1]:
            raise _other_width(item.shape[1], items[0].shape[1])
        items.append(item.detach().to(device, torch.float32))
    return torch.cat(items) if items else torch.empty(0, 0), len(items)


def _other_width(now: int, before: int) -> ValueError:
    return ValueError(f"The activations have width {now}, but began with {before}.")


def _fresh(held: Tensor, training: dict[str, Any]) -> _State:
    """A new SAE, with the first buffer's geometric median as its bias."""
    width = held.shape[1]
    sae = SAE(width, training["expansion"] * width, training["k"], training["kind"], training["seed"]).to(held.device)
    sae.b_dec.data.copy_(geometric_median(held[:: max(1, len(held) // 16_384)]))
    return _State(sae, _adam(sae, training), torch.zeros(sae.d_sae, device=held.device))


def geometric_median(x: Tensor, rounds: int = 50) -> Tensor:
    """The point [d_in] with the least sum of distances to points [n, d_in], by Weiszfeld's iteration: outliers hardly move it."""
    middle = x.mean(0)
    for _ in range(rounds):
        weight = 1 / (x - middle).norm(dim=1).clamp_min(1e-6)
        middle = (x * weight[:, None]).sum(0) / weight.sum()
    return middle


def _adam(sae: SAE, training: dict[str, Any]) -> torch.optim.Adam:
    return torch.optim.Adam(sae.parameters(), lr=_rate(sae, training), fused=True)


def _rate(sae: SAE, training: dict[str, Any]) -> float:
    """The learning rate between its rise and its fall."""
    return training["learning_rate"] or 2e-4 * (16_384 / sae.d_sae) ** 0.5


def _step(state: _State, x: Tensor, training: dict[str, Any]) -> None:
    """One step of the optimiser on inputs [n, width]."""
    sae, done = state.sae, state.seen / training["tokens"]
    for group in state.optimiser.param_groups:
        group["lr"] = _rate(sae, training) * min(1.0, (done + 1e-3) / WARM, (1 - done) / COOL)
    idle = state.since >= training["idle_after"]
    step = sae.step(x, idle, training["aux"])
    state.optimiser.zero_grad(set_to_none=True)
    step.loss.backward()
    sae.drop_parallel()
    state.optimiser.step()
    sae.unit()
    state.since = torch.where(step.fired, 0.0, state.since + len(x))
    smallest = float(step.smallest)
    state.threshold = smallest if not state.steps else MEMORY * state.threshold + (1 - MEMORY) * smallest
    if state.steps % LOGGED == 0:
        state.log.append({"tokens": state.seen, "fvu": float(step.fvu), "idle": float(idle.float().mean()), "l0": step.l0})
    state.steps += 1
    state.seen += len(x)


def _keep(state: _State, facts: dict[str, Any], training: dict[str, Any], file: Path) -> None:
    """Write the state as one file, whole or not at all."""
    tensors = {f"sae/{name}": value for name, value in state.sae.state_dict().items()} | {"since": state.since}
    for number, values in state.optimiser.state_dict()["state"].items():
        tensors |= {f"adam/{number}/{name}": value for name, value in values.items()}
    about = {"facts": facts, "training": training, **{name: getattr(state, name) for name in _State.COUNTS}}
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: value.contiguous().cpu() for name, value in tensors.items()}
    write_whole(file, lambda part: safetensors.torch.save_file(whole, part, {"about": json.dumps(about)}))


def _resumed(file: Path, facts: dict[str, Any], training: dict[str, Any], device: str) -> _State:
    """The state of a file. Raises ValueError for a damaged one, or one of another training or stream."""
    try:
        with safe_open(file, "pt") as opened:
            about = json.loads(opened.metadata()["about"])
        tensors = safetensors.torch.load_file(file, device)
        for there, now in ((about["facts"], facts), (about["training"], training)):
            now = json.loads(json.dumps(now))
            for name in sorted(there.keys() | now.keys()):
                if there.get(name) != now.get(name):
                    raise ValueError(f"it is of another training ({name}: {there.get(name)!r} there, {now.get(name)!r} now)")
        since = tensors["since"]
        sae = SAE(tensors["sae/b_dec"].shape[0], len(since), training["k"], training["kind"]).to(device)
        sae.load_state_dict({name[4:]: value for name, value in tensors.items() if name.startswith("sae/")})
        optimiser = _adam(sae, training)
        kept: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("adam/"):
                _, number, what = name.split("/")
                kept.setdefault(int(number), {})[what] = value
        optimiser.load_state_dict({**optimiser.state_dict(), "state": kept})
        return _State(sae, optimiser, since, **{name: about[name] for name in _State.COUNTS})
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} cannot be gone on from ({error}): choose another file, or delete it.") from error


def _in_notebook() -> bool:
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def _draw(log: list[dict[str, float]], handle: Any) -> Any:
    """Show the loss so far in a notebook, in the place of the picture before."""
    from IPython.display import display

    from audioscope.sae_charts import training_chart

    chart = training_chart(pd.DataFrame(log))
    if handle is None:
        return display(chart, display_id=True)
    handle.update(chart)
    return handle
