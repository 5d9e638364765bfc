"""Steering vectors: the direction of a concept at each site and noise level, as frozen values with arithmetic and files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from audioscope.audio import Clip
from audioscope.edits import Branch, Edit, Here, Which, curve_of, middles, span, within
from audioscope.errors import Damaged, as_path, choice, known_name, listed, of_kind, real, said, seed_number, truth
from audioscope.model import Model
from audioscope.sharing import as_clips, fetched, model_card, push
from audioscope.sites import MEMORY, Site, Sites
from audioscope.store import as_json, made_folder, read_json, write_together
from audioscope.views import view

FORMAT = 1  # version of the file format
Mode = Literal["add", "keep_norm", "project_out"]


def vector_files(file: str | Path) -> tuple[Path, Path]:
    """The two files of a vector, for the numbers and for the rest, from the name of either or without a suffix."""
    file = as_path(file)
    stem = file.stem if file.suffix in (".safetensors", ".json") else file.name
    return file.with_name(f"{stem}.safetensors"), file.with_name(f"{stem}.json")


def has_memory(paths: Iterable[str]) -> bool:
    """Whether the path of a memory is among those of a vector."""
    return any(path.endswith(f".{MEMORY}") for path in paths)


def _is_vector(file: Path) -> bool:
    try:
        return {"format", "fingerprint", "sites"} <= set(json.loads(file.read_text()))
    except (ValueError, TypeError, OSError):
        return False


def _has_directions(file: Path) -> bool:
    """Whether the numbers are a vector's, or were before they were cut short."""
    try:
        with safe_open(file, "pt") as opened:
            return "sigmas" in opened.keys()  # noqa: SIM118
    except (OSError, SafetensorError):
        return file.is_file() and _is_vector(file.with_suffix(".json"))


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """What to add to the outputs of some sites to get more of a concept (TADA, section 3, eq. 6).

    `+ - * /` and unary minus act on what the vector adds; both vectors must come from the same model.

    A site's output has tokens of the music's time, which all get the same, and in some models a memory before them, whose tokens get
    one each; the memory is a site of its own, "<path>.memory", that goes along with the module.

    Args:
        directions: By site path, float32 [levels, width], dimensionless: at strength 1, a direction of norm 1 adds a vector as
            long as the site's mean output norm.
        norms: By site path, float32 [levels], this mean norm.
        sigmas: The noise levels, float32 [levels], strictly decreasing.
        model: The name of the model that the activations come from.
        fingerprint: The hash of its weights.
        metadata: How the vector was made (concept, against, branch, pairs, a hash of the prompts, version), JSON values only.

    Raises:
        ValueError: Shapes are inconsistent, values are not finite, or two vectors cannot be combined.

    Example:
        >>> fast, happy = audioscope.datasets.vector("fast"), audioscope.datasets.vector("happy")
        >>> fast
        SteeringVector(fast against slow, tiny: 12 sites with memory, 10 noise levels from 1 to 0.235, reliability 0.97)
        >>> both = fast + 0.5 * happy
        >>> with model.steer(both, 1.5):
        ...     clip = model.generate("a song with violin", steps=2)
    """

    directions: Mapping[str, Tensor]
    norms: Mapping[str, Tensor]
    sigmas: Tensor
    model: str
    fingerprint: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("directions", "norms", "metadata"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"{name} is {said(getattr(self, name))}, expected a dict.")
        levels = of_kind("sigmas", self.sigmas, Tensor).shape
        if len(levels) != 1 or not levels[0] or not self.directions or self.directions.keys() != self.norms.keys():
            raise ValueError(
                "A steering vector needs at least one noise level, and directions and norms for the same sites, at least one."
            )
        if not bool((self.sigmas[1:] < self.sigmas[:-1]).all()):
            raise ValueError(f"sigmas is {self.sigmas.tolist()}, expected strictly decreasing noise levels.")
        for path, values in self.directions.items():
            for value in (values, self.norms[path]):
                of_kind(f"What the vector has for {path}", value, Tensor)
            if values.ndim != 2 or values.shape[:1] != levels or self.norms[path].shape != levels:
                raise ValueError(
                    f"{path} has directions {list(values.shape)} and norms {list(self.norms[path].shape)}, expected [levels, width] "
                    f"and [levels] for {levels[0]} noise levels."
                )
            if not (torch.isfinite(values).all() and torch.isfinite(self.norms[path]).all()):
                raise ValueError(f"The directions or norms of {path} contain NaN or infinity.")

    @property
    def paths(self) -> tuple[str, ...]:
        """The module paths of its sites; the memory of a module counts with it."""
        return tuple(dict.fromkeys(path.removesuffix(f".{MEMORY}") for path in self.directions))

    @cached_property
    def _rising(self) -> tuple[np.ndarray, dict[str, Tensor]]:
        """Noise levels, increasing, and what strength 1 adds at each, in the units of the activations."""
        scaled = {path: (values * self.norms[path][:, None]).flip(0) for path, values in self.directions.items()}
        return self.sigmas.flip(0).numpy(), scaled

    def at(self, path: str, sigma: float) -> Tensor:
        """Look up what strength 1 adds at a noise level, linear between the two nearest levels and constant beyond them.

        Args:
            path: The module path of one of its sites, or that of a memory.
            sigma: The noise level.

        Returns:
            The vector to add, float32 [width], in the units of the activations.

        Raises:
            UnknownName: The vector does not have this site.
            ValueError: sigma is no number.

        Example:
            >>> vector = audioscope.datasets.vector("fast")
            >>> vector.at(vector.paths[6], sigma=0.7).shape
            torch.Size([128])
        """
        known_name("direction at", path, self.directions)
        sigma = real("sigma", sigma)
        sigmas, scaled = self._rising
        place = float(np.interp(sigma, sigmas, np.arange(len(sigmas))))
        low = min(int(place), max(0, len(sigmas) - 2))
        high = min(low + 1, len(sigmas) - 1)
        return torch.lerp(scaled[path][low], scaled[path][high], place - low)

    @property
    def reliability(self) -> float | None:
        """How alike the vectors of the two halves of its pairs are: the cosine, mean over sites and noise levels; None if unknown."""
        halves = self.metadata.get("halves") if isinstance(self.metadata, Mapping) else None
        return float(np.mean(list(halves.values()))) if isinstance(halves, Mapping) and halves else None

    def check(self, model: str, fingerprint: str, sites: Sites) -> None:
        """Raise ValueError unless the vector was made from this model and its widths match the sites.

        Args:
            model: The model's name.
            fingerprint: The hash of its weights.
            sites: Its sites.

        Raises:
            ValueError: A site is missing or has another width, or the weights differ; the message has both values.
        """
        known = {site.path: site for site in sites.every}
        for path, values in self.directions.items():
            if path not in known:
                raise ValueError(
                    f"The vector acts at {path!r}, but {model!r} has no such site; its sites look like {sites.all[0].path!r}."
                )
            if known[path].of_text:
                raise ValueError(
                    f"The vector acts at {path!r}, which belongs to the text, not to the sound: steer the module itself."
                )
            if values.shape[1] != known[path].width:
                raise ValueError(
                    f"The vector has width {values.shape[1]} at {path}, but {model!r} has width {known[path].width} there."
                )
        if self.fingerprint != fingerprint:
            raise ValueError(
                f"The vector was made from {self.model!r} with weights {self.fingerprint}, but this is {model!r} with weights "
                f"{fingerprint}: re-create it from this model, or, for other versions of the same weights, use vector.for_model(model)."
            )

    def for_model(self, model: Model) -> SteeringVector:
        """Use the vector on another version of its model, such as a fine-tune or the same weights in half precision.

        Args:
            model: The other model, which has the same sites. Whether the vector does there what it did is yours to test.

        Returns:
            A copy that is made for it; its metadata keep, as made_from, the name and the weights that it was made from.

        Raises:
            ValueError: A site is missing there, or has another width.

        Example:
            >>> half = audioscope.load("tiny", dtype="bfloat16")
            >>> vector = audioscope.datasets.vector("fast").for_model(half)
            >>> with half.steer(vector, strength=2.0):
            ...     clip = half.generate("a jazz song", steps=2)
        """
        of_kind("model", model, Model)
        origin = self.metadata.get("made_from", {"model": self.model, "fingerprint": self.fingerprint})
        copy = replace(self, model=model.name, fingerprint=model.fingerprint, metadata={**self.metadata, "made_from": origin})
        copy.check(model.name, model.fingerprint, model.sites)
        return copy

    def failed(self, sigmas: Sequence[float]) -> list[float]:
        """Find the noise levels at which an SAE that this vector was made from fails its evaluation.

        Args:
            sigmas: The noise levels at which the vector is to act.

        Returns:
            Those among `sigmas` that fail, each judged at the nearest level that was evaluated; empty for a vector without SAE.
        """

        def fails(metadata: Mapping[str, Any], sigma: float) -> bool:
            known = metadata.get("levels_passed", {})  # sigma, as text -> whether it passed
            nearest = min(known, key=lambda level: abs(float(level) - sigma), default=None)
            return (nearest is not None and not known[nearest]) or any(fails(part, sigma) for part in metadata.get("sum_of", ()))

        return [sigma for sigma in sigmas if fails(self.metadata, sigma)]

    def edit(self, strength: float = 1.0, **keywords: Any) -> AddVector:
        """Make the edit that adds `strength` times this vector.

        Args:
            strength: In units of the mean norm of a site's output; negative values steer away.
            **keywords: Those of `AddVector` (mode, branch, steps, seconds, sites).

        Returns:
            The edit, for `Model.generate(..., edits=...)`.

        Example:
            >>> edit = audioscope.datasets.vector("fast").edit(1.5, steps=(0, 2), mode="keep_norm")
            >>> model.generate("a song with violin", edits=edit, steps=4).samples.shape
            (1, 65536)
        """
        return AddVector(self, strength, **keywords)

    def only(self, sites: Iterable[str | Site], memory: bool = True) -> SteeringVector:
        """Keep the vector at some of its sites.

        Args:
            sites: Sites, or their module paths.
            memory: Whether the memory of modules comes along; the path of a memory, ".../cross_attn.memory", names it alone.

        Returns:
            A vector that acts at these sites alone.

        Raises:
            ValueError: The vector does not have one of the sites, or no site is given.

        Example:
            >>> audioscope.datasets.vector("fast").only(model.sites.select([5, 6])).paths
            ('transformer.transformer_blocks.5.cross_attn', 'transformer.transformer_blocks.6.cross_attn')
        """
        several = [sites] if isinstance(sites, str | Site) else listed("sites", sites, "sites or their module paths")
        truth("memory", memory)
        named = [str(site) for site in several]
        paths = {*named, *(f"{path}.{MEMORY}" for path in named if memory)} & self.directions.keys()
        missing = [path for path in named if not paths & {path, f"{path}.{MEMORY}"}]
        if missing or not paths:
            raise ValueError(
                f"The vector has no direction at {missing or 'an empty list of sites'}: its sites are {', '.join(self.paths)}."
            )
        metadata = {name: value for name, value in self.metadata.items() if name != "memory" or has_memory(paths)}
        return replace(
            self, directions={p: v for p, v in self.directions.items() if p in paths},
            norms={p: v for p, v in self.norms.items() if p in paths}, metadata=metadata,
        )  # fmt: skip

    def _mapped(self, directions: Mapping[str, Tensor], **metadata: Any) -> SteeringVector:
        return replace(self, directions=dict(directions), metadata={**self.metadata, **metadata})

    def __mul__(self, factor: float) -> SteeringVector:
        factor = real("factor", factor)
        return self._mapped({p: v * factor for p, v in self.directions.items()}, scaled=factor * self.metadata.get("scaled", 1.0))

    __rmul__ = __mul__

    def __truediv__(self, factor: float) -> SteeringVector:
        return self * (1 / factor)

    def __neg__(self) -> SteeringVector:
        return self * -1.0

    def __add__(self, other: SteeringVector) -> SteeringVector:
        """The vector that adds what both would add: the sum at shared sites; elsewhere, the one vector that has the site."""
        other = self._alike(other)
        total, norms = dict(self.directions), {**other.norms, **self.norms}
        for path, theirs in other.directions.items():
            if path in total:
                total[path] = total[path] + theirs * (other.norms[path] / self.norms[path].clamp_min(1e-12))[:, None]
            else:
                total[path] = theirs
        sign = "-" if other.metadata.get("scaled", 1) < 0 else "+"
        name = f"{self.metadata.get('concept', '?')} {sign} {other.metadata.get('concept', '?')}"
        return replace(
            self, directions=total, norms=norms, metadata={"concept": name, "sum_of": [dict(self.metadata), dict(other.metadata)]}
        )

    def __sub__(self, other: SteeringVector) -> SteeringVector:
        return self + -other

    def _alike(self, other: SteeringVector) -> SteeringVector:
        """The other vector at this one's noise levels. Raises ValueError, with both values, for another model or width."""
        if not isinstance(other, SteeringVector):
            raise TypeError(f"A steering vector combines only with another SteeringVector, not with a {type(other).__name__}.")
        if self.fingerprint != other.fingerprint:
            raise ValueError(
                f"One vector was made from {self.model!r} with weights {self.fingerprint}, the other from {other.model!r} with "
                f"weights {other.fingerprint}."
            )
        for path in self.directions.keys() & other.directions.keys():
            if self.directions[path].shape[1] != other.directions[path].shape[1]:
                raise ValueError(
                    f"At {path} one vector has width {self.directions[path].shape[1]}, the other {other.directions[path].shape[1]}."
                )
        return other if torch.equal(self.sigmas, other.sigmas) else other.at_levels(self.sigmas)

    def at_levels(self, sigmas: Tensor) -> SteeringVector:
        """Interpolate the vector to other noise levels.

        Args:
            sigmas: The wanted levels, float [levels], strictly decreasing.

        Returns:
            A vector that adds the same, with these noise levels.
        """
        rising = self.sigmas.flip(0).numpy()
        norms = {p: torch.from_numpy(np.interp(sigmas, rising, n.flip(0))).float() for p, n in self.norms.items()}
        wanted = {p: torch.stack([self.at(p, float(s)) for s in sigmas]) for p in self.directions}
        directions = {p: v / norms[p].clamp_min(1e-12)[:, None] for p, v in wanted.items()}
        return replace(self, directions=directions, norms=norms, sigmas=sigmas.float().clone())

    def orthogonal_to(self, other: SteeringVector) -> SteeringVector:
        """Remove the part along another vector at shared sites, to steer one concept without moving along another.

        Args:
            other: A vector of the same model; it is interpolated if its noise levels differ.

        Returns:
            The rest of this vector, shorter than before.

        Raises:
            ValueError: The vectors come from different models or differ in width.

        Example:
            >>> fast, happy = audioscope.datasets.vector("fast"), audioscope.datasets.vector("happy")
            >>> bool(fast.orthogonal_to(happy).cosines(happy)["cosine"].abs().max() < 1e-4)
            True
        """
        along = self._alike(other).directions
        clean = {}
        for path, mine in self.directions.items():
            if path in along:
                unit = torch.nn.functional.normalize(along[path], dim=1)
                mine = mine - (mine * unit).sum(1, keepdim=True) * unit
            clean[path] = mine
        return self._mapped(clean, orthogonal_to=other.metadata.get("concept", "?"))

    def half(self) -> SteeringVector:
        """Round the directions to half precision, as which `save` then writes them: files of half the size, which lose nothing more.

        Returns:
            A vector that steers alike.

        Example:
            >>> vector = audioscope.datasets.vector("fast")
            >>> round(float(vector.half().cosines(vector)["cosine"].min()), 4)
            1.0
        """
        return self._mapped({p: v.half().float() for p, v in self.directions.items()})

    def unit(self) -> SteeringVector:
        """Scale each direction to norm 1: strength 1 pushes every site by the mean norm of its output, as in the paper.

        Returns:
            A vector with the same directions.
        """
        return self._mapped({p: torch.nn.functional.normalize(v, dim=1) for p, v in self.directions.items()}, normalize=True)

    def random(self, seed: int) -> SteeringVector:
        """Make a control: random directions with the same norms, and the same similarity from level to level, as this vector's.

        At each site, the span of the directions is rotated to a random subspace of the whole space.

        Args:
            seed: The seed of the rotation.

        Returns:
            A vector at the same sites and noise levels.

        Example:
            >>> vector = audioscope.datasets.vector("fast")
            >>> bool(vector.cosines(vector.random(seed=0))["cosine"].abs().max() < 0.5)
            True
        """
        seed = seed_number(seed)
        generator = torch.Generator().manual_seed(seed)
        turned = {}
        for path, values in self.directions.items():
            left, scale, _ = torch.linalg.svd(values.float(), full_matrices=False)
            basis, _ = torch.linalg.qr(torch.randn(values.shape[1], len(scale), generator=generator))
            turned[path] = (left * scale) @ basis.T
        return self._mapped(turned, random=seed)

    def cosines(self, other: SteeringVector) -> pd.DataFrame:
        """Measure how similar two vectors are.

        Args:
            other: A vector of the same model; it is interpolated if its noise levels differ.

        Returns:
            One row per shared site and noise level with the columns site, sigma and cosine.

        Raises:
            ValueError: The vectors come from different models or differ in width.

        Example:
            >>> vector = audioscope.datasets.vector("fast")
            >>> vector.cosines(-vector)["cosine"].round(3).unique().tolist()
            [-1.0]
        """
        theirs = self._alike(other).directions
        return pd.DataFrame([
            {"site": path, "sigma": float(sigma), "cosine": float(torch.nn.functional.cosine_similarity(a, b, dim=0))}
            for path, values in self.directions.items() if path in theirs
            for sigma, a, b in zip(self.sigmas, values, theirs[path], strict=True)
        ], columns=["site", "sigma", "cosine"])  # fmt: skip

    def save(self, file: str | Path) -> Path:
        """Write the numbers to file.safetensors, in half precision if that keeps them all, and the rest to file.json.

        Args:
            file: Where to write, with or without one of the two suffixes.

        Returns:
            The path of file.safetensors.

        Example:
            >>> file = audioscope.datasets.vector("fast").save("fast")
            >>> file.name, audioscope.SteeringVector.load("fast").metadata["concept"]
            ('fast.safetensors', 'fast')
        """
        file = as_path(file)
        made_folder(file.parent)
        tensors = {"sigmas": self.sigmas.contiguous()}
        for path, values in self.directions.items():
            half = values.half()
            tensors[f"{path}/directions"] = (half if torch.equal(half.float(), values) else values).contiguous()
            tensors[f"{path}/norms"] = self.norms[path].contiguous()
        about = {
            "format": FORMAT,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "sites": list(self.directions),
            "metadata": dict(self.metadata),
        }
        numbers, rest = vector_files(file)
        for part, ours in ((rest, _is_vector(rest)), (numbers, _has_directions(numbers))):
            if part.exists() and not ours:
                raise ValueError(f"{part} is not the file of a steering vector, and would be overwritten: choose another name.")
        content = safetensors.torch.save(tensors)
        about["content"] = hashlib.sha256(content).hexdigest()[:16]
        write_together({numbers: lambda part: part.write_bytes(content), rest: as_json(about)})
        return numbers

    @classmethod
    def load(cls, file: str | Path) -> SteeringVector:
        """Read what `save` wrote; both files are data, and nothing in them is executed.

        Args:
            file: One of the two files, or their name without a suffix.

        Returns:
            The vector.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A file is corrupt.
        """
        numbers, rest = vector_files(file)
        for part in (numbers, rest):
            if not part.exists():
                raise FileNotFoundError(
                    f"No steering vector at {part}: SteeringVector.save writes a .safetensors and a .json file."
                )
        about, content = read_json(rest, FORMAT), numbers.read_bytes()
        try:
            if about.get("content", "") not in ("", hashlib.sha256(content).hexdigest()[:16]):
                raise ValueError("the two files are of different vectors")
            tensors = safetensors.torch.load(content)
            return cls(
                {p: tensors[f"{p}/directions"].float() for p in about["sites"]}, {p: tensors[f"{p}/norms"].float() for p in about["sites"]},
                tensors["sigmas"].float(), str(about["model"]), str(about["fingerprint"]), dict(about["metadata"]),
            )  # fmt: skip
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{numbers} and its .json are corrupt or not a steering vector ({error}).") from error

    def push_to_hub(
        self,
        repo: str,
        *,
        clips: Sequence[Clip] = (),
        license: str | None = None,
        private: bool | None = None,
        revision: str | None = None,
        token: str | None = None,
        message: str | None = None,
    ) -> str:
        """Upload the vector to the Hugging Face Hub, with a card that says what it is, how reliable, and how to load it.

        Args:
            repo: The repository, such as "owner/name"; it is made if it does not exist.
            clips: Clips to hear in the card, such as steered ones.
            license: The licence of the vector, by the hub's identifiers, such as "cc-by-4.0"; with None, the card says that none was
                given.
            private: Whether a new repository is private; None is the owner's default.
            revision: The branch; None is the main one.
            token: The access token for the hub; None takes the one that `hf auth login` stored.
            message: The message of the commit.

        Returns:
            The address of the repository.

        Raises:
            ValueError: `repo` is not such a name or holds something else, `clips` are not clips, or the licence is no identifier.
            ConnectionError: The hub does not take it.

        Example:
            >>> vector = audioscope.datasets.vector("fast")
            >>> vector.push_to_hub("me/tiny-fast", license="mit")  # doctest: +SKIP
            'https://huggingface.co/me/tiny-fast'
        """

        def card(names: Sequence[str]) -> str:
            concept = str(self.metadata.get("concept", "?"))
            versus = f" against {self.metadata['against']}" if self.metadata.get("against") else ""
            use = (
                f"import audioscope\n\nmodel = audioscope.load({self.model!r})\n"
                f"vector = audioscope.SteeringVector.from_pretrained({repo!r})\n"
                'with model.steer(vector, strength=1.5):\n    model.generate("a song with violin", seed=0)'
            )
            return model_card(
                f"Steering vector: {concept}{versus}", "steering-vector", self.model, self._facts(), use,
                license=license, clips=[(clip.prompt, name) for clip, name in zip(clips, names, strict=True)],
            )  # fmt: skip

        clips = as_clips(clips)
        return push(
            lambda folder: self.save(folder / "vector"), repo, card, ("vector.safetensors", "vector.json"),
            clips=clips, private=private, revision=revision, token=token, message=message,
        )  # fmt: skip

    def _facts(self) -> dict[str, Any]:
        """What its card says of it."""
        about, passed = self.metadata, self.metadata.get("levels_passed")
        return {
            "model": self.model, "weights": self.fingerprint, "concept": about.get("concept"), "against": about.get("against"),
            "sites": ", ".join(self.paths), "noise levels": f"{len(self.sigmas)}, from {self.sigmas[0]:.3g} to {self.sigmas[-1]:.3g}",
            "guidance branch": about.get("branch"), "pairs": about.get("pairs"), "seeds": about.get("seeds"), "split": about.get("split"),
            "steps": about.get("steps"), "guidance": about.get("guidance"),
            "gate": f"the SAE passes its evaluation at {sum(passed.values())} of {len(passed)} noise levels" if passed else "no SAE is involved",
            "reliability": f"cosine {self.reliability:.2f} between vectors of the two halves of the pairs, mean over sites and levels"
            if self.reliability is not None else "not measured",
        }  # fmt: skip

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        model: Model | None = None,
        revision: str | None = None,
        token: str | None = None,
        subfolder: str = "",
    ) -> SteeringVector:
        """Read a vector from the Hugging Face Hub or a folder, as `push_to_hub` wrote it, or as TADA released it.

        Args:
            source: A name on the hub, such as "owner/name", or a folder.
            model: The model, needed only for a vector of TADA (`audioscope.steer.tada_vector`).
            revision: A branch, tag or commit; None is the main branch.
            token: The access token for the hub; None takes the one that `hf auth login` stored.
            subfolder: The folder of the vector inside the repository.

        Returns:
            The vector.

        Raises:
            FileNotFoundError: There is no vector.
            ConnectionError: The hub does not give the repository.
            ValueError: A file is damaged, or a newer audioscope wrote it.

        Example:
            >>> file = audioscope.datasets.vector("fast").save("shared/vector")
            >>> audioscope.SteeringVector.from_pretrained("shared")
            SteeringVector(fast against slow, tiny: 12 sites with memory, 10 noise levels from 1 to 0.235, reliability 0.97)
        """
        files = ("vector.safetensors", "vector.json", "sv.pkl", "config.json")
        folder = fetched(source, files, revision=revision, token=token, subfolder=subfolder, what="steering vector")
        if (folder / "sv.pkl").is_file() and not (folder / "vector.json").is_file():
            if model is None:
                raise ValueError(
                    f"{str(source)!r} is a vector of TADA, which stores no noise levels: pass model=, the model it is for."
                )
            return view("SteeringVector.from_pretrained")(folder, of_kind("model", model, Model))
        return cls.load(folder / "vector")

    def to_frame(self) -> pd.DataFrame:
        """List the sites with the sizes of what the vector adds.

        Returns:
            One row per site with the columns site (its path), width, levels (their number), length (mean norm of its directions)
            and output_norm (mean norm of the site's output).
        """
        return pd.DataFrame([
            {"site": p, "width": v.shape[1], "levels": len(v), "length": float(v.norm(dim=1).mean()), "output_norm": float(self.norms[p].mean())}
            for p, v in self.directions.items()
        ])  # fmt: skip

    def __repr__(self) -> str:
        versus = f" against {self.metadata['against']}" if self.metadata.get("against") else ""
        memory = " with memory" if has_memory(self.directions) else ""
        return (
            f"SteeringVector({self.metadata.get('concept', '?')}{versus}, {self.model}: {len(self.paths)} sites{memory}, {len(self.sigmas)} noise "
            f"levels from {self.sigmas[0]:.3g} to {self.sigmas[-1]:.3g}, reliability "
            f"{'not measured' if self.reliability is None else f'{self.reliability:.2f}'})"
        )

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p>{escape(repr(self))}</p>{self.to_frame().round(3).to_html(index=False)}"


@dataclass(frozen=True)
class AddVector(Edit):
    """Steer: add `strength` times a steering vector to the outputs of its sites, at every time token (TADA, section 3).

    Tokens that do not represent time (memory, duration) get what the vector has for them, if it has been made with memory.

    Args:
        vector: What is added.
        strength: In units of the mean norm of a site's output; negative values steer away.
        mode: "add"; "keep_norm" restores each token's original norm, and that of the memory as a whole; "project_out" subtracts
            `strength` times each token's component along the vector.
        seconds: Only tokens between these two times, in s, and no memory; None means all.
        curve: The share of the strength over time, as points (second, share): linear between them, constant before the first and after
            the last, and no memory; None is 1 everywhere.
        sites: Some of the vector's sites, in any form that `Model.sites.select` takes; None means all of them.
        branch: The part of classifier-free guidance to change: "cond", which guidance amplifies, "uncond", or "both".
        steps: Half-open window of denoising steps (first, last + 1); None means every step.

    Raises:
        TypeError: `vector` is not a steering vector.
        ValueError: The strength is not below 1e6 in magnitude, the mode or branch is unknown, or `steps`, `seconds` or `curve`
            is no such window or curve.

    Example:
        >>> vector = audioscope.datasets.vector("fast")
        >>> second_half = audioscope.AddVector(vector, 1.5, seconds=(2.0, 4.0))
        >>> faster_and_faster = audioscope.AddVector(vector, 1.5, curve=[(0.0, 0.0), (4.0, 1.0)])
        >>> clip = model.generate("a song with violin", edits=second_half, steps=2)
    """

    sites: Which = field(default=None, kw_only=True)
    branch: Branch = field(default="cond", kw_only=True)
    vector: SteeringVector
    strength: float = 1.0
    mode: Mode = field(default="add", kw_only=True)
    seconds: tuple[float, float] | None = field(default=None, kw_only=True)
    curve: Sequence[tuple[float, float]] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.vector, SteeringVector):
            raise TypeError(
                f"vector is a {type(self.vector).__name__}, expected a SteeringVector, such as audioscope.caa returns."
            )
        object.__setattr__(self, "strength", real("strength", self.strength))
        if not abs(self.strength) < 1e6:
            raise ValueError(f"strength is {self.strength}, expected a finite number, usually between -2 and 2.")
        choice("mode", self.mode, ("add", "keep_norm", "project_out"))
        object.__setattr__(self, "seconds", span(self.seconds))
        object.__setattr__(self, "curve", curve_of(self.curve))
        if self.sites is None:
            object.__setattr__(self, "sites", self.vector.paths)

    @property
    def made_for(self) -> SteeringVector:
        return self.vector

    def check(self, model: str, fingerprint: str, sites: Sites) -> None:
        self.vector.check(model, fingerprint, sites)
        self.where(sites)  # raises for a site that the vector does not have

    def where(self, sites: Sites) -> tuple[Site, ...]:
        has = self.vector.only(sites.select(self.sites)).directions
        timeless = self.seconds is None and self.curve is None
        there = tuple(site for site in sites.every if site.path in has and (timeless or site.timed))
        if not there:
            raise ValueError("seconds and curve are about time, and this vector acts on the memory alone, which has none.")
        return there

    def failed(self, sigmas: Sequence[float]) -> list[float]:
        return self.vector.failed(sigmas)

    @property
    def idle(self) -> bool:
        return self.strength == 0

    def change(self, own: Tensor, other: Tensor | None, here: Here) -> Tensor:
        step = self.vector.at(here.site.path, here.sigma).to(own.device)
        old = own[here.leading :].float()
        strength: float | Tensor = self.strength
        if self.curve is not None:
            points = np.array(self.curve)
            share = np.interp(middles(old, here).cpu(), points[:, 0], points[:, 1])
            strength = strength * torch.from_numpy(share).to(old)[:, None]
        if self.mode == "project_out":
            unit = torch.nn.functional.normalize(step, dim=0)
            new = old - strength * (old @ unit)[:, None] * unit
        else:
            new = old + strength * step
            if self.mode == "keep_norm":
                new = new * (old.norm(dim=1) / new.norm(dim=1).clamp_min(1e-12))[:, None]
        return torch.cat([own[: here.leading], within(self.seconds, new, old, here).to(own.dtype)])
