"""Artefacts that travel: from a folder or the Hugging Face Hub, and to the Hub with a card that says what they are."""

from __future__ import annotations

import json
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from audioscope.audio import Clip
from audioscope.errors import as_path, listed, said, said_text, truth
from audioscope.installed import __version__

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def fetched(
    source: str | Path,
    files: Sequence[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    subfolder: str = "",
    what: str = "artefact",
) -> Path:
    """A folder on this machine: the one that is named, or a copy of a repository on the hub.

    files: patterns of those that are fetched. Raises FileNotFoundError if there is no such folder, ConnectionError, in one line, if
    the hub does not give the repository, and ValueError for a subfolder that leads outside.
    """
    inside = Path(said_text("subfolder", subfolder))
    if inside.is_absolute() or ".." in inside.parts:
        raise ValueError(f"subfolder is {said(subfolder)}, expected a folder inside the repository.")
    if revision is not None:
        said_text("revision", revision)
    place = as_path(source)
    near = place.parent.is_dir() and place.parent != Path(".")
    if place.is_dir():
        if revision is not None:
            raise ValueError(f"revision is {said(revision)}, but {place} is a folder: revisions are of repositories on the hub.")
        folder = place / inside
    elif (
        place.exists() or near or place.is_absolute() or str(source).startswith((".", "~")) or not HUB_NAME.fullmatch(str(source))
    ):
        hint = f" ({place.parent} is a folder here, so the hub is not asked)" if near and HUB_NAME.fullmatch(str(source)) else ""
        if place.is_file() or (near and place.parent.joinpath(f"{place.name}.safetensors").is_file()):
            hint = (
                "; a file of a vector is read by `SteeringVector.load`"
                if what == "steering vector"
                else "; give the folder of the file"
            )
        raise FileNotFoundError(
            f"No {what} at {str(source)!r}: expected a folder, or a name on the hub such as 'owner/name'{hint}."
        )
    else:
        from huggingface_hub import snapshot_download

        prefix = f"{inside.as_posix()}/" if inside.parts else ""
        try:
            copy = snapshot_download(
                str(source), revision=revision, token=token, allow_patterns=[f"{prefix}{name}" for name in files]
            )
        except Exception as error:  # of huggingface_hub and of the network beneath it
            raise unreachable(source, error, revision) from error
        folder = Path(copy) / inside
    if not folder.is_dir():
        where = f"its folder {subfolder!r} has" if subfolder else "it has"
        raise FileNotFoundError(f"No {what} at {str(source)!r}: {where} none of the files of one, or does not exist.")
    return folder


def unreachable(name: str | Path, error: BaseException, revision: str | None = None, giving: bool = False) -> ConnectionError:
    """Why the hub did not give a repository, or did not take it if we are giving, and what to do about it, in one line."""
    from huggingface_hub import constants, errors

    advice = "check the name and the network connection"
    status = getattr(getattr(error, "response", None), "status_code", None)
    first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    offline = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
    if isinstance(error, errors.GatedRepoError):
        text = f"is gated: accept its terms at https://huggingface.co/{name}, then run `hf auth login`"
    elif isinstance(error, errors.RepositoryNotFoundError):
        text = "is not on the hub, or is private: check the name, and log in with `hf auth login` or pass token="
    elif isinstance(error, errors.RevisionNotFoundError):
        text = f"has no revision {revision!r} on the hub"
    elif status in (401, 403):
        text = f"was refused by the hub ({status}): the token is missing, wrong, or lacks the right to it"
    elif isinstance(error, errors.HFValidationError):
        text = f"is no name or revision that the hub can have ({first.rstrip('.')})"
    elif isinstance(error, offline) or "Connect" in type(error).__name__:
        advice = "this process is offline (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else advice
        text = (
            f"{'was not uploaded' if giving else 'is not in the cache of this machine'}, and the hub cannot be reached: {advice}"
        )
    else:
        text = f"could not be exchanged with the hub ({first}): {advice}"
    return ConnectionError(f"{str(name)!r} {text}.")


def as_clips(clips: Any) -> list[Clip]:
    """Clips as a list: one or several. Raises ValueError for what is none."""
    several = [clips] if isinstance(clips, Clip) else listed("clips", clips, "a list of clips")
    if wrong := [clip for clip in several if not isinstance(clip, Clip)]:
        raise ValueError(f"clips contains {said(wrong[0])}, expected clips such as model.generate returns.")
    return several


def push(
    write: Callable[[Path], Any],
    repo: str,
    card: Callable[[Sequence[str]], str],
    own: Sequence[str],
    *,
    clips: Sequence[Clip] = (),
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    message: str | None = None,
) -> str:
    """Upload an artefact with its card to a repository on the hub, which is made if it does not exist. Returns its address.

    write: writes the files into a folder. card: the card, from the names of the clips' files. own: names of the files that an
    artefact of this kind may have; those of an earlier one are deleted. Raises ValueError for what is not a name on the hub, and for
    a repository that holds something else, and ConnectionError, in one line, if the hub does not take it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(said_text("repo", repo))
    except HFValidationError as error:
        raise ValueError(f"repo is {said(repo)}, expected a name on the hub such as 'owner/name'.") from error
    for called, value in {"revision": revision, "token": token, "message": message}.items():
        if value is not None and not said_text(called, value).isascii() and called == "token":
            raise ValueError(
                "token contains a character that no token has: expected what https://huggingface.co/settings/tokens gave."
            )
    private = None if private is None else truth("private", private)
    several = as_clips(clips)
    names = [f"clips/{number}.flac" for number in range(len(several))]
    about = card(names)  # which refuses what it cannot say, before any work
    hub = HfApi(token=token)
    with tempfile.TemporaryDirectory(prefix="audioscope-push-") as name:
        folder = Path(name)
        write(folder)
        for clip, file in zip(several, names, strict=True):
            clip.save(folder / file)
        (folder / "README.md").write_text(about, encoding="utf-8")
        try:
            made = hub.create_repo(repo, private=private, exist_ok=True)
            if revision is not None:
                hub.create_branch(made.repo_id, branch=revision, exist_ok=True)
            there = hub.list_repo_files(made.repo_id, revision=revision)
            mine = [name for name in there if name in own or name.startswith("clips/")]
            if foreign := sorted(set(there) - set(mine) - {"README.md", ".gitattributes", "LICENSE"}):
                raise ValueError(f"{repo!r} holds something else, such as {foreign[0]!r}: choose another repository.")
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")  # tables of results
                hub.upload_folder(
                    folder_path=folder, repo_id=made.repo_id, revision=revision, delete_patterns=mine,
                    commit_message=message or f"From audioscope {__version__}",
                )  # fmt: skip
        except ValueError:
            raise
        except Exception as error:  # of huggingface_hub and of the network beneath it
            raise unreachable(repo, error, revision, giving=True) from error
    return str(made)


def model_card(
    title: str,
    kind: str,
    model: str,
    facts: Mapping[str, Any],
    use: str,
    *,
    license: str | None = None,
    clips: Sequence[tuple[str, str]] = (),
) -> str:
    """The README.md of a repository on the hub: what the artefact is, from what it was made, and how to load it.

    kind: a tag, such as "steering-vector". model: the name of the model; it is linked if it is a name on the hub. use: Python code.
    clips: prompts and files, which the hub's widget plays. What comes from a user is escaped. Raises ValueError for a licence that
    the hub would refuse.
    """
    from huggingface_hub import ModelCardData

    if license is not None and not (isinstance(license, str) and LICENCE.fullmatch(license)):
        raise ValueError(
            f"license is {said(license)}, expected one of the hub's identifiers, such as 'mit', 'cc-by-4.0' or 'other'."
        )

    base = model if HUB_NAME.fullmatch(model) and not Path(model).exists() else None
    about = ModelCardData(
        library_name="audioscope", pipeline_tag="text-to-audio", tags=["audioscope", "music", "interpretability", kind], base_model=base,
        license=license, widget=[{"text": prompt, "output": {"url": file}} for prompt, file in clips] or None,
    )  # fmt: skip
    rows = "\n".join(f"| {_cell(name)} | {_cell(value)} |" for name, value in facts.items() if value not in (None, ""))
    given = _cell(license) if license else "none was given: ask the owner of this repository before you use it"
    return (
        f"---\n{about.to_yaml()}\n---\n\n# {_cell(title)}\n\nMade with audioscope {__version__}. All files are data: loading them runs no code.\n\n"
        f"| | |\n|---|---|\n{rows}\n| licence | {given} |\n\n```python\n{use.strip()}\n```\n"
    )


def _cell(value: Any) -> str:
    """A value as text in a Markdown table, in which nothing acts as Markdown or HTML."""
    text = (
        value
        if isinstance(value, str)
        else json.dumps(value, default=str)
        if isinstance(value, dict | list | tuple)
        else f"{value}"
    )
    return re.sub(r"([\\`*_{}\[\]|!#~])", r"\\\1", escape(" ".join(text.split()), quote=False))
