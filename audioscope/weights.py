"""Attention weights: what a module gives to torch's attention, seen or changed on the way, whatever its processor does before."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

SDPA = torch.nn.functional.scaled_dot_product_attention
CLOSED = -1000.0  # what masks add to logits that they close is far below


@dataclass(frozen=True)
class Attending:
    """One call of torch's attention: queries, keys and values [rows, heads, tokens, width], of which keys may have fewer heads."""

    query: Tensor
    key: Tensor
    value: Tensor
    attn_mask: Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False

    def row(self, number: int) -> Attending:
        """The call for one row, with as many heads of keys and values as of queries."""
        one = slice(number, number + 1)
        many, key, value = self.query.shape[1] // self.key.shape[1], self.key[one], self.value[one]
        if many > 1:
            key, value = key.repeat_interleave(many, 1), value.repeat_interleave(many, 1)
        mask = None if self.attn_mask is None else self.attn_mask.expand(len(self.query), -1, -1, -1)[one]
        return replace(self, query=self.query[one], key=key, value=value, attn_mask=mask, enable_gqa=False)

    def weights(self) -> Tensor:
        """The weights [rows, heads, tokens, tokens looked at], float32."""
        logits = self.query.float() @ self.key.float().transpose(-1, -2) * (self.scale or self.query.shape[-1] ** -0.5)
        if self.attn_mask is not None:
            logits = (
                logits.masked_fill(~self.seen(), -torch.inf) if self.attn_mask.dtype == torch.bool else logits + self.attn_mask
            )
        return logits.softmax(-1)

    @property
    def valid(self) -> int:
        """How many tokens the mask lets any be looked at."""
        return self.key.shape[2] if self.attn_mask is None else int(self.seen().flatten(0, -2).any(0).sum())

    def seen(self) -> Tensor:
        """What the mask lets through, bool, in the mask's shape, or [1, 1, 1, tokens looked at] without one."""
        mask = self.attn_mask
        if mask is None:
            return torch.ones(1, 1, 1, self.key.shape[2], dtype=torch.bool, device=self.key.device)
        return mask if mask.dtype == torch.bool else mask > CLOSED

    def without(self, silent: Tensor, hidden: Tensor) -> Attending:
        """The call in which some tokens of some heads add nothing (silent), or are not looked at (hidden): bool [heads, tokens]."""
        mask = self.attn_mask
        if bool(hidden.any()):
            closed = hidden[None, :, None]
            mask = self.seen() & ~closed if mask is None or mask.dtype == torch.bool else mask.masked_fill(closed, -torch.inf)
        return replace(self, value=self.value * ~silent[None, :, :, None], attn_mask=mask)

    def __call__(self) -> Tensor:
        found: Tensor = SDPA(
            self.query,
            self.key,
            self.value,
            self.attn_mask,
            self.dropout_p,
            self.is_causal,
            scale=self.scale,
            enable_gqa=self.enable_gqa,
        )
        return found


class _Around(TorchFunctionMode):
    """While it is entered, `around` gives the result of torch's attention in place of the call."""

    def __init__(self, around: Callable[[Attending], Tensor]):
        super().__init__()
        self._around = around

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is SDPA:
            return self._around(Attending(*args, **(kwargs or {})))  # torch leaves the mode while this runs
        return func(*args, **(kwargs or {}))


@contextmanager
def around_attention(module: nn.Module, around: Callable[[Attending], Tensor]) -> Iterator[None]:
    """Let `around` see, and answer, each call of torch's attention in a module, in whatever thread it runs."""
    mode, own, inner = _Around(around), vars(module).get("forward"), module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with mode:  # hooks would not leave it after Ctrl-C
            return inner(*args, **kwargs)

    module.forward = forward
    try:
        # nnsight's own is in `inner`, so that its interventions act. The filter stays, since taking it back would take back those that
        # other threads set meanwhile; it is there once.
        warnings.filterwarnings("ignore", message=".*`forward` was replaced after nnsight wrapped this module")
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
