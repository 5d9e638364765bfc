"""Kill work at random moments, and cut files short as a power failure does: after resuming, every byte is as if nothing had happened.

Each job runs in a child that was forked from a process with the model loaded. A kill is a SIGKILL
- at a random time,
- just before a random rename, when a file is whole but not yet in place, or
- there, too, but with the file cut, as in the middle of writing it.

    python tests/campaigns/kill.py [--kills 50] [--cuts 50] [--seed 0]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

import audioscope
from audioscope.pages import save_html, save_site
from audioscope.sae import train_sae
from audioscope.sae.files import save_sae
from audioscope.steer import steering_sweep, vector_method

Job = Callable[[Path], object]
NEVER = 10**9


def jobs(model: audioscope.Model, ready: Path) -> dict[str, Job]:
    """The work, by name; ready: a folder for what it needs."""
    atlas = audioscope.localize(model, ["fast"], 1, sites=[0, 6], steps=1, out=ready, progress=False)
    tokens = [torch.randn(300, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(12)]

    def sweep(out: Path) -> object:
        return audioscope.localize(model, ["fast", "drums"], 2, sites=[0, 6], steps=1, out=out, progress=False)

    def steering(out: Path) -> object:
        vector = audioscope.caa(model, "fast", [0, 6], 4, steps=1, file=out / "vector", progress=False)
        method = vector_method(vector, "all")
        return steering_sweep(model, "fast", [method], [-1, 1], prompts=2, seeds=1, steps=1, clips=True, out=out, progress=False)

    def training(out: Path) -> object:
        how = {"expansion_factor": 4, "k": 4, "training_tokens": 6000, "batch_size": 100, "buffer": 300, "progress": False}
        return save_sae(train_sae(tokens, out=out / "state", **how), out / "sae")

    def pages(out: Path) -> object:
        save_html(atlas, out / "one.html", progress=False)
        return save_site(atlas, out / "site", progress=False)

    return {"atlas": sweep, "steering": steering, "training": training, "pages": pages}


def digest(folder: Path) -> dict[str, str]:
    """Every file of a folder, with a hash of its content."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()[:12] for file in files}


def child(job: Job, out: Path, *, rename: int = NEVER, cut: float | None = None, after: float | None = None) -> tuple[str, int]:
    """Do a job in a child. Returns "done", "killed" or what it raised, and how many renames there were.

    rename: the number of the rename before which it kills itself; cut: to which share it cuts the file then; after: s until this
    process kills it.
    """
    report = out.parent / f"{out.name}.report"
    report.unlink(missing_ok=True)
    if not (pid := os.fork()):
        made = 0

        def watch(event: str, args: tuple) -> None:
            nonlocal made
            if event != "os.rename" or not str(args[0]).endswith(".part"):
                return
            if made == rename:
                if cut is not None:
                    os.truncate(args[0], int(cut * os.path.getsize(args[0])))
                os.kill(os.getpid(), signal.SIGKILL)
            made += 1

        sys.addaudithook(watch)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                job(out)
            report.write_text(f"done\n{made}")
        except BaseException as error:
            report.write_text(f"{type(error).__name__}: {error}\n{made}")
            if not isinstance(error, (ValueError, OSError)):
                traceback.print_exc()
        finally:
            os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return "killed", 0
    said, made_there = report.read_text().rsplit("\n", 1)
    return said, int(made_there)


def kill(kills: int, cuts: int, seed: int = 0) -> Counter[str]:
    """Kill each job until there were `kills` in all, and cut `cuts` files of finished work. Returns what happened, by job and kind.

    Raises AssertionError if anything is not as in an undisturbed run.
    """
    torch.set_num_threads(1)  # threads do not survive a fork
    chance, seen = random.Random(seed), Counter[str]()
    root = Path(tempfile.mkdtemp(prefix="audioscope-kill-"))
    try:
        work = jobs(audioscope.load("tiny"), root / "ready")
        wanted, whole, events, times = {}, {}, {}, {}
        for name, job in work.items():
            whole[name] = root / f"{name}-whole"
            began = time.monotonic()
            said, events[name] = child(job, whole[name])
            times[name] = time.monotonic() - began
            assert said == "done", (name, said)
            wanted[name] = digest(whole[name])
            assert wanted[name] and not any(file.endswith(".part") for file in wanted[name])
        for number in range(kills):
            name = list(work)[number % len(work)]
            out = root / f"{name}-{number}"
            for again in range(chance.randint(1, 3)):  # a resumed run may be killed, too
                how = chance.choice(("time", "rename", "cut"))
                if how == "time":
                    said, _ = child(work[name], out, after=chance.uniform(0, times[name]))
                else:
                    share = chance.random() if how == "cut" else None
                    said, _ = child(work[name], out, rename=chance.randrange(max(1, events[name] // (again + 1))), cut=share)
                assert said in ("done", "killed"), (name, how, said)
                seen[f"{name}: {said} by {how}" if said == "killed" else f"{name}: done before the kill"] += 1
                seen["kills"] += said == "killed"
            said, _ = child(work[name], out)
            assert said == "done", (name, "resumed", said)
            assert (found := digest(out)) == wanted[name], (name, set(found.items()) ^ set(wanted[name].items()))
            shutil.rmtree(out)
        for number in range(cuts):
            name = list(work)[number % len(work)]
            out = root / f"{name}-cut-{number}"
            shutil.copytree(whole[name], out)
            file = chance.choice(sorted(each for each in out.rglob("*") if each.is_file()))
            os.truncate(file, int(chance.random() * os.path.getsize(file)))
            said, _ = child(work[name], out)
            if said == "done":
                assert digest(out) == wanted[name], (name, file.name, "was cut, and is not as before")
                seen[f"{name}: a cut file was made again"] += 1
            else:  # it is not known what was there: the user is told
                assert str(file) in said or file.name in said, (name, file.name, said)
                seen[f"{name}: a cut {file.name} is refused by name"] += 1
            shutil.rmtree(out)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return seen


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=50, help="jobs to disturb, each by up to three kills")
    options.add_argument("--cuts", type=int, default=50)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    for what, count in sorted(kill(given.kills, given.cuts, given.seed).items()):
        print(f"{count:5}  {what}")
