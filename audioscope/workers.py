"""Whole units of a sweep in several processes: each loads the model once, and one that dies is replaced.

Every process computes with the same number of threads, so that a unit's numbers do not depend on how many there are.
"""

from __future__ import annotations

import atexit
import gc
import hashlib
import os
import pickletools
import queue
import signal
import sys
import sysconfig
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cloudpickle
import psutil
import safetensors.torch
import torch
from loky.process_executor import BrokenProcessPool, ProcessPoolExecutor, ShutdownExecutorError
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from audioscope import loading
from audioscope.errors import quiet, sendable, whole
from audioscope.installed import cores, need
from audioscope.loading import CannotUnpack, DifferentModel, unpacked
from audioscope.model import Model
from audioscope.on_ray import Ray as Ray
from audioscope.on_ray import actors, end_actors
from audioscope.store import Do, Unit, content_hash
from audioscope.tracing import Sampling

T = TypeVar("T")
Workers = int | str | Ray | None
START = 15.0  # s until a worker has started and loaded a small model
TRIES = 3  # times that a unit is begun whose worker dies
IDLE = 120  # s after which a worker that has nothing to do ends
OWN = 0.8e9  # bytes that a worker takes besides its model


def room(model: Model) -> int:
    """How many workers this machine has cores and memory, or GPUs, for."""
    device = next(model.denoiser.parameters()).device
    if device.type != "cpu":
        return len(gpus(model)) if device.type == "cuda" else 1
    parts = [part for part in model.pipe.components.values() if isinstance(part, torch.nn.Module)]
    size = sum(p.numel() * p.element_size() for part in parts for p in part.parameters())
    # activations of a unit take about as much as the weights
    return max(1, min(cores(), int(0.8 * psutil.virtual_memory().total / (2 * size + OWN))))


def gpus(model: Model) -> list[str]:
    """Names of the GPUs for a model's workers, as CUDA_VISIBLE_DEVICES has them: all that this process may use, or the chosen one."""
    mine = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    names = mine[: torch.cuda.device_count()] or [str(number) for number in range(torch.cuda.device_count())]
    chosen = torch.device(model.origin.device).index if model.origin is not None else None
    return names if chosen is None else [names[chosen]]


def threads(model: Model) -> int:
    """Threads of one process: all of them together use the cores. It depends on the model and the machine, not on the workers."""
    return max(1, cores() // room(model)) if next(model.denoiser.parameters()).device.type == "cpu" else torch.get_num_threads()


def silence(model: Model, rows: int, run: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """In place of clips that could not be generated: silence [rows, channels, samples], and that no row is finite."""
    channels = int(getattr(model.pipe.vae.config, "audio_channels", 1))
    return torch.zeros(rows, channels, int(run.seconds * model.rate)), torch.zeros(rows, dtype=torch.bool)


def checked_workers(workers: Any) -> int | Ray | None:
    """The number of workers as an int, or the Ray that they run on; None lets `spread` choose. Raises ValueError for anything else."""
    if isinstance(workers, str) and (workers == "ray" or workers.startswith("ray://")):
        workers = Ray("auto" if workers == "ray" else workers)
    if isinstance(workers, Ray):
        need("ray", "A sweep on Ray")
        return workers
    return None if workers is None else whole("workers", workers, 1, why=", None, 'ray', or 'ray://address'")


def processes(workers: int | Ray | None, model: Model, units: int) -> int:
    """How many workers, as `checked_workers` gives them, would share so many units; a Ray cluster is asked."""
    if isinstance(workers, Ray):
        return _maker(workers, model, threads(model), units)[1]
    return min(units, room(model) if workers is None else workers)


@contextmanager
def few_threads(count: int) -> Iterator[None]:
    """Let torch, and numpy's linear algebra, whose sums depend on it, compute with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


def spread(model: Model, workers: int | Ray | None, do: Do, units: Sequence[Unit], folder: Path) -> Iterator[tuple[Unit, str]]:
    """Do units in workers, in any order; yields each with the reason why it failed, "" if it did not.

    workers: None does the first in this process, and the rest in as many workers as there is room for, if these would save more
    time than they take to start. Units of a model that cannot be loaded again, or of work that cannot be pickled, are done here,
    with a warning. Raises what `do` raises.
    """
    todo, number = list(units), threads(model)
    many = room(model) if workers is None else len(todo) if isinstance(workers, Ray) else workers
    if workers is None and todo:
        began = time.monotonic()
        yield _here(do, todo.pop(0), folder, number)
        took = time.monotonic() - began
        begin = START if len(_idle) < many else 1.0  # those of an earlier sweep have started
        many = many if took * len(todo) * (1 - 1 / many) > begin else 1
    if todo and (isinstance(workers, Ray) or (many > 1 and len(todo) > 1)):
        try:
            payload = cloudpickle.dumps(do)
        except Exception as error:  # of any class that cannot be pickled
            warnings.warn(f"The workers cannot be given this work ({error}): it runs in this process alone.", stacklevel=2)
        else:
            done: list[Unit] = []
            try:
                make, many = _maker(workers, model, number, min(many, len(todo)), _sources(payload))
                for unit, reason in _shared(make, payload, todo, folder, many):
                    done.append(unit)
                    yield unit, reason
                return
            except (DifferentModel, CannotUnpack) as error:
                warnings.warn(f"{error} It runs in this process alone.", stacklevel=2)
            todo = [unit for unit in todo if unit not in done]
    for unit in todo:
        yield _here(do, unit, folder, number)


def collect(
    model: Model,
    workers: Workers,
    read: Callable[[T], Mapping[str, torch.Tensor]],
    items: Sequence[T],
    desc: str = "",
    unit: str = "prompt",
    progress: bool = False,
    size: Callable[[T], int] = lambda _: 1,
) -> Iterator[dict[str, torch.Tensor]]:
    """What `read` makes of each item, in order: done in workers like the units of a sweep, but not kept.

    Its tensors do not depend on the number of workers. size: how far an item takes the progress bar. Raises what `read` raises, and
    ChildProcessError if workers died of an item.
    """
    with (
        tempfile.TemporaryDirectory(prefix="audioscope-collect-") as name,
        tqdm(total=sum(map(size, items)), desc=desc, unit=unit, disable=quiet(progress)) as bar,
    ):
        folder, there, at = Path(name), set(), 0
        units: list[Unit] = [{"number": number} for number in range(len(items))]
        for found, reason in spread(model, checked_workers(workers), partial(_write, read, items), units, folder):
            if reason:
                raise ChildProcessError(f"{desc or 'reading'}: {reason}.")
            there.add(found["number"])
            bar.update(size(items[found["number"]]))
            while at in there:
                file = folder / f"{at}.safetensors"
                tensors = safetensors.torch.load_file(file)
                file.unlink()
                yield tensors
                at += 1


def _write(read: Callable[[T], Mapping[str, torch.Tensor]], items: Sequence[T], unit: Unit, folder: Path) -> None:
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in read(items[unit["number"]]).items()}
    safetensors.torch.save_file(tensors, folder / f"{unit['number']}.safetensors")


def _maker(
    workers: int | Ray | None, model: Model, number: int, many: int, sources: str = ""
) -> tuple[Callable[[int], Any], int]:
    """What makes a worker from its place, and how many there are to be. sources: what tells the code that their work needs."""
    device = next(model.denoiser.parameters()).device.type
    if isinstance(workers, Ray):
        return actors(workers, number, many, device == "cuda", sources)
    names = gpus(model) if device == "cuda" else [""]
    return lambda place: _take(names[place % len(names)], number, sources, device), many


def _sources(payload: bytes) -> str:
    """A hash of the user's own modules that work was pickled by reference to: a worker that imported one before it was edited is not
    given it."""
    names = {argument for _, argument, _ in pickletools.genops(payload) if isinstance(argument, str)}
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in names}
    libraries = tuple(map(str, {Path(sysconfig.get_path(key)) for key in ("stdlib", "platstdlib", "purelib", "platlib")}))
    own = {name: Path(file) for name, file in files.items() if file and not file.startswith(libraries)}
    return content_hash({name: file.stat().st_mtime_ns for name, file in sorted(own.items()) if file.is_file()})


def _here(do: Do, unit: Unit, folder: Path, number: int) -> tuple[Unit, str]:
    with few_threads(number):
        do(unit, folder)
    return unit, ""


# ---- the driver's side


class _Worker:
    """One process on this machine."""

    broken: tuple[type[BaseException], ...] = (BrokenProcessPool, ShutdownExecutorError)

    def __init__(self, gpu: str, number: int, sources: str, device: str):
        env = {name: str(number) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        env["LOKY_MAX_MEMORY_LEAK_SIZE"] = "1e15"  # it would take a model that was loaded for a leak, and start afresh
        env |= {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}
        self.key, given = (gpu, number, sources, device), (number, os.getpid(), device)
        self.executor = ProcessPoolExecutor(1, timeout=IDLE, initializer=_begin, initargs=given, env=env)

    def do(self, name: str, payload: bytes, unit: Unit, folder: Path) -> None:
        """Do a unit there. Raises what it raises, and one of `broken` if the process dies."""
        if not self.executor.submit(_do, name, None, unit, folder).result():  # it does not know this work yet
            self.executor.submit(_do, name, payload, unit, folder).result()

    def keep(self) -> None:
        """Keep it for the next sweep, with the model loaded."""
        with _lock:
            _idle.append(self)

    def end(self) -> None:
        self.executor.shutdown(wait=False, kill_workers=True)


_idle: list[_Worker] = []  # those of earlier sweeps
_lock = threading.Lock()


def _take(gpu: str, number: int, sources: str, device: str) -> _Worker:
    """A worker of an earlier sweep, or a new one; gpu: the name of the one that it sees, "" on a CPU."""
    with _lock:
        fitting = next((worker for worker in _idle if worker.key == (gpu, number, sources, device)), None)
        if fitting is not None:
            _idle.remove(fitting)
            return fitting
    return _Worker(gpu, number, sources, device)


def _shared(
    make: Callable[[int], Any], payload: bytes, units: Sequence[Unit], folder: Path, many: int
) -> Iterator[tuple[Unit, str]]:
    """A thread for each worker gives it one unit after the other, so that it is known which unit a worker died of.

    make: a worker, from the number of its place.
    """
    name = hashlib.sha256(payload).hexdigest()
    todo: queue.SimpleQueue[Unit] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[Unit, str] | BaseException] = queue.SimpleQueue()
    for unit in units:
        todo.put(unit)
    working: dict[int, Any] = {}
    stopped = threading.Event()

    def attempt(place: int, unit: Unit) -> str:
        """Why a unit failed in every try; "" if it did not."""
        reason = ""
        for _ in range(TRIES):
            worker = working[place]
            try:
                worker.do(name, payload, unit, folder)
                return ""
            except worker.broken as error:
                if stopped.is_set():
                    break
                reason = f"its worker died {TRIES} times ({' '.join(str(error).split())[:200]})"
                worker.end()
                working[place] = make(place)
        return reason

    def serve(place: int) -> None:
        try:
            working[place] = make(place)
            while not stopped.is_set():
                try:
                    unit = todo.get_nowait()
                except queue.Empty:
                    working.pop(place).keep()
                    return
                done.put((unit, attempt(place, unit)))
        except BaseException as error:
            done.put(error)

    for place in range(many):
        threading.Thread(target=serve, args=(place,), name="audioscope worker", daemon=True).start()
    try:
        for _ in units:
            found = None
            while found is None:
                with suppress(queue.Empty):
                    found = done.get(timeout=1.0)  # with a limit, since Windows cannot interrupt a wait without one
            if isinstance(found, BaseException):
                raise found
            yield found
    except BaseException as error:  # also of who uses this, and Ctrl-C
        if isinstance(error, KeyboardInterrupt | GeneratorExit):  # the second, if Ctrl-C came while a result was used
            # a process that ends would otherwise look for cycles among all objects of torch and diffusers: 2 s more than the workers take
            atexit.unregister(gc.freeze)
            atexit.register(gc.freeze)
        stopped.set()
        for worker in list(working.values()):
            worker.end()
        raise


def end_workers() -> None:
    """End the workers that wait for work; they would end by themselves after two minutes."""
    with _lock:
        while _idle:
            _idle.pop().end()
    end_actors()


# ---- the worker's side

_work: dict[str, Do] = {}


def _begin(number: int, parent: int, device: str) -> None:
    """What a worker on this machine does first, too: leave Ctrl-C to the driver, and end with it."""
    loading.become_worker(number, device)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        # a driver that was killed stays known until someone asks how it ended, but its children get another parent at once
        while psutil.pid_exists(parent) and (os.name == "nt" or os.getppid() == parent):
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _do(name: str, payload: bytes | None, unit: Unit, folder: Path) -> bool:
    """Do a unit; returns False if this process was not given the work yet, or forgot it."""
    if name not in _work:
        if payload is None:
            return False
        _work.clear()
        _work[name] = unpacked(payload)
    try:
        _work[name](unit, folder)
    except Exception as error:
        raise sendable(error) from None
    return True
