"""Sparse autoencoders of others: those that TADA released, with their scores, and the layout of sparsify, both ways."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.torch
import torch

from audioscope.errors import as_path, listed, of_kind, plain_name, said
from audioscope.model import Model
from audioscope.pickles import read_pickle
from audioscope.sae.files import load_sae
from audioscope.sae.levels import Levels
from audioscope.sae.sae import SAE
from audioscope.sharing import fetched
from audioscope.steer.exchange import noise_levels
from audioscope.store import as_json, made_folder, refuse_foreign, write_together

SCORES = {"tfidf": "ratio", "diff": "difference", "mean_pos": "mean_with"}  # TADA's names and ours


def tada_sae(
    source: str | Path,
    model: Model,
    site: str | None = None,
    *,
    scores: str | Path | Sequence[str | Path] = (),
    revision: str | None = None,
    token: str | None = None,
) -> SAE:
    """Read a sparse autoencoder that TADA released, and the scores of its features for concepts.

    The files hold no noise levels, so the model is run once with as many steps as the scores have, without decoding. The SAE reads
    activations as they are, and strength 1 of its vectors adds a vector of length 1.

    Args:
        source: A folder, or a name on the hub, such as "lukasz-staniszewski/ace-step-sae-tf6-cross-attn".
        model: The model that it was trained on; the files do not identify its weights.
        site: The module path of its site; None is the site whose path ends in the name of the SAE's folder, such as
            transformer_blocks.6.cross_attn.
        scores: Folders or names on the hub of scores, such as "lukasz-staniszewski/ace-step-sae-scores-piano".
        revision: A branch, tag or commit of the repository of the SAE.
        token: The access token for the hub; None takes the one that `hf auth login` stored.

    Returns:
        The SAE, with the scores, which have no AUROC and no d.

    Raises:
        FileNotFoundError: There is no SAE, or there are no scores of its site.
        ConnectionError: The hub does not give a repository.
        ValueError: A file is damaged, holds anything but tensors, or does not fit the model.

    Example:
        >>> sae = audioscope.SAE(model.sites.cross[6].width, 32, 4, "topk")
        >>> folder = audioscope.sae.save_sparsify(sae, "theirs/transformer_blocks.6.cross_attn")
        >>> audioscope.sae.tada_sae("theirs", model)
        SAE(32 features, 4 active, width 128, topk of tiny transformer.transformer_blocks.6.cross_attn)
    """
    if not hasattr(model, "sites"):
        raise ValueError(f"model is {said(model)}, expected a Model.")
    folder = fetched(
        source, ("cfg.json", "sae.safetensors", "*/cfg.json", "*/sae.safetensors"), revision=revision, token=token, what="SAE"
    )
    inside = sorted(file.parent for file in folder.glob("*/cfg.json"))
    if not (folder / "cfg.json").exists() and len(inside) == 1:
        folder = inside[0]
    sae = load_sae(folder)
    if site is None:
        matching = [each for each in model.sites.all if each.path.endswith(f".{folder.name}") or each.path == folder.name]
        if len(matching) != 1:
            raise ValueError(f"{folder.name!r} does not name a site of {model.name!r}: pass site=, a module path.")
        (chosen,) = matching
    else:
        one, *more = model.sites.select(site)
        if more:
            raise ValueError(f"site is {said(site)}, expected one site.")
        chosen = one
    if sae.d_in != chosen.width:
        raise ValueError(f"The SAE has width {sae.d_in}, but {chosen.path} of {model.name!r} has width {chosen.width}.")
    sae.metadata = {
        **sae.metadata, "model": model.name, "fingerprint": model.fingerprint, "site": chosen.path, "branches": ["cond"], "from": "TADA",
    }  # fmt: skip
    several = [scores] if isinstance(scores, str | Path) else listed("scores", scores, "folders, or names on the hub")
    tables = [_scores(each, sae, chosen.layer, token) for each in several]
    if tables:
        steps = len(tables[0][1])
        if any(len(values) != steps for _, values in tables):
            raise ValueError("The scores were made with different numbers of steps: give those of one number.")
        sigmas = noise_levels(model, steps)
        sae.scores = pd.concat([_long(name, values, sigmas.numpy()) for name, values in tables], ignore_index=True)
        ones = torch.ones(steps)
        sae.levels = Levels(sigmas, torch.zeros(steps, sae.d_in), ones, ones)
        sae.metadata["steps"] = steps
    return sae


def _scores(source: str | Path, sae: SAE, layer: int, token: str | None) -> tuple[str, np.ndarray]:
    """The concept, and the scores [steps, features, 4]: ratio, difference, mean with and without it."""
    name = f"tf{layer}_scores.pkl"
    folder = fetched(source, (name,), token=token, what="scores of TADA")
    if not (folder / name).is_file():
        raise FileNotFoundError(f"No scores of layer {layer} at {str(source)!r}: expected {name}.")
    found = read_pickle(folder / name)
    try:
        ratio, difference, mean = (torch.as_tensor(found[column]).float().numpy() for column in SCORES)
        if not all(np.isfinite(values).all() for values in (ratio, difference, mean)):
            raise ValueError("scores that are not finite")
        if not (ratio.shape == difference.shape == mean.shape and ratio.ndim == 2 and ratio.shape[1] == sae.d_sae and len(ratio)):
            raise ValueError(f"scores {list(ratio.shape)} for {sae.d_sae} features")
        return plain_name("its concept", str(found["concept"])), np.stack([ratio, difference, mean, mean - difference], -1)
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise ValueError(f"{folder / name} does not fit the SAE ({error}).") from error


def _long(concept: str, values: np.ndarray, sigmas: np.ndarray) -> pd.DataFrame:
    """Scores [steps, features, 4] as a table like that of `audioscope.sae.score_features`, of features that are ever active."""
    level, feature = np.nonzero((values[..., 2] > 0) | (values[..., 3] > 0))
    columns = dict(zip(("ratio", "difference", "mean_with", "mean_without"), values[level, feature].T, strict=True))
    which = {"concept": concept, "feature": feature.astype("int32"), "sigma": sigmas[level].astype("float32")}
    return pd.DataFrame(which | columns | {"d": np.nan, "auroc": np.nan})


def save_sparsify(sae: SAE, folder: str | Path, sigma: float | None = None) -> Path:
    """Write an SAE in the layout of sparsify, which TADA uses.

    Its format has no noise levels, so an SAE that has them is written for one of them, with that level's mean and scale in the
    weights. It has no threshold either: of a BatchTopK SAE, sparsify keeps the k largest features of each token instead.

    Args:
        sae: The SAE.
        folder: The folder, whose name sparsify takes for that of the site.
        sigma: The noise level, for an SAE with levels.

    Returns:
        The folder.

    Raises:
        ValueError: `sigma` is missing, or given for an SAE without levels, or the folder holds something else.

    Example:
        >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn")
        >>> folder = audioscope.sae.save_sparsify(sae, "sparse/transformer_blocks.6.cross_attn", sigma=0.5)
        >>> audioscope.SAE.from_pretrained(folder)
        SAE(512 features, 8 active, width 128, topk)
    """
    of_kind("sae", sae, SAE)
    folder = as_path(folder)
    if (sigma is None) != (sae.levels is None):
        raise ValueError(
            f"sigma is {sigma}, expected {'a noise level' if sae.levels else 'None'}: this SAE has {'' if sae.levels else 'no '}levels."
        )
    mean, scale = (torch.zeros(sae.d_in), 1.0) if sae.levels is None or sigma is None else sae.levels.at(sigma)
    refuse_foreign(folder / "cfg.json", ("d_in",))
    made_folder(folder)
    weights = {
        "encoder.weight": sae.encoder / scale, "encoder.bias": sae.b_enc, "W_dec": sae.decoder * scale,
        "b_dec": mean + sae.b_dec * scale,
    }  # fmt: skip
    whole = {name: value.detach().float().cpu().contiguous() for name, value in weights.items()}
    about = {
        "activation": "topk", "expansion_factor": -(-sae.d_sae // sae.d_in), "normalize_decoder": sae.levels is None, "num_latents": sae.d_sae,
        "k": sae.k, "multi_topk": False, "skip_connection": False, "transcode": False, "d_in": sae.d_in,
    }  # fmt: skip
    write_together({
        folder / "sae.safetensors": lambda part: safetensors.torch.save_file(whole, part), folder / "cfg.json": as_json(about),
    })  # fmt: skip
    return folder
