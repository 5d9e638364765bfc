"""Sparse autoencoders as files: the layout of SAELens, which all its tools can read, and that of sparsify, which TADA uses.

A folder contains cfg.json and sae_weights.safetensors (SAELens 6), and files that only audioscope reads: levels.safetensors
(means and scales by noise level), report.json (the evaluation, and how well single units detect concepts), scores.parquet (scores
of features for concepts) and units.parquet (the data behind the report: concept, pair and has of each test prompt, and a column
for each concept and method compared, such as "fast feature", with twice the midrank of the prompt by that unit among the prompts
used, and 0 for the others; "fast feature counterfactual" where only the counterfactual prompts were used).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from audioscope.audio import Clip
from audioscope.errors import as_path, plain_name
from audioscope.sae.levels import Levels
from audioscope.sae.sae import SAE
from audioscope.sharing import as_clips, fetched, model_card, push
from audioscope.store import as_json, checked_format, made_folder, read_json, refuse_foreign, write_together

FORMAT = 1  # the version of what audioscope adds, raised with every change that an older audioscope cannot read
SAELENS = "6.54.12"  # the version that has this layout; without a version, SAELens drops all metadata
FILES = ("cfg.json", "sae_weights.safetensors", "levels.safetensors", "report.json", "scores.parquet", "units.parquet")
LEVELS = ("sigmas", "means", "scales", "norms")


def save_sae(sae: SAE, folder: str | Path) -> Path:
    """Write an SAE in the layout of SAELens, a BatchTopK SAE as JumpReLU with its learned threshold. Returns the folder.

    The saved SAE expects the same inputs as in training: with levels, (x - mean) / scale, as the metadata in cfg.json explains.
    """
    folder = as_path(folder)
    refuse_foreign(folder / "cfg.json", ("d_in",))
    made_folder(folder)
    tensors = {"W_enc": sae.W_enc, "W_dec": sae.W_dec, "b_enc": sae.b_enc, "b_dec": sae.b_dec}
    cfg: dict[str, Any] = {
        "architecture": "jumprelu" if sae.kind == "batchtopk" else "topk", "d_in": sae.d_in, "d_sae": sae.d_sae,
        "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True, "normalize_activations": "none",
        "reshape_activations": "none",
    }  # fmt: skip
    if sae.kind == "topk":
        cfg |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    else:
        tensors["threshold"] = sae.threshold
    about = {**sae.metadata, "kind": sae.kind, "k": sae.k, "format": FORMAT}
    files: dict[Path, Callable[[Path], Any]] = {}
    if sae.levels is not None:
        sigmas = sae.levels.sigmas
        about |= {
            "sigma_range": [float(sigmas[-1]), float(sigmas[0])],
            "scale": [float(value) for value in sae.levels.scales],
            "input": "(activation - mean) / scale of its noise level; both are in levels.safetensors, rows by sigma",
        }
        rows = {name: getattr(sae.levels, name).detach().cpu().contiguous() for name in LEVELS}
        files[folder / "levels.safetensors"] = lambda part: safetensors.torch.save_file(rows, part)
    cfg["metadata"] = {"sae_lens_version": SAELENS, "sae_lens_training_version": None, "audioscope": about}
    whole = {name: value.detach().float().cpu().contiguous() for name, value in tensors.items()}
    if sae.report:
        files[folder / "report.json"] = as_json(sae.report)
    if sae.scores is not None:
        scores = sae.scores.astype({"concept": "category", "feature": "int32"})
        # features come in order, so their differences are small; the other columns have few values
        others, deltas = [name for name in scores if name != "feature"], {"feature": "DELTA_BINARY_PACKED"}
        files[folder / "scores.parquet"] = lambda part: scores.to_parquet(
            part, compression="zstd", compression_level=19, use_dictionary=others, column_encoding=deltas
        )
    if sae.units is not None:
        # ranks hardly repeat, so their bytes are stored and not a dictionary of them
        ranks = [name for name in sae.units if name not in ("concept", "pair", "has")]
        files[folder / "units.parquet"] = lambda part: sae.units.to_parquet(
            part, compression="zstd", compression_level=19, use_dictionary=["concept"], use_byte_stream_split=ranks
        )
    files[folder / "sae_weights.safetensors"] = lambda part: safetensors.torch.save_file(whole, part)
    write_together({**files, folder / "cfg.json": as_json(cfg)})
    for name in ("levels.safetensors", "report.json", "scores.parquet", "units.parquet"):  # of an earlier SAE
        if folder / name not in files:
            (folder / name).unlink(missing_ok=True)
    return folder


def push_sae(sae: SAE, repo: str, *, clips: Sequence[Clip] = (), license: str | None = None, **where: Any) -> str:
    """Upload an SAE to the hub with its card, as `SAE.push_to_hub` says. where: keywords of `audioscope.sharing.push`."""
    clips = as_clips(clips)
    about, report = sae.metadata, sae.report
    model, site = str(about.get("model", "?")), str(about.get("site", "?"))
    training = dict(about.get("training") or {})
    found = [float(methods["feature"]["auroc"]) for methods in report.get("auroc", {}).values() if "feature" in methods]
    levels = report.get("sigmas", [])
    passed = len(levels) - len(sae.failed(levels))
    facts = {
        "model": model, "weights": about.get("fingerprint"), "site": site, "guidance branches": about.get("branches"),
        "features": sae.d_sae, "active features": sae.k, "kind": sae.kind, "width": sae.d_in, "prompts": about.get("prompt_count"),
        "training tokens": training.get("training_tokens"), "steps": about.get("steps"), "guidance": about.get("guidance"),
        "gate": f"{'passes' if report['passes'] else 'fails'}: below both untrained baselines at {passed} of {len(levels)} noise levels, "
        f"{report['dead_share']:.1%} of the features dead" if levels else "not evaluated",
        "reliability": f"median AUROC {sorted(found)[len(found) // 2]:.2f} of the best feature of {len(found)} concepts, on prompts that did not choose it"
        if found else "no features were compared",
        "layout": "SAELens, and files that only audioscope reads",
    }  # fmt: skip
    use = (
        f"import audioscope\n\nmodel = audioscope.load({model!r})\nsae = audioscope.SAE.from_pretrained({repo!r})\n"
        "sae.scores  # which features stand for which concepts"
    )

    def card(names: Sequence[str]) -> str:
        heard = [(clip.prompt, name) for clip, name in zip(clips, names, strict=True)]
        return model_card(f"Sparse autoencoder of {site}", "sparse-autoencoder", model, facts, use, license=license, clips=heard)

    return push(lambda folder: save_sae(sae, folder), repo, card, FILES, clips=clips, **where)


def load_sae(source: str | Path, *, revision: str | None = None, token: str | None = None, subfolder: str = "") -> SAE:
    """Read an SAE, as `SAE.from_pretrained` says: from the hub or a folder, in the layout of SAELens or sparsify.

    Nothing in the files is executed. Raises FileNotFoundError if there is no SAE, and ValueError for a corrupt file or an unknown
    kind.
    """
    place = as_path(source)
    if not place.is_dir() and len(place.parts) != 2:  # what may be a name on the hub has two parts
        raise FileNotFoundError(
            f"No SAE at {str(source)!r}: expected a folder with cfg.json. audioscope.datasets.saes() lists the shipped ones."
        )
    files = ("cfg.json", "*.safetensors", "report.json", "*.parquet", "*/cfg.json")
    folder = fetched(source, files, revision=revision, token=token, subfolder=subfolder, what="SAE")
    if not (folder / "cfg.json").exists():
        inside = sorted(file.parent.name for file in folder.glob("*/cfg.json"))
        more = f" It has SAEs in {', '.join(inside[:8])}: pass one as subfolder=." if inside else ""
        raise FileNotFoundError(
            f"No SAE at {str(source)!r}: expected a folder with cfg.json. audioscope.datasets.saes() lists the shipped ones.{more}"
        )
    cfg = read_json(folder / "cfg.json", FORMAT)
    ours = (cfg.get("metadata") or {}).get("audioscope") if isinstance(cfg.get("metadata"), dict) else None
    about = checked_format(folder / "cfg.json", ours, FORMAT) if isinstance(ours, dict) else {}
    try:
        if (folder / "sae_weights.safetensors").exists():
            return _from_saelens(folder, cfg, about)
        if (folder / "sae.safetensors").exists():
            return _from_sparsify(folder, cfg)
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"The SAE in {folder} is corrupt or of an unsupported kind ({error}).") from error
    raise FileNotFoundError(f"{folder} has no weights: expected sae_weights.safetensors (SAELens) or sae.safetensors (sparsify).")


def _filled(sae: SAE, encoder: Tensor, decoder: Tensor, b_enc: Tensor, b_dec: Tensor, threshold: Tensor | None = None) -> SAE:
    weights = {"encoder": encoder, "decoder": decoder, "b_enc": b_enc, "b_dec": b_dec}
    weights["threshold"] = torch.zeros(sae.d_sae) if threshold is None else threshold
    sae.load_state_dict({name: value.float() for name, value in weights.items()})
    return sae.requires_grad_(False)


def _from_saelens(folder: Path, cfg: dict[str, Any], about: dict[str, Any]) -> SAE:
    """Raises ValueError for whatever has no counterpart here: other architectures, and reshaped or rescaled activations."""
    kind = {"jumprelu": "batchtopk", "topk": "topk"}.get(cfg["architecture"])
    if kind is None:
        raise ValueError(f"architecture is {cfg['architecture']!r}, expected 'jumprelu' or 'topk'")
    wanted = {"normalize_activations": "none", "reshape_activations": "none", "rescale_acts_by_decoder_norm": False}
    for name, value in wanted.items():
        if cfg.get(name, value) != value:
            raise ValueError(f"{name} is {cfg[name]!r}, expected {value!r}")
    tensors = safetensors.torch.load_file(folder / "sae_weights.safetensors")
    b_enc, b_dec, encoder = tensors["b_enc"], tensors["b_dec"], tensors["W_enc"].T
    if not cfg.get("apply_b_dec_to_input", True):  # the same function, rewritten with the bias subtracted, as here
        b_enc = b_enc + encoder @ b_dec
    k = int(cfg.get("k") or about.get("k") or 1)
    sae = _filled(SAE(cfg["d_in"], cfg["d_sae"], k, kind), encoder, tensors["W_dec"], b_enc, b_dec, tensors.get("threshold"))  # type: ignore[arg-type]
    sae.metadata = {name: value for name, value in about.items() if name not in ("kind", "k", "sigma_range", "scale", "input")}
    if (folder / "levels.safetensors").exists():
        rows = safetensors.torch.load_file(folder / "levels.safetensors")
        sae.levels = Levels(*(rows[name] for name in LEVELS))
    if (folder / "report.json").exists():
        sae.report = json.loads((folder / "report.json").read_text())
    if (folder / "scores.parquet").exists():
        sae.scores = pd.read_parquet(folder / "scores.parquet").astype({"concept": str})
        for name in sae.scores["concept"].unique():
            plain_name("concept in scores.parquet", name)
    if (folder / "units.parquet").exists():
        sae.units = pd.read_parquet(folder / "units.parquet")
    return sae


def _from_sparsify(folder: Path, cfg: dict[str, Any]) -> SAE:
    """Raises ValueError for transcoders, other activation functions, and inputs that are normalized token by token."""
    for name in ("input_unit_norm", "transcode", "skip_connection"):
        if cfg.get(name):
            raise ValueError(f"{name} is set, which has no counterpart here")
    if cfg.get("activation", "topk") != "topk":
        raise ValueError(f"activation is {cfg['activation']!r}, expected 'topk'")
    tensors = safetensors.torch.load_file(folder / "sae.safetensors")
    encoder = tensors["encoder.weight"]
    sae = SAE(encoder.shape[1], encoder.shape[0], int(cfg["k"]), "topk")
    sae = _filled(sae, encoder, tensors["W_dec"], tensors["encoder.bias"], tensors["b_dec"])
    sae.metadata = {"from": "sparsify", "batch_topk": bool(cfg.get("batch_topk"))}
    return sae
