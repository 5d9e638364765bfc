"""Steering vectors: for each site and noise level, the direction in which a concept lies. Frozen values with an algebra and files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from audioscope.paths import write_whole
from audioscope.sites import Site, Sites

FORMAT = 1  # of the files


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """What to add to the outputs of some sites to get more of a concept (TADA, section 3, eq. 6).

    directions: site path -> float32 [levels, width], without unit: a direction of norm 1 at strength 1 adds as much as the
    site's output itself is long. norms: site path -> float32 [levels], that length, the mean norm of the site's output.
    sigmas: float32 [levels], the noise levels, falling. model, fingerprint: whose activations these are. facts: how it was
    made (concept, against, branch, pairs, a hash of the prompts, version), JSON values only.

    `+ - * /` and unary minus work on what is added; both vectors must be of one model. Raises ValueError for shapes that do not
    fit one another, for values that are not finite, and for vectors that cannot be combined.
    """

    directions: Mapping[str, Tensor]
    norms: Mapping[str, Tensor]
    sigmas: Tensor
    model: str
    fingerprint: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        levels = self.sigmas.shape
        if len(levels) != 1 or not levels[0] or not self.directions or self.directions.keys() != self.norms.keys():
            raise ValueError("A steering vector needs noise levels, and directions and norms for the same sites, at least one.")
        if not bool((self.sigmas[1:] < self.sigmas[:-1]).all()):
            raise ValueError(f"The noise levels are {self.sigmas.tolist()}, expected falling ones.")
        for path, values in self.directions.items():
            if values.ndim != 2 or values.shape[:1] != levels or self.norms[path].shape != levels:
                raise ValueError(
                    f"{path} has directions {list(values.shape)} and norms {list(self.norms[path].shape)}, expected [levels, width] "
                    f"and [levels] for {levels[0]} noise levels."
                )
            if not (torch.isfinite(values).all() and torch.isfinite(self.norms[path]).all()):
                raise ValueError(f"The directions or norms of {path} hold NaN or infinity.")

    @property
    def paths(self) -> tuple[str, ...]:
        """The module paths of its sites."""
        return tuple(self.directions)

    @cached_property
    def _rising(self) -> tuple[np.ndarray, dict[str, Tensor]]:
        """Noise levels, rising, and what strength 1 adds at each, in the activations' own units."""
        scaled = {path: (self.directions[path] * self.norms[path][:, None]).flip(0) for path in self.paths}
        return self.sigmas.flip(0).numpy(), scaled

    def at(self, path: str, sigma: float) -> Tensor:
        """What strength 1 adds at a noise level, float32 [width]: linear between the two nearest levels, constant beyond them."""
        sigmas, scaled = self._rising
        place = float(np.interp(sigma, sigmas, np.arange(len(sigmas))))
        low = min(int(place), max(0, len(sigmas) - 2))
        high = min(low + 1, len(sigmas) - 1)
        return torch.lerp(scaled[path][low], scaled[path][high], place - low)

    def check(self, model: str, fingerprint: str, sites: Sites) -> None:
        """Raise ValueError, with both values, unless the vector was made from this model and its sites have these widths."""
        known = {site.path: site for site in sites}
        for path, values in self.directions.items():
            if path not in known:
                raise ValueError(
                    f"The vector acts at {path!r}, but {model!r} has no such site; its sites are like {sites.all[0].path!r}."
                )
            if values.shape[1] != known[path].width:
                raise ValueError(
                    f"The vector has width {values.shape[1]} at {path}, but there {model!r} has width {known[path].width}."
                )
        if self.fingerprint != fingerprint:
            raise ValueError(
                f"The vector was made from {self.model!r} with weights {self.fingerprint}, but this is {model!r} with weights "
                f"{fingerprint}: make it anew from this model."
            )

    def failed(self, sigmas: Sequence[float]) -> list[float]:
        """Those of some noise levels at which an SAE that this vector was made from does not pass its gate."""

        def fails(facts: Mapping[str, Any], sigma: float) -> bool:
            known = facts.get("levels_passed", {})  # sigma, as text -> whether it passed
            nearest = min(known, key=lambda level: abs(float(level) - sigma), default=None)
            return (nearest is not None and not known[nearest]) or any(fails(part, sigma) for part in facts.get("sum_of", ()))

        return [sigma for sigma in sigmas if fails(self.facts, sigma)]

    def only(self, sites: Iterable[str | Site]) -> SteeringVector:
        """The same at some of its sites. Raises ValueError for a site that it does not have, or for none."""
        paths = [str(site) for site in sites]
        missing = [path for path in paths if path not in self.directions]
        if missing or not paths:
            raise ValueError(f"The vector has no direction at {missing or 'no site at all'}: it has {', '.join(self.paths)}.")
        return replace(
            self, directions={p: self.directions[p] for p in self.paths if p in paths},
            norms={p: self.norms[p] for p in self.paths if p in paths},
        )  # fmt: skip

    def _mapped(self, directions: Mapping[str, Tensor], **facts: Any) -> SteeringVector:
        return replace(self, directions=dict(directions), facts={**self.facts, **facts})

    def __mul__(self, factor: float) -> SteeringVector:
        return self._mapped(
            {p: v * float(factor) for p, v in self.directions.items()}, scaled=factor * self.facts.get("scaled", 1.0)
        )

    __rmul__ = __mul__

    def __truediv__(self, factor: float) -> SteeringVector:
        return self * (1 / factor)

    def __neg__(self) -> SteeringVector:
        return self * -1.0

    def __add__(self, other: SteeringVector) -> SteeringVector:
        """What adds what both would add: at sites that both have, the sum; elsewhere, that of the one that has the site."""
        other = self._alike(other)
        total, norms = dict(self.directions), {**other.norms, **self.norms}
        for path, theirs in other.directions.items():
            if path in total:
                total[path] = total[path] + theirs * (other.norms[path] / self.norms[path].clamp_min(1e-12))[:, None]
            else:
                total[path] = theirs
        name = f"{self.facts.get('concept', '?')} + {other.facts.get('concept', '?')}"
        return replace(
            self, directions=total, norms=norms, facts={"concept": name, "sum_of": [dict(self.facts), dict(other.facts)]}
        )

    def __sub__(self, other: SteeringVector) -> SteeringVector:
        return self + -other

    def _alike(self, other: SteeringVector) -> SteeringVector:
        """The other vector at this one's noise levels. Raises ValueError, with both values, for one of another model or width."""
        if not isinstance(other, SteeringVector):
            raise TypeError(f"A steering vector combines with another one, not with {type(other).__name__}.")
        if self.fingerprint != other.fingerprint:
            raise ValueError(
                f"One vector was made from {self.model!r} with weights {self.fingerprint}, the other from {other.model!r} with weights {other.fingerprint}."
            )
        for path in self.directions.keys() & other.directions.keys():
            if self.directions[path].shape[1] != other.directions[path].shape[1]:
                raise ValueError(
                    f"At {path} one vector has width {self.directions[path].shape[1]}, the other {other.directions[path].shape[1]}."
                )
        return other if torch.equal(self.sigmas, other.sigmas) else other.at_levels(self.sigmas)

    def at_levels(self, sigmas: Tensor) -> SteeringVector:
        """The same vector given at other noise levels, interpolated."""
        rising = self.sigmas.flip(0).numpy()
        norms = {p: torch.from_numpy(np.interp(sigmas, rising, n.flip(0))).float() for p, n in self.norms.items()}
        wanted = {p: torch.stack([self.at(p, float(s)) for s in sigmas]) for p in self.paths}
        directions = {p: v / norms[p].clamp_min(1e-12)[:, None] for p, v in wanted.items()}
        return replace(self, directions=directions, norms=norms, sigmas=sigmas.float().clone())

    def orthogonal_to(self, other: SteeringVector) -> SteeringVector:
        """Without the part that lies along `other`, at each site and level that both have: steers one concept past another."""
        along = self._alike(other).directions
        clean = {}
        for path, mine in self.directions.items():
            if path in along:
                unit = torch.nn.functional.normalize(along[path], dim=1)
                mine = mine - (mine * unit).sum(1, keepdim=True) * unit
            clean[path] = mine
        return self._mapped(clean, orthogonal_to=other.facts.get("concept", "?"))

    def unit(self) -> SteeringVector:
        """The same directions, each of norm 1: every site is pushed by one length of its output, as in the paper."""
        return self._mapped({p: torch.nn.functional.normalize(v, dim=1) for p, v in self.directions.items()}, unit=True)

    def random(self, seed: int) -> SteeringVector:
        """A control: random directions with the norms of this one, and as alike from level to level as its own are.

        At each site the span of the directions is turned to a random place of the whole space.
        """
        generator = torch.Generator().manual_seed(seed)
        turned = {}
        for path, values in self.directions.items():
            left, scale, _ = torch.linalg.svd(values, full_matrices=False)
            basis, _ = torch.linalg.qr(torch.randn(values.shape[1], len(scale), generator=generator))
            turned[path] = (left * scale) @ basis.T
        return self._mapped(turned, random=seed)

    def cosines(self, other: SteeringVector) -> pd.DataFrame:
        """How alike two vectors are: one row per shared site and noise level, columns site, sigma, cosine."""
        theirs = self._alike(other).directions
        return pd.DataFrame([
            {"site": path, "sigma": float(sigma), "cosine": float(torch.nn.functional.cosine_similarity(a, b, dim=0))}
            for path, values in self.directions.items() if path in theirs
            for sigma, a, b in zip(self.sigmas, values, theirs[path], strict=True)
        ], columns=["site", "sigma", "cosine"])  # fmt: skip

    def save(self, file: str | Path) -> Path:
        """Write file.safetensors with the numbers and file.json with the rest; returns the first. Any suffix is replaced."""
        file = Path(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        tensors = {"sigmas": self.sigmas.contiguous()}
        for path in self.paths:
            tensors[f"{path}/directions"], tensors[f"{path}/norms"] = (
                self.directions[path].contiguous(),
                self.norms[path].contiguous(),
            )
        about = {
            "format": FORMAT,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "sites": list(self.paths),
            "facts": dict(self.facts),
        }
        numbers, rest = file.with_suffix(".safetensors"), file.with_suffix(".json")
        write_whole(rest, lambda part: part.write_text(json.dumps(about, indent=1) + "\n"))
        write_whole(numbers, lambda part: safetensors.torch.save_file(tensors, part))
        return numbers

    @classmethod
    def load(cls, file: str | Path) -> SteeringVector:
        """Read what `save` wrote; both files are data, nothing in them is run.

        Raises FileNotFoundError for a missing file and ValueError for a damaged one.
        """
        numbers, rest = Path(file).with_suffix(".safetensors"), Path(file).with_suffix(".json")
        for part in (numbers, rest):
            if not part.exists():
                raise FileNotFoundError(
                    f"No steering vector at {part}: SteeringVector.save writes a .safetensors and a .json file."
                )
        try:
            about, tensors = json.loads(rest.read_text()), safetensors.torch.load_file(numbers)
            if about["format"] != FORMAT:
                raise ValueError(f"its format is {about['format']}, this audioscope reads {FORMAT}")
            return cls(
                {p: tensors[f"{p}/directions"].float() for p in about["sites"]}, {p: tensors[f"{p}/norms"].float() for p in about["sites"]},
                tensors["sigmas"].float(), str(about["model"]), str(about["fingerprint"]), dict(about["facts"]),
            )  # fmt: skip
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{numbers} and its .json are damaged or no steering vector ({error}).") from error

    def frame(self) -> pd.DataFrame:
        """One row per site: path, width, levels, the mean length of its directions, and the mean norm of the site's output."""
        return pd.DataFrame([
            {"site": p, "width": v.shape[1], "levels": len(v), "length": float(v.norm(dim=1).mean()), "output_norm": float(self.norms[p].mean())}
            for p, v in self.directions.items()
        ])  # fmt: skip

    def __repr__(self) -> str:
        versus = f" against {self.facts['against']}" if self.facts.get("against") else ""
        return (
            f"SteeringVector({self.facts.get('concept', '?')}{versus}, {self.model}: {len(self.paths)} sites, {len(self.sigmas)} noise "
            f"levels from {self.sigmas[0]:.3g} to {self.sigmas[-1]:.3g})"
        )

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p>{escape(repr(self))}</p>{self.frame().round(3).to_html(index=False)}"
