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

from audioscope.errors import as_path, quiet, real, said, seed_number, whole
from audioscope.sae.charts import training_chart
from audioscope.sae.sae import SAE, Kind
from audioscope.store import check_same, default_device, made_folder, write_whole

WARM, COOL = 0.02, 0.25  # shares of the training during which the learning rate rises and falls
MEMORY = 0.99  # decay of the running average of the threshold
LOGGED = 20  # steps between two rows of the log


@dataclass
class _State:
    """Everything that a training run needs to resume; it is saved when the buffer is empty."""

    sae: SAE
    optimizer: torch.optim.Adam
    since: Tensor  # tokens since each feature was last active, float32 [d_sae]
    items: int = 0  # items of the stream used so far
    rounds: int = 0  # passes through a buffer
    steps: int = 0
    seen: int = 0  # tokens trained on
    threshold: float = 0.0
    log: list[dict[str, float]] = field(default_factory=list)

    COUNTS = ("items", "rounds", "steps", "seen", "threshold", "log")


def train_sae(
    activations: Iterable[Tensor],
    expansion_factor: int = 4,
    k: int = 8,
    *,
    training_tokens: int = 3_800_000,
    kind: Kind = "batchtopk",
    batch_size: int = 2048,
    learning_rate: float | None = None,
    buffer: int = 65_536,
    buffer_epochs: int = 2,
    dead_feature_window: int = 50_000,
    aux_loss_coefficient: float = 0.25,
    seed: int = 0,
    out: str | Path | None = None,
    device: str | None = None,
    progress: bool = True,
) -> SAE:
    """Train a sparse autoencoder on activations, in bounded memory, and resume where a training was interrupted.

    Warns if the activations end before `training_tokens`, since the learning rate has not fallen by then.

    Args:
        activations: float [n, width] tensors: a list, a generator, or an `audioscope.sae.TokenStream` of a model, whose noise
            levels and metadata are stored in the SAE. Whatever can be iterated again is repeated until enough tokens have been
            seen.
        expansion_factor: Features per input dimension.
        k: Active features per token.
        training_tokens: How many tokens to train on, counting every pass through a buffer; the last tokens of a buffer are
            skipped if they are less than a quarter of a batch.
        kind: "batchtopk" or "topk", as for `audioscope.SAE`.
        batch_size: Tokens per training step.
        learning_rate: The largest learning rate; it rises during the first 2 % of the tokens and falls during the last 25 %. None
            means `2e-4 * sqrt(16384 / features)`, which suits any size (Gao et al. 2024, appendix A).
        buffer: How many tokens are held and shuffled, up to whole items, so that memory does not grow with the stream.
        buffer_epochs: Passes through each buffer, since generating costs far more than training.
        dead_feature_window: Tokens after which an inactive feature gets the auxiliary loss.
        aux_loss_coefficient: The weight of the auxiliary loss. On `tiny`, with the 1/32 of Gao et al., 10 to 66 % of the features
            died; with 1/4, 1 to 2 %.
        seed: Of the initial weights and of the order of tokens.
        out: The file for the state of the training, written after each buffer. An interrupted training resumes from it and gives
            the same result, if it gets the same activations. None means that no state is kept.
        device: Where to train, and where the SAE stays; None means "cuda" if available, otherwise "cpu".
        progress: Show a progress bar and, in a notebook, the loss so far.

    Returns:
        The trained SAE, with the progress of its training in `log`.

    Raises:
        ValueError: A value is out of range, the activations are empty or of another shape, or `out` holds the state of another
            training.

    Example:
        >>> import torch
        >>> tokens = torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
        >>> sae = audioscope.sae.train_sae(
        ...     [tokens], expansion_factor=2, k=4, training_tokens=400, batch_size=100, buffer=400, progress=False
        ... )
        >>> sae
        SAE(32 features, 4 active, width 16, batchtopk)
        >>> sae.log.columns.tolist()
        ['tokens', 'fvu', 'dead', 'l0']
    """
    numbers = {
        "expansion_factor": expansion_factor, "k": k, "training_tokens": training_tokens, "batch_size": batch_size,
        "buffer": buffer, "buffer_epochs": buffer_epochs, "dead_feature_window": dead_feature_window,
    }  # fmt: skip
    if not isinstance(activations, Iterable) and not hasattr(activations, "batches"):
        raise ValueError(f"activations is {said(activations)}, expected a list or generator of tensors, or a TokenStream.")
    numbers = {name: whole(name, value, 1, 2**40 if name != "expansion_factor" else 4096) for name, value in numbers.items()}
    buffer = whole("buffer", buffer, numbers["batch_size"], why=", no smaller than batch_size")
    batch_size, training_tokens, buffer_epochs = (numbers[name] for name in ("batch_size", "training_tokens", "buffer_epochs"))
    seed = seed_number(seed)
    if learning_rate is not None and not real("learning_rate", learning_rate) > 0:
        raise ValueError(f"learning_rate is {learning_rate}, expected a number above 0, or None.")
    about = {
        "kind": kind,
        "learning_rate": learning_rate,
        "aux_loss_coefficient": real("aux_loss_coefficient", aux_loss_coefficient),
        "seed": seed,
    }
    training: dict[str, Any] = {**numbers, **about}
    device = default_device(device)
    metadata = dict(getattr(activations, "metadata", {}))
    out = None if out is None else as_path(out)
    file = None if out is None else out.with_name(out.name.removesuffix(".safetensors") + ".safetensors")
    state = _resumed(file, metadata, training, device) if file is not None and file.exists() else None
    stream = _tokens(activations, state.items if state else 0)
    handle = None
    done = state.seen if state else 0
    with tqdm(
        total=training_tokens, initial=done, desc="training", unit="token", unit_scale=True, disable=quiet(progress)
    ) as bar:
        while state is None or state.seen < training_tokens:
            held, items = _fill(stream, buffer, device)
            if not items:
                if state is None:
                    raise ValueError("The activations are empty: expected float tensors [n, width].")
                warnings.warn(
                    f"The activations ended after {state.seen} of {training_tokens} tokens, before the learning rate had fallen: pass training_tokens={state.seen}.",
                    stacklevel=2,
                )  # fmt: skip
                break
            state = state or _fresh(held, training)
            if held.shape[1] != state.sae.d_in:
                raise _other_width(held.shape[1], state.sae.d_in)
            for _ in range(buffer_epochs):
                order = torch.randperm(len(held), generator=torch.Generator().manual_seed(1_000_003 * seed + state.rounds))
                for places in order.split(batch_size):
                    # the variance of the last few tokens is too unreliable to learn from
                    if state.seen < training_tokens and (4 * len(places) >= batch_size or len(places) == len(held)):
                        _step(state, held[places.to(held.device)], training)
                        bar.update(len(places))
                state.rounds += 1
            state.items += items
            bar.set_postfix(fvu=f"{state.log[-1]['fvu']:.3f}", dead=f"{state.log[-1]['dead']:.2f}")
            if progress:
                handle = _draw(state.log, handle)
            if file is not None:
                _keep(state, metadata, training, file)
    assert state is not None
    sae = state.sae
    sae.threshold.fill_(max(0.0, state.threshold))
    sae.levels = getattr(activations, "levels", None)
    sae.metadata = {**metadata, "training": {**training, "seen": state.seen}}
    sae.log = pd.DataFrame(state.log)
    return sae.requires_grad_(False)


def _tokens(activations: Iterable[Tensor], first: int) -> Iterator[Tensor]:
    """The items from index `first` on, repeated endlessly if they can be iterated again."""
    if hasattr(activations, "batches"):  # a TokenStream can start anywhere without generating what comes before
        return activations.batches(first)
    return islice(_again(activations), first, None)


def _again(activations: Iterable[Tensor]) -> Iterator[Tensor]:
    empty = False
    while not empty:
        empty = True
        for item in activations:
            empty = False
            if not isinstance(item, Tensor) or item.ndim != 2 or not torch.is_floating_point(item):
                found = f"{item.dtype} {list(item.shape)}" if isinstance(item, Tensor) else said(item)
                raise ValueError(f"An item of the activations is {found}, expected a float tensor [n, width].")
            if not bool(torch.isfinite(item).all()):
                raise ValueError("An item of the activations contains NaN or infinity: the model may need float32.")
            yield item


def _fill(stream: Iterator[Tensor], size: int, device: str) -> tuple[Tensor, int]:
    """Items until there are `size` tokens, as one float32 tensor [n, width], and the number of items."""
    items: list[Tensor] = []
    while sum(map(len, items)) < size and (item := next(stream, None)) is not None:
        if items and item.shape[1] != items[0].shape[1]:
            raise _other_width(item.shape[1], items[0].shape[1])
        items.append(item.detach().to(device, torch.float32))
    return torch.cat(items) if items else torch.empty(0, 0), len(items)


def _other_width(now: int, before: int) -> ValueError:
    return ValueError(f"An item of the activations has width {now}, but earlier items have width {before}.")


def _fresh(held: Tensor, training: dict[str, Any]) -> _State:
    """A new SAE, with the geometric median of the first buffer as its bias."""
    width = held.shape[1]
    sae = SAE(width, training["expansion_factor"] * width, training["k"], training["kind"], training["seed"]).to(held.device)
    sae.b_dec.data.copy_(geometric_median(held[:: max(1, len(held) // 16_384)]))
    return _State(sae, _adam(sae, training), torch.zeros(sae.d_sae, device=held.device))


def geometric_median(x: Tensor, rounds: int = 50) -> Tensor:
    """The point [d_in] with the smallest sum of distances to points [n, d_in], by Weiszfeld's algorithm; robust to outliers."""
    middle = x.mean(0)
    for _ in range(rounds):
        weight = 1 / (x - middle).norm(dim=1).clamp_min(1e-6)
        middle = (x * weight[:, None]).sum(0) / weight.sum()
    return middle


def _adam(sae: SAE, training: dict[str, Any]) -> torch.optim.Adam:
    return torch.optim.Adam(sae.parameters(), lr=_rate(sae, training), fused=True)


def _rate(sae: SAE, training: dict[str, Any]) -> float:
    """The learning rate between warm-up and decay."""
    return training["learning_rate"] or 2e-4 * (16_384 / sae.d_sae) ** 0.5


def _step(state: _State, x: Tensor, training: dict[str, Any]) -> None:
    """One optimizer step on inputs [n, width]."""
    sae, done = state.sae, state.seen / training["training_tokens"]
    for group in state.optimizer.param_groups:
        group["lr"] = _rate(sae, training) * min(1.0, (done + 1e-3) / WARM, (1 - done) / COOL)
    dead = state.since >= training["dead_feature_window"]
    step = sae.step(x, dead, training["aux_loss_coefficient"])
    state.optimizer.zero_grad(set_to_none=True)
    step.loss.backward()
    sae.drop_parallel()
    state.optimizer.step()
    sae.unit()
    state.since = torch.where(step.fired, 0.0, state.since + len(x))
    smallest = float(step.smallest)
    state.threshold = smallest if not state.steps else MEMORY * state.threshold + (1 - MEMORY) * smallest
    if state.steps % LOGGED == 0:
        state.log.append({"tokens": state.seen, "fvu": float(step.fvu), "dead": float(dead.float().mean()), "l0": step.l0})
    state.steps += 1
    state.seen += len(x)


def _keep(state: _State, metadata: dict[str, Any], training: dict[str, Any], file: Path) -> None:
    """Write the state to one file, completely or not at all."""
    tensors = {f"sae/{name}": value for name, value in state.sae.state_dict().items()} | {"since": state.since}
    for number, values in state.optimizer.state_dict()["state"].items():
        tensors |= {f"adam/{number}/{name}": value for name, value in values.items()}
    about = {"metadata": metadata, "training": training, **{name: getattr(state, name) for name in _State.COUNTS}}
    made_folder(file.parent)
    whole = {name: value.contiguous().cpu() for name, value in tensors.items()}
    write_whole(file, lambda part: safetensors.torch.save_file(whole, part, {"about": json.dumps(about)}), lasting=True)


def _resumed(file: Path, metadata: dict[str, Any], training: dict[str, Any], device: str) -> _State:
    """The state in a file. Raises ValueError if it is corrupt, or belongs to another training or stream."""
    try:
        with safe_open(file, "pt") as opened:
            about = json.loads(opened.metadata()["about"])
        kinds = [(about[name], now) for name, now in (("metadata", metadata), ("training", training))]
        tensors = safetensors.torch.load_file(file, device)
        since = tensors["since"]
        sae = SAE(tensors["sae/b_dec"].shape[0], len(since), about["training"]["k"], about["training"]["kind"]).to(device)
        sae.load_state_dict({name[4:]: value for name, value in tensors.items() if name.startswith("sae/")})
        optimizer = _adam(sae, training)
        kept: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("adam/"):
                _, number, what = name.split("/")
                kept.setdefault(int(number), {})[what] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": kept})
        state = _State(sae, optimizer, since, **{name: about[name] for name in _State.COUNTS})
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"Cannot resume from {file} ({error}): choose another file, or delete it.") from error
    for there, now in kinds:
        check_same(f"{file} holds the state of a training", there, now, "choose another file, or delete it")
    return state


def _draw(log: list[dict[str, float]], handle: Any) -> Any:
    """In a notebook, show the loss so far in place of the previous chart."""
    from IPython import get_ipython
    from IPython.display import display

    if getattr(get_ipython(), "kernel", None) is None:
        return None
    chart = training_chart(pd.DataFrame(log))
    if handle is None:
        return display(chart, display_id=True)
    handle.update(chart)
    return handle
