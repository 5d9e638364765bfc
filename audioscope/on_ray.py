"""Workers on a Ray cluster: actors that load the model once, and send what they make back to the driver."""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from audioscope.errors import real, said, sendable, whole
from audioscope.loading import become_worker, unpacked
from audioscope.store import Do, Unit, write_whole

ADDRESS = re.compile(r"auto|(ray://)?[^\s/:]+:\d+|(ray://)?\[[0-9A-Fa-f:]+\]:\d+")
SMALLEST = 1e-4  # of a GPU, that Ray can reckon with
TRIES = 3  # of a connection
IDLE = 30  # s after which an actor that has nothing to do ends, and its cores or GPU are free for others


@dataclass(frozen=True)
class Ray:
    """A Ray cluster to run the units of a sweep on, one model an actor: `workers=Ray(gpus=0.5)`. Needs the extra `ray`.

    The model is loaded on each node from where it came: a folder that all nodes see, or the hub. Results come back to this
    machine, into the sweep's folder, so that a sweep can go on here or there.

    Args:
        address: Of the cluster: "auto" for the one that this machine belongs to, or "ray://host:10001". A process that is connected
            to a cluster stays with it: call `ray.shutdown()` before you turn to another.
        gpus: Of each actor; a fraction shares one GPU. None is 1 for a model on a GPU, and 0 on a CPU. With any, each actor loads
            the model on its GPU, also if it is on a CPU here.
        actors: How many at most; None is as many as there are cores or GPUs for.

    Raises:
        ValueError: The address is no text, gpus is neither a fraction of one GPU nor a whole number of them, or actors is no whole
            number of at least 1.

    Example:
        >>> audioscope.workers.Ray("ray://head:10001", gpus=0.25)
        Ray(address='ray://head:10001', gpus=0.25, actors=None)
    """

    address: str = "auto"
    gpus: float | None = None
    actors: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.address, str) or not ADDRESS.fullmatch(self.address):
            raise ValueError(f"address is {said(self.address)}, expected 'auto', 'host:6379' or 'ray://host:10001'.")
        if self.gpus is not None:
            gpus = real("gpus", self.gpus)
            if gpus < 0 or 0 < gpus < SMALLEST or (gpus > 1 and gpus != int(gpus)):
                raise ValueError(f"gpus is {said(self.gpus)}, expected a whole number, or a fraction of one GPU from {SMALLEST}.")
            object.__setattr__(self, "gpus", gpus)
        if self.actors is not None:
            object.__setattr__(self, "actors", whole("actors", self.actors, 1, why=", or None for all that there is room for"))


class _Actor:
    """What runs on a node."""

    def __init__(self, threads: int, device: str):
        become_worker(threads, device)
        self.name, self.work = "", None

    def do(self, name: str, payload: bytes, unit: Unit) -> dict[str, bytes]:
        """Do a unit in a folder of its own; returns the files that it made, the table last."""
        if name != self.name:
            self.name, self.work = name, unpacked(payload)
        folder = Path(tempfile.mkdtemp(prefix="audioscope-ray-"))
        try:
            (folder / "units").mkdir()
            work: Do = self.work  # type: ignore[assignment]
            try:
                work(unit, folder)
            except Exception as error:
                raise sendable(error) from None
            files = sorted((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.suffix == ".parquet")
            return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _session() -> tuple[str, str]:
    """What tells this connection to a cluster from an earlier one."""
    import ray

    context = ray.get_runtime_context()
    return context.get_job_id(), context.get_worker_id()


class _Worker:
    """One actor."""

    def __init__(self, options: dict[str, Any], threads: int, sources: str, payloads: dict[str, Any]):
        import ray

        self.ray: Any = ray
        self.key = (*_session(), str(options), threads, sources)
        self.broken = (ray.exceptions.RayError,)
        self.actor: Any = self.ray.remote(_Actor).options(**options).remote(threads, "cuda" if options["num_gpus"] else "cpu")
        self.payloads = payloads  # name -> the work in the cluster's store, sent once

    def do(self, name: str, payload: bytes, unit: Unit, folder: Path) -> None:
        """Do a unit there and write what it made into the folder. Raises what it raises, and a RayError if the actor dies."""
        if name not in self.payloads:
            self.payloads[name] = self.ray.put(payload)
        try:
            files = self.ray.get(self.actor.do.remote(name, self.payloads[name], unit))
        except self.ray.exceptions.RayTaskError as error:  # of the work
            raise error.cause from None
        for file, content in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            write_whole(folder / file, partial(Path.write_bytes, data=content))

    def keep(self) -> None:
        """Keep the actor for a while for the next sweep, with the model loaded."""
        self.timer = threading.Timer(IDLE, self._unless_taken)
        self.timer.daemon = True
        with _lock:
            _idle.append(self)
        self.timer.start()

    def _unless_taken(self) -> None:
        with _lock:
            if self not in _idle:
                return
            _idle.remove(self)
        self.end()

    def end(self) -> None:
        # of a connection that was ended meanwhile, Ray has ended the actors; to ask it again would end this process
        if self.ray.is_initialized() and _session() == self.key[:2]:
            with suppress(Exception):  # the cluster may be gone
                self.ray.kill(self.actor)


_idle: list[_Worker] = []
_lock = threading.Lock()


def _take(options: dict[str, Any], threads: int, sources: str, payloads: dict[str, Any]) -> _Worker:
    """An actor of an earlier sweep, or a new one."""
    key = (*_session(), str(options), threads, sources)
    with _lock:
        found = next((worker for worker in _idle if worker.key == key), None)
        if found is not None:
            _idle.remove(found)
            found.timer.cancel()
            found.payloads = payloads
            return found
    return _Worker(options, threads, sources, payloads)


def end_actors() -> None:
    """End the actors that wait for work; they would end by themselves after half a minute."""
    with _lock:
        while _idle:
            _idle.pop().end()


def actors(where: Ray, threads: int, units: int, gpu: bool, sources: str = "") -> tuple[Callable[[int], _Worker], int]:
    """What makes an actor, and how many of them the nodes of the cluster have room for, at most one a unit.

    sources: what tells the code that their work needs. Raises ConnectionError if no cluster answers, and ValueError if it has no room.
    """
    import ray

    if not ray.is_initialized():
        try:
            _connect(where.address)
        except Exception as error:  # of several kinds
            begin = (
                "start one with `ray start --head`" if where.address == "auto" else "give the address of a head node that runs"
            )
            raise ConnectionError(
                f"No Ray cluster answers at {where.address!r} ({' '.join(str(error).split())[:200]}): {begin}."
            ) from error
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = where.gpus if where.gpus is not None else float(gpu)
    fit = sum(_fit(node, gpus, threads) for node in nodes)
    if fit < 1:
        needs = f"{gpus:g} GPUs" if gpus > 1 else f"{gpus:g} of a GPU" if gpus else f"{threads} CPUs"
        cpus, cards = (max((node.get(kind, 0) for node in nodes), default=0) for kind in ("CPU", "GPU"))
        raise ValueError(
            f"No node of the Ray cluster has more than {cpus:g} CPUs or {cards:g} GPUs, too few for one model, which needs {needs}."
        )
    many = min(units, fit, where.actors or fit)
    options = {
        "num_cpus": 0 if gpus else threads,
        "num_gpus": gpus,
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(threads)}},
    }
    payloads: dict[str, Any] = {}
    return lambda place: _take(options, threads, sources, payloads), many


def _connect(address: str) -> None:
    """Connect to a cluster; again if the process that its head node forked for us died at once, which is a matter of luck."""
    import ray

    for left in reversed(range(TRIES)):
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
            return
        except ConnectionAbortedError:
            if not left:
                raise


def _fit(node: Mapping[str, float], gpus: float, threads: int) -> int:
    """How many actors one node has room for: each fraction of a GPU is of one GPU."""
    if not gpus:
        return int(node.get("CPU", 0) // threads)
    cards = int(node.get("GPU", 0))
    return cards // int(gpus) if gpus >= 1 else cards * int(1 / gpus + 1e-9)
