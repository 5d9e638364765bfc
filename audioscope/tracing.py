"""Run prompts through a pipeline under nnsight, with edits and reads: the only module that imports nnsight.

Many variants share one batch. Each is a `Row` with its own prompt, seed and edits; what an edit must copy from (the
other prompt, unedited) is another row of the same batch. Rows are addressed by the adapter's guidance layout, never by
nnsight's invokes, and every row has its own seeded generator, so a row does not depend on its neighbors.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cache, partial
from itertools import combinations, count, groupby, pairwise
from operator import itemgetter
from typing import Any, TypeAlias, TypedDict

THEIRS = "nnsight" in sys.modules

import nnsight
import torch
from nnsight import _c
from torch import Tensor

from audioscope.adapters import Adapter
from audioscope.edits import AddText, Copying, Edit, Here, MuteWord, PatchOutput, PatchPath, PatchText, SlidePrediction, as_edits
from audioscope.errors import all_of, among, of_kind, one_or_more, said, seed_number, whole
from audioscope.sites import HEADS, KEYS, MODULES, Place, Site, Sites, place, said_kind
from audioscope.weights import CLOSED, Attending, around_attention
from audioscope.words import WORD, numbers_of, tokens_of

# nnsight adds a `save` method to every Python object, which breaks torchsde (Stable Audio's scheduler). It goes for good, unless
# someone imported nnsight for code of their own: then it is only away while a pipeline runs here.
MOUNTED = nnsight.CONFIG.APP.PYMOUNT and _c.unmount is not None
if MOUNTED and not THEIRS:
    _c.unmount("save")

Args: TypeAlias = tuple[Any, ...]
Keywords: TypeAlias = dict[str, Any]
Call: TypeAlias = tuple[Args, Keywords]  # how a module was called
Finder: TypeAlias = Callable[[Site, str, str | int | None, int, int], tuple[int, ...]]  # places, of a prompt's word among tokens
DECODED = 2**20  # samples to decode at once


class SamplingKeywords(TypedDict, total=False):
    """The keywords of everything that generates; a keyword that is omitted or None takes the model's default.

    steps: the number of denoising steps. guidance: the scale of classifier-free guidance, 1 for none. seconds: the length of a
    clip. negative_prompt: the prompt of the unconditional branch, which is otherwise empty.
    """

    steps: int | None
    guidance: float | None
    seconds: float | None
    negative_prompt: str | None


@dataclass(frozen=True)
class Sampling:
    """How clips are generated, checked and complete, from `Model.sampling`; unpacks into keywords (`**sampling`)."""

    steps: int
    guidance: float
    seconds: float
    negative_prompt: str | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Sampling:
        """How the clips of a result were generated, from its settings."""
        return cls(settings["steps"], settings["guidance"], settings["seconds"], settings.get("negative_prompt"))

    def keys(self) -> list[str]:
        return [each.name for each in fields(self)]

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


@dataclass(frozen=True)
class Row:
    """One variant in a batch: a prompt, a seed, and the edits that act on this row alone.

    Args:
        prompt: The text.
        seed: The seed of the starting noise.
        edits: What is changed, in this order.

    Raises:
        ValueError: The prompt is not a text, or the seed not a whole number in range.
        TypeError: Something among the edits is none.

    Example:
        >>> prompt, edits = "a song with violin", [audioscope.Ablate(layer) for layer in range(3)]
        >>> rows = [audioscope.Row(prompt, seed=0), *(audioscope.Row(prompt, 0, (edit,)) for edit in edits)]
        >>> len(model.clips(rows, steps=2))
        4
    """

    prompt: str
    seed: int
    edits: tuple[Edit, ...] = ()

    def __post_init__(self) -> None:
        of_kind("prompt", self.prompt, str)
        object.__setattr__(self, "seed", seed_number(self.seed))
        object.__setattr__(self, "edits", as_edits(self.edits))


@dataclass(frozen=True)
class Read:
    """What to record in `Model.run`: the outputs of sites, averaged over time tokens or token by token.

    Args:
        sites: The sites, such as `model.sites.select` returns.
        steps: The denoising steps, increasing; None means every step.
        pool: Whether to average over time tokens. Memory and duration tokens are left out either way; they are sites of their own
            ("cross.memory").
        branch: The guidance branch, "cond" or "uncond".

    Raises:
        ValueError: Something among the sites is none, or the steps are not increasing.

    Example:
        >>> read = audioscope.Read(model.sites.select([5, 6]), steps=(0,), pool=False)
        >>> run = model.run([audioscope.Row("a song with violin", 0)], read=read, decode=False, steps=2)
        >>> [values.shape[:2] for values in run.reads.values()]  # rows and steps; tokens and width follow
        [torch.Size([1, 1]), torch.Size([1, 1])]
    """

    sites: tuple[Site, ...]
    steps: tuple[int, ...] | None = None
    pool: bool = True
    branch: str = "cond"

    def __post_init__(self) -> None:
        object.__setattr__(self, "sites", tuple(all_of("sites", self.sites, Site)))
        if self.steps is not None:
            steps = tuple(whole("steps", step) for step in one_or_more(self.steps))
            if not steps or any(later <= step for step, later in pairwise(steps)):
                raise ValueError(f"steps is {said(self.steps)}, expected increasing numbers of steps.")
            object.__setattr__(self, "steps", steps)


@dataclass
class Run:
    """The result of a batch: audio [rows, channels, samples] (None if not decoded), latents, and reads by site path.

    reads[path] is float32 [rows, steps, width] when pooled, else [rows, steps, tokens, width]; norms[path] [rows, steps] is
    the mean L2 norm of the tokens that were read; `sigmas` [steps] are the noise levels of all denoising steps, `log_snr` [steps]
    the log of the signal's power over the noise's there (-infinity for noise alone); `finite` [rows] is False if a row has NaN or
    infinite values.
    """

    latents: Tensor
    audio: Tensor | None
    sigmas: Tensor
    log_snr: Tensor
    finite: Tensor
    reads: dict[str, Tensor] = field(default_factory=dict)
    norms: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class _Action:
    """An edit bound to rows of the stacked denoiser batch: (row, row to copy from or None) pairs."""

    edit: Edit
    pairs: tuple[tuple[int, int | None], ...]
    prompt: str  # of the row
    order: int  # among the edits of the row


@dataclass(frozen=True)
class _Slide:
    """A row of the batch whose prediction is moved, and the rows that predict from its latents, toward and away."""

    edit: SlidePrediction
    row: int
    toward: int
    away: int


@dataclass(frozen=True)
class _Path:
    """A row of the batch some of whose sites receive, and the row that carries to them what the senders would send."""

    edit: PatchPath
    row: int
    carrier: int


def with_sources(rows: Sequence[Row]) -> list[Row]:
    """The rows, followed by those that predict from their latents or carry what is sent along a path, and the unedited rows that patches
    copy from and that are missing."""
    packed = list(rows)
    for slide in _slides(rows):
        row, edit = rows[slide.row], slide.edit
        packed += [Row(row.prompt, row.seed, (PatchText(edit.sites, text, steps=edit.steps),)) for text in edit.texts]
    for path in _paths(rows):
        row, sent = rows[path.row], path.edit
        own = [edit for edit in row.edits if not isinstance(edit, PatchPath | SlidePrediction)]
        last = PatchOutput(sent.sites, sent.prompt, steps=sent.steps, branch=sent.branch)
        packed.append(Row(row.prompt, row.seed, (*own, last)))
    for row in tuple(packed):
        for each in row.edits:
            if isinstance(each, Copying) and _source(packed, row, each) is None:
                packed.append(Row(each.prompt, row.seed))
    return packed


def _slides(rows: Sequence[Row]) -> list[_Slide]:
    """The predictions that are moved; two rows for each follow the others in the batch."""
    found = [
        (edit, number)
        for number, row in enumerate(rows)
        for edit in row.edits
        if isinstance(edit, SlidePrediction) and not edit.idle
    ]
    return [_Slide(edit, row, len(rows) + 2 * place, len(rows) + 2 * place + 1) for place, (edit, row) in enumerate(found)]


def _paths(rows: Sequence[Row]) -> list[_Path]:
    """The paths that are patched; a row for each follows those of slides in the batch."""
    found = [(edit, number) for number, row in enumerate(rows) for edit in row.edits if isinstance(edit, PatchPath)]
    first = len(rows) + 2 * len(_slides(rows))
    return [_Path(edit, row, first + place) for place, (edit, row) in enumerate(found)]


def _overlap(one: Edit, other: Edit) -> bool:
    """Whether there is a step in which both act."""
    return one.steps is None or other.steps is None or (one.steps[0] < other.steps[1] and other.steps[0] < one.steps[1])


def _meet(one: PatchPath, other: PatchPath, sites: Sites) -> Site | None:
    """A site to which both paths lead in the same step and branch; None if there is none."""
    apart = one.branch != other.branch and "both" not in (one.branch, other.branch)
    theirs = set(other.received(sites))
    return None if apart or not _overlap(one, other) else next((site for site in one.received(sites) if site in theirs), None)


def _carried(path: _Path, sites: Sites, layout: dict[str, range], order: int) -> Iterator[tuple[Site, _Action]]:
    """What a carrier copies: all that its row puts out before the last receiver, except what is patched."""
    senders, last = path.edit.where(sites), path.edit.received(sites)[-1]
    parts = {site.module for site in senders if site.head is not None}
    for site in sites.every[: sites.every.index(last)]:
        whole = site.kind in MODULES and site.module not in parts
        if site not in senders and (whole or (site.head is not None and site.module in parts)):
            copy = PatchOutput(site, path.edit.prompt, steps=path.edit.steps, branch=path.edit.branch)
            pairs = tuple((rows[path.carrier], rows[path.row]) for rows in _branches(copy, layout))
            yield site, _Action(copy, pairs, path.edit.prompt, order)


def _branches(edit: Edit, layout: dict[str, range]) -> list[range]:
    """Where the rows of each guidance branch are on which an edit acts."""
    return [rows for name, rows in layout.items() if edit.branch in ("both", name)]


def _source(rows: Sequence[Row], row: Row, edit: Copying) -> int | None:
    """The index of the unedited row with the edit's prompt and the row's seed."""
    return next((i for i, r in enumerate(rows) if r.prompt == edit.prompt and r.seed == row.seed and not r.edits), None)


def _plan(
    rows: Sequence[Row], sites: Sites, layout: dict[str, range], steps: int, paths: Sequence[_Path] = ()
) -> dict[Site, list[_Action]]:
    """Which actions happen at which site, in the order in which each row lists its edits; carriers copy what their rows then have."""
    plan: dict[Site, list[_Action]] = {}
    carriers, last = {path.carrier for path in paths}, max((len(row.edits) for row in rows), default=0)
    for one, other in combinations(paths, 2):
        if one.row == other.row and (site := _meet(one.edit, other.edit, sites)):
            raise ValueError(f"Two PatchPath of one row end at {site.path}: give one of them all senders.")
    for number, row in enumerate(rows):
        for order, edit in enumerate(row.edits):
            if number in carriers and edit is row.edits[-1]:  # what is sent, in place of the copy
                order = last + 1
            if edit.idle:
                continue
            source = _source(rows, row, edit) if isinstance(edit, Copying) else None
            branches = _branches(edit, layout)
            if not branches:
                raise ValueError(
                    f"An edit names the branch {edit.branch!r}, but without guidance there is only {', '.join(layout)}."
                )
            if edit.steps is not None and edit.steps[1] > steps:
                raise ValueError(f"An edit's window is steps {edit.steps}, but the run has {steps} steps.")
            pairs = tuple((where[number], None if source is None else where[source]) for where in branches)
            if isinstance(edit, MuteWord | AddText):
                if edit.word is not None:
                    numbers_of(edit.word, WORD.findall(row.prompt))  # raises for a word that the prompt does not have
                if all(site.stream == "gpt2" for site in sites.select(edit.sites)):
                    raise ValueError("These layers read GPT-2's states, in which no token is a word's: name the others.")
            chosen = edit.where(sites)
            for site in () if edit.target == "path" else chosen:
                if edit.target == "attention" and site.kind not in ("cross", f"cross.{HEADS}"):
                    raise ValueError(
                        f"{type(edit).__name__} needs a cross-attention module or its heads, but {site.path} is {said_kind(site.kind)}."
                    )
                if edit.target in ("text", "prediction") and site.kind != "cross":
                    hint = ": use PatchOutput" if edit.target == "text" else ""
                    raise ValueError(
                        f"{type(edit).__name__} needs the text of a cross-attention module, but {site.path} is {said_kind(site.kind)}{hint}."
                    )
                plan.setdefault(site, []).append(_Action(edit, pairs, row.prompt, order))
    for path in paths:
        for site, action in _carried(path, sites, layout, last):
            plan.setdefault(site, []).append(action)
    for site, actions in plan.items():
        worded = [(row, a.edit) for a in actions if a.edit.of_words for row, _ in a.pairs]
        if not worded:
            continue
        module = sites[site.module]
        text = [a for a in (*actions, *plan.get(module, [])) if a.edit.target == "text"]
        text += [a for part in (*module.keys, *module.values) for a in plan.get(part, [])]  # the same swap, in parts
        copied = [(row, a.edit) for a in text if isinstance(a.edit, Copying) for row, _ in a.pairs]
        if both := next((edit for row, edit in worded for at, other in copied if row == at and _overlap(edit, other)), None):
            raise ValueError(
                f"{type(both).__name__} is about the prompt's words, but another edit gives {site.module} another text."
            )
    return plan


def _changed(
    values: Tensor,
    actions: list[_Action],
    here: Here,
    masks: bool = False,
    words: Callable[[_Action, int], tuple[int, ...]] | None = None,
) -> Tensor:
    """A copy of `values` [stacked rows, ...] with the actions applied: sites share their text tensor, so never in place."""
    values = values.clone()
    for action in actions:
        for row, source in action.pairs:
            own, other = values[row], None if source is None else values[source]
            at = replace(here, words=words(action, row)) if words is not None and action.edit.of_words else here
            values[row] = action.edit.mask(own, other) if masks else action.edit.change(own, other, at)
    return values


def _swap_text(
    call: Call,
    names: tuple[str, ...],
    actions: list[_Action],
    here: Here,
    masks: Sequence[_Action] = (),
    finder: Finder | None = None,
) -> Call:
    """A site's call with the text of the edited rows changed: states under the first name, masks under the others.

    masks: actions that bring their masks alone; the keys that other masks belong to come later. finder: finds tokens of words.
    """
    args, kwargs = call
    given = [name for name in names if isinstance(kwargs.get(name), Tensor)]
    if not given:
        raise RuntimeError(f"The site was called with {sorted(kwargs)}, but none of {names} is a tensor: the adapter is wrong.")

    def words(action: _Action, row: int) -> tuple[int, ...]:
        assert finder is not None and isinstance(action.edit, AddText)  # alone of the edits of words, it changes a text
        count, mask = kwargs[given[0]].shape[1], kwargs[given[1]][row].flatten() if len(given) > 1 else None
        valid = count if mask is None else int(mask.sum() if mask.dtype == torch.bool else (mask > CLOSED).sum())
        return finder(here.site, action.prompt, action.edit.word, count, valid)

    states = {name: _changed(kwargs[name], actions, here, words=words) for name in given if name == names[0]}
    others = {name: _changed(kwargs[name], [*actions, *masks], here, masks=True) for name in given if name != names[0]}
    return args, {**kwargs, **states, **others}


def _finder(pipe: Any, adapter: Adapter, seconds: float) -> Finder:
    """A function that finds the tokens of a word, or of all words, in a site's text; they are the same in every step."""

    @cache
    def places(site: Site, prompt: str, word: str | int | None, count: int, valid: int) -> tuple[int, ...]:
        words = WORD.findall(prompt)
        wanted = range(len(words)) if word is None else numbers_of(word, words)
        names = tokens_of(pipe, adapter, prompt, site, count, valid, seconds)
        found = tuple(place for place, name in enumerate(names) if name in wanted)
        if not found and site.stream != "gpt2":
            last = max((name for name in names if isinstance(name, int)), default=-1)
            why = (
                "its token is that of another word, too"
                if last > min(wanted)
                else "the prompt is too long, and was cut off before it"
            )
            raise ValueError(f"{site.path} has no token of {word!r}: {why}.")
        return found

    return places


@dataclass
class Stop:
    """A module at one end of which a denoiser call is halted: the sites that are there, each with its columns."""

    module: str
    end: str
    sites: list[tuple[Site, slice | None]]


def stops_of(denoiser: Any, sites: Sites, busy: Collection[Site], texts: Collection[str]) -> list[Stop]:
    """Where a denoiser call is halted, in the order in which nnsight will get there.

    texts: the paths of the cross-attention modules whose text or mask is changed.
    """
    stops: dict[tuple[str, str], Stop] = {}
    for site in sites.every:
        if site not in busy and site.path not in texts:
            continue
        if site.module in texts:
            module = site.module.split(".", 1)[1]
            stops.setdefault((module, "text"), Stop(module, "text", [(sites[site.module], None)]))
        if site in busy:
            where: Place = place(denoiser, site)
            stop = stops.setdefault((where.module, where.end), Stop(where.module, where.end, []))
            stop.sites.append((site, where.columns))
    return list(stops.values())


def _values(module: Any, end: str) -> Tensor:
    """What a module is given or gives: the tensor, or the first of several."""
    found = module.inputs[0][0] if end == "input" else module.output
    values: Tensor = found[0] if isinstance(found, tuple) else found
    return values


def part_of(values: Tensor, site: Site, columns: slice | None, leading: int) -> Tensor:
    """A site's part of the values [rows, tokens, width] at its stop: its columns, or as one token, the memory."""
    if site.is_memory:
        return values[:, :leading].flatten(1)[:, None]
    return values if columns is None else values[..., columns]


def put_part(values: Tensor, site: Site, columns: slice | None, leading: int, part: Tensor) -> None:
    """Put a site's part into the values at its stop, in place."""
    if site.is_memory:
        values[:, :leading] = part[:, 0].unflatten(1, (leading, -1))
    else:
        values[..., columns or slice(None)] = part


def _put(module: Any, end: str, values: Tensor) -> None:
    if end == "input":
        args, kwargs = module.inputs
        module.inputs = ((values, *args[1:]), kwargs)
    else:
        module.output = (values, *module.output[1:]) if isinstance(module.output, tuple) else values


def run(
    pipe: Any,
    adapter: Adapter,
    sites: Sites,
    rows: Sequence[Row],
    sampling: Sampling,
    *,
    read: Read | None = None,
    decode: bool = True,
    latents: Tensor | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Run:
    """Generate all rows in one batch.

    Missing rows that patches copy from are run as well but not returned. Hooks are removed when the run ends, even if it raises.
    latents: starting noise of all rows, instead of what each seed draws. on_step: called with the number of each step before that
    step, and with `steps` before decoding, to show progress; an exception in it ends the run. Raises ValueError for edits that a
    site cannot take.
    """
    packed, steps, guidance = with_sources(rows), sampling.steps, sampling.guidance
    layout = adapter.rows(len(packed), guidance)
    if latents is not None and (not isinstance(latents, Tensor) or latents.shape[:1] != (len(packed),)):
        given = list(latents.shape) if isinstance(latents, Tensor) else said(latents)
        raise ValueError(f"latents is {given}, expected a tensor of starting noise for {len(packed)} rows.")
    slides, paths = _slides(rows), _paths(rows)
    plan = _plan(packed, sites, layout, steps, paths)
    reading: dict[Site, list[tuple[Tensor, Tensor]]] = {} if read is None else {site: [] for site in read.sites}
    if read is not None and not among(read.branch, layout):
        raise ValueError(f"No {said(read.branch)} branch to read at guidance {guidance}: there is only {', '.join(layout)}.")
    if read is not None and read.steps is not None and read.steps[-1] >= steps:
        raise ValueError(f"Step {read.steps[-1]} cannot be read: there are {steps}, counted from 0.")
    if read is not None and read.pool and (text := [site.path for site in read.sites if site.of_text]):
        raise ValueError(f"{text[0]} has a token for each piece of text, not of time: read it with pool=False.")
    keep = layout[read.branch][: len(rows)] if read is not None else range(0)
    denoiser = getattr(pipe, adapter.denoiser)
    leading = adapter.leading(denoiser)
    call = called_with(pipe, adapter, packed, sampling)
    if latents is not None:
        call["latents"] = latents
    span = (adapter.max_duration(pipe) if adapter.fixed_length else None) or sampling.seconds

    finder = _finder(pipe, adapter, sampling.seconds)
    # A mask belongs to the keys: those of another prompt come with its mask.
    masked = {site.module: site for site in plan if site.kind == f"cross.{KEYS}"}
    texts = {site.path for site in plan if any(a.edit.target == "text" for a in plan[site])} | set(masked)
    others = {site for site in plan if any(a.edit.target == "output" for a in plan[site])}

    def acting(site: Site | None, step: int, target: str) -> list[_Action]:
        return [a for a in plan.get(site, ()) if a.edit.target == target and a.edit.acts_at(step)]  # type: ignore[arg-type]

    def visit(modules: dict[str, Any], step: int) -> None:
        def sigma() -> float:  # once a module is reached in this step: before, the scheduler may still be set to another run
            return float(_sigmas(pipe.scheduler)[step])

        for stop in stops:
            module = modules[stop.module]
            if stop.end == "text":
                site = stop.sites[0][0]
                keys = [a for a in acting(masked.get(site.path), step, "output") if isinstance(a.edit, Copying)]
                if (text := acting(site, step, "text")) or keys:
                    module.inputs = _swap_text(
                        module.inputs, adapter.text, text, Here(site, sigma(), leading, span), keys, finder
                    )
                continue
            values: Tensor | None = None
            each = [(a.order, number, a) for number, (site, _) in enumerate(stop.sites) for a in acting(site, step, "output")]
            for (_, number), group in groupby(
                sorted(each, key=itemgetter(0, 1)), itemgetter(0, 1)
            ):  # in the order of the rows' edits
                site, columns = stop.sites[number]
                values = _values(module, stop.end).clone() if values is None else values
                here = Here(site, sigma(), leading if site.timed else 0, span)
                part = _changed(part_of(values, site, columns, leading), [action for *_, action in group], here)
                put_part(values, site, columns, leading, part)
            if values is not None:
                _put(module, stop.end, values)
            if read is not None and (read.steps is None or step in read.steps):
                for site, columns in stop.sites:
                    if site in reading:
                        whole = _values(module, stop.end) if values is None else values
                        part = part_of(whole[keep.start : keep.stop], site, columns, leading)
                        found = part[:, leading if site.timed else 0 :].detach().float()
                        kept = found.mean(1) if read.pool else found.clone()
                        reading[site].append((kept.cpu(), found.norm(dim=-1).mean(1).cpu()))

    stops = stops_of(denoiser, sites, others | set(reading), texts)
    now = [0]

    def stepped(step: int) -> None:
        now[0] = step
        if on_step is not None:
            on_step(step)

    leaders = {each: slide.row for slide in slides for each in (slide.toward, slide.away)} | {
        path.carrier: path.row for path in paths
    }
    changing = [
        _following(denoiser, layout, leaders), _muting(denoiser, plan, finder, now), _sliding(denoiser, layout, slides, now),
        _receiving(denoiser, sites, layout, paths, now),
    ]  # fmt: skip
    with ready(pipe), masking(pipe, adapter, sites), counting(denoiser, pipe.scheduler, steps, stepped), ExitStack() as hooks:
        for each in changing:
            hooks.enter_context(each)
        latents = _traced(pipe, denoiser, [stop.module for stop in stops], call, steps, visit) if stops else pipe(**call)[0]
    latents = latents[: len(rows)]
    if on_step is not None:
        on_step(steps)
    audio = decoded(pipe, adapter, latents, sampling.seconds) if decode else None
    finite = torch.isfinite(latents).flatten(1).all(1).cpu()
    return Run(
        latents=latents,
        audio=audio,
        sigmas=_sigmas(pipe.scheduler)[:steps],
        log_snr=_log_snr(pipe.scheduler)[:steps],
        finite=finite if audio is None else finite & torch.isfinite(audio).flatten(1).all(1),
        reads={site.path: torch.stack([kept for kept, _ in values], dim=1) for site, values in reading.items()},
        norms={site.path: torch.stack([norms for _, norms in values], dim=1) for site, values in reading.items()},
    )


def _rearranged(args: Args, kwargs: Keywords, change: Callable[[Tensor], Tensor]) -> Call:
    """A module's call with its hidden states changed."""
    name = next((name for name in ("hidden_states", "sample") if name in kwargs), None)
    if name is None:
        return (change(args[0]), *args[1:]), kwargs
    return args, {**kwargs, name: change(kwargs[name])}


@contextmanager
def _following(denoiser: Any, layout: dict[str, range], leaders: Mapping[int, int]) -> Iterator[None]:
    """Give each row that follows another that row's latents, in every step."""

    def follow(module: Any, args: Args, kwargs: Keywords) -> Call:
        def latents(given: Tensor) -> Tensor:
            whose = torch.arange(len(given))
            for rows in layout.values():
                for follower, leader in leaders.items():
                    whose[rows[follower]] = rows[leader]
            return given[whose]

        return _rearranged(args, kwargs, latents)

    if not leaders:
        yield
        return
    with denoiser.register_forward_pre_hook(follow, with_kwargs=True):
        yield


@contextmanager
def _receiving(denoiser: Any, sites: Sites, layout: dict[str, range], paths: Sequence[_Path], now: list[int]) -> Iterator[None]:
    """Give receivers what the carriers of their paths brought there; `now` holds the denoising step."""

    def receive(path: _Path, module: Any, args: Args, kwargs: Keywords) -> Call | None:
        def received(given: Tensor) -> Tensor:
            changed = given.clone()
            for rows in _branches(path.edit, layout):
                changed[rows[path.row]] = given[rows[path.carrier]]
            return changed

        return _rearranged(args, kwargs, received) if path.edit.acts_at(now[0]) else None

    with ExitStack() as hooks:
        for path in paths:
            for site in path.edit.received(sites):
                module = denoiser.get_submodule(site.path.partition(".")[2])
                hooks.enter_context(module.register_forward_pre_hook(partial(receive, path), with_kwargs=True))
        yield


@contextmanager
def _sliding(denoiser: Any, layout: dict[str, range], slides: Sequence[_Slide], now: list[int]) -> Iterator[None]:
    """Move the prediction of rows by that of their slides; `now` holds the denoising step."""

    def move(module: Any, args: Args, output: Any) -> Any:
        acting, rows = [slide for slide in slides if slide.edit.acts_at(now[0])], layout["cond"]
        if not acting:
            return output
        found = output if isinstance(output, Tensor) else output[0]
        moved = found.clone()
        for slide in acting:
            moved[rows[slide.row]] += slide.edit.amount * (found[rows[slide.toward]] - found[rows[slide.away]])
        if isinstance(output, Tensor):
            return moved
        return (moved, *output[1:]) if isinstance(output, tuple) else type(output)(moved, *output.to_tuple()[1:])

    if not slides:
        yield
        return
    with denoiser.register_forward_hook(move):
        yield


@contextmanager
def _muting(denoiser: Any, plan: dict[Site, list[_Action]], finder: Finder, now: list[int]) -> Iterator[None]:
    """Cut words out of attention, where edits ask for it; `now` holds the denoising step."""
    modules: dict[str, list[tuple[Site, _Action]]] = {}
    for site, actions in plan.items():
        for action in actions:
            if isinstance(action.edit, MuteWord):
                modules.setdefault(site.module, []).append((site, action))

    def cut(mutes: list[tuple[Site, _Action]], call: Attending) -> Tensor:
        output = call()
        cuts: dict[int, tuple[Attending, Tensor, Tensor]] = {}  # by row, the tokens of heads that add nothing, or are hidden
        for site, action in mutes:
            edit = action.edit
            if not isinstance(edit, MuteWord) or not edit.acts_at(now[0]):
                continue
            for row, _ in action.pairs:
                if row not in cuts:
                    one = call.row(row)
                    nothing = torch.zeros(one.query.shape[1], one.key.shape[2], dtype=torch.bool, device=one.key.device)
                    cuts[row] = one, nothing, nothing.clone()
                one, silent, hidden = cuts[row]
                mine = list(finder(site, action.prompt, edit.word, one.key.shape[2], one.valid))
                (hidden if edit.renormalize else silent)[slice(None) if site.head is None else site.head, mine] = True
        for row, (one, silent, hidden) in cuts.items():
            output[row] = one.without(silent, hidden)()[0]
        return output

    with ExitStack() as hooks:
        for path, mutes in modules.items():
            hooks.enter_context(around_attention(denoiser.get_submodule(path.partition(".")[2]), partial(cut, mutes)))
        yield


def called_with(pipe: Any, adapter: Adapter, rows: Sequence[Row], sampling: Sampling) -> dict[str, Any]:
    """The arguments of a pipeline call that generates all rows."""
    guidance, negative = sampling.guidance, sampling.negative_prompt
    prompts = [row.prompt for row in rows]
    if adapter.encode is not None:
        texts: dict[str, Any] = adapter.encode(pipe, prompts, guidance > 1.0, negative)
    else:
        texts = {"prompt": prompts}
        if negative is not None and guidance > 1.0:
            texts["negative_prompt"] = [negative] * len(rows)
    return {
        **texts,
        "generator": [torch.Generator().manual_seed(int(row.seed)) for row in rows],
        "num_inference_steps": sampling.steps,
        "guidance_scale": guidance,
        adapter.seconds: sampling.seconds,
        "output_type": "latent",
        **({adapter.count: 1} if adapter.count else {}),
        **{name: [value] * len(rows) for name, value in adapter.each},
        **dict(adapter.extra),
    }


def _sigmas(scheduler: Any) -> Tensor:
    """Noise levels of the steps that the scheduler is set to: its own, else noise over signal (DDIM and similar)."""
    if hasattr(scheduler, "sigmas"):
        return torch.as_tensor(scheduler.sigmas).detach().cpu().float()
    signal = scheduler.alphas_cumprod[scheduler.timesteps.cpu()].float()
    return torch.as_tensor(((1 - signal) / signal).sqrt())


def _log_snr(scheduler: Any) -> Tensor:
    """Log of signal over noise, in power, at each noise level.

    Flow matching mixes (1 - sigma) of the signal with sigma of the noise; elsewhere sigma is noise over signal.
    """
    sigmas = _sigmas(scheduler)
    signal = 1 - sigmas if "FlowMatch" in type(scheduler).__name__ else torch.ones_like(sigmas)
    return 2 * (signal.clamp_min(0).log() - sigmas.log())


@contextmanager
def masking(pipe: Any, adapter: Adapter, sites: Sites) -> Iterator[None]:
    """Let cross-attention skip the padding of packed conditions, which would make rows depend on their neighbors' length.

    ACE-Step's pipeline drops the mask that its condition encoder returns; its blocks accept one.
    """
    if not adapter.packed_by:
        yield
        return
    masks: list[Tensor] = []
    denoiser = getattr(pipe, adapter.denoiser)

    def keep(module: Any, args: Args, output: Args) -> None:
        masks[:] = [output[1]]

    def mask(module: Any, args: Args, kwargs: Keywords) -> Call | None:
        if masks[0].all():
            return None
        rows = len(kwargs["encoder_hidden_states"]) // len(masks[0])
        return args, {**kwargs, "encoder_attention_mask": masks[0].repeat(rows, 1)[:, None, None]}

    blocks = {site.path.split(".", 1)[1].rsplit(".", 1)[0] for site in sites.cross}
    with ExitStack() as hooks:
        hooks.enter_context(getattr(pipe, adapter.packed_by).register_forward_hook(keep))
        for block in blocks:
            hooks.enter_context(denoiser.get_submodule(block).register_forward_pre_hook(mask, with_kwargs=True))
        yield


@contextmanager
def ready(pipe: Any) -> Iterator[None]:
    """Everything in evaluation mode (dropout of a LoRA or of an encoder left in train() is random), and objects without `save`."""
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    with _without_save():
        yield


_RUNNING: list[None] = []  # an entry for each run, of any model
_SAVE = threading.Lock()


@contextmanager
def _without_save() -> Iterator[None]:
    """Take nnsight's `save` off all objects while any run lasts, and put it back after the last: several models may run at once."""
    with _SAVE:
        if MOUNTED and THEIRS and not _RUNNING:
            _c.unmount("save")
        _RUNNING.append(None)
    try:
        yield
    finally:
        with _SAVE:
            _RUNNING.pop()
            if MOUNTED and THEIRS and not _RUNNING:
                _c.mount(nnsight.save, "save")


@contextmanager
def counting(denoiser: Any, scheduler: Any, steps: int, on_step: Callable[[int], None] | None) -> Iterator[None]:
    """Call `on_step` with 0, 1, 2, ... before each denoiser call. Raises ValueError unless there is one call per step."""
    number = count()
    name = type(scheduler).__name__

    def called(module: Any, args: Args) -> None:
        step = next(number)
        if step >= steps:
            raise ValueError(
                f"{name} calls the denoiser more than once per step, so edits would miss calls: use a first-order scheduler."
            )
        if on_step is not None:
            on_step(step)

    with denoiser.register_forward_pre_hook(called):
        yield
    if (made := next(number)) != steps:
        raise ValueError(
            f"{name} made {made} denoiser calls in {steps} steps, expected one per step: use a first-order scheduler."
        )


def check(pipe: Any, adapter: Adapter, sites: Sites) -> None:
    """Compare an adapter with what its pipeline does in two steps on a fraction of a second of sound.

    Checked: one denoiser call per step, every cross-attention site reached once per call, text where the adapter says it enters,
    the order of the guidance branches, and that no text enters elsewhere: with another prompt's text at every site, a run is
    that prompt's. Raises ValueError that names what does not fit.
    """
    rows = [Row("slow music", 0), Row("music slow", 0)]  # of equal length: some pipelines pad guidance to the prompt
    guidance = 3.0 if len(adapter.branches) > 1 else 1.0
    layout = adapter.rows(len(rows), guidance)
    denoiser = getattr(pipe, adapter.denoiser)
    seconds = min(0.64, adapter.max_duration(pipe) or 0.64)
    how = Sampling(2, guidance, seconds)
    call = called_with(pipe, adapter, rows, how)
    noise = torch.zeros(3, denoiser.config.in_channels, 16, dtype=denoiser.dtype) if adapter.fixed_length else None
    if noise is not None:
        call["latents"] = noise[:2]
    visits: Counter[str] = Counter()
    texts: dict[str, Tensor | None] = {}

    def visited(name: str, module: Any, args: Args, kwargs: Keywords) -> None:
        visits[name] += 1
        texts[name] = next((kwargs[n] for n in adapter.text if isinstance(kwargs.get(n), Tensor)), None)

    wrong = f"The adapter of {adapter.pipeline} does not fit this pipeline: "
    with ExitStack() as hooks:
        for path in ("", *(site.path for site in sites.cross)):
            module = denoiser.get_submodule(path.partition(".")[2])
            hooks.enter_context(module.register_forward_pre_hook(partial(visited, path), with_kwargs=True))
        try:
            with ready(pipe), masking(pipe, adapter, sites):
                pipe(**call)
        except Exception as error:  # of the pipeline, its scheduler or a library of theirs
            raise ValueError(f"{wrong}a call with {', '.join(call)} fails ({type(error).__name__}: {error}).") from error
    if visits[""] != 2:
        raise ValueError(f"{wrong}it made {visits['']} denoiser calls in 2 steps, expected one per step.")
    for site in sites.cross:
        text = texts.get(site.path)
        if visits[site.path] != 2:
            raise ValueError(f"{wrong}{site.path} ran {visits[site.path]} times in 2 denoiser calls, expected once per call.")
        expected = sum(len(part) for part in layout.values())
        if text is None or len(text) != expected:
            received = "no text" if text is None else f"text of {len(text)} rows"
            raise ValueError(f"{wrong}{site.path} got {received} in {' or '.join(adapter.text)}, expected {expected} rows.")
        apart = {name: float((text[part[0]] - text[part[1]]).float().norm()) for name, part in layout.items()}
        if apart["cond"] <= 10 * apart.get("uncond", 0.0):  # without a prompt, rows differ by rounding at most
            raise ValueError(f"{wrong}its guidance does not stack rows as {' before '.join(adapter.branches)} ({site.path}).")
    swapped = Row(rows[1].prompt, 0, (PatchText("cross", rows[0].prompt),))
    again = run(pipe, adapter, sites, [*rows, swapped], how, decode=False, latents=noise)
    one, two, three = again.latents.float()
    # threads divide a batch so that equal rows are rounded differently, and a small model may hardly tell these prompts apart
    rounding = 100 * torch.finfo(torch.float32).eps * one.norm()
    if (three - one).norm() > 0.1 * (two - one).norm() + rounding:
        raise ValueError(
            f"{wrong}text enters elsewhere too: with one prompt's text at every site, the other still has an effect."
        )


def _traced(pipe: Any, denoiser: Any, paths: list[str], call: dict[str, Any], steps: int, visit: Any) -> Tensor:
    """Run the pipeline with `visit(nnsight's modules by path, step)` in every denoiser call; the wrapper exists only here."""
    envoy = nnsight.NNsight(denoiser)
    modules = {path: envoy.get(path) for path in paths}
    with envoy.trace(fn=pipe, **call) as tracer:
        for step in tracer.iter[:steps]:
            visit(modules, step)
        result = nnsight.save(tracer.result)
    latents: Tensor = result[0]
    return latents


def decoded(pipe: Any, adapter: Adapter, latents: Tensor, seconds: float, gradients: bool = False) -> Tensor:
    """Decode latents to audio [rows, channels, samples] float32 on the CPU, cut to `seconds`, within -1..1 where finite.

    gradients: let them through, from audio to latents.

    It decodes a million samples at a time, which fit in the cache: Stable Audio Open decodes 47 s per row, whatever the duration.
    """
    rate = adapter.sampling_rate(pipe)
    longest = adapter.max_duration(pipe) if adapter.fixed_length else None
    part = max(1, int(DECODED // ((longest or seconds) * rate)))
    with torch.set_grad_enabled(gradients):
        audio = torch.cat([adapter.audio(pipe, rows)[..., : int(seconds * rate)].float().cpu() for rows in latents.split(part)])
    return torch.where(torch.isfinite(audio), audio.clamp(-1, 1), torch.nan)
