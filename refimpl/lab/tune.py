"""`refimpl tune`: measure which body of an operation, on how many threads, is fastest here, and store it as wisdom.

One loop for all operations that refimpl/ops/tunables.py declares. A job is one operation at one size; its candidates
are the C core on 1, 2, 4, ... threads (all that are set: the choice without wisdom) and the NumPy body.

1. Every candidate is run once, and its results compared with those of the NumPy body. Other results: never chosen.
2. Rounds: the candidates take turns, so that a machine that slows down slows all of them; a turn is an untimed call
   that fills the caches and then calls for at least SAMPLE seconds. A candidate whose best turn is slower than the
   median of the leader has lost and stops early. The lowest median wins.
3. Where that is the C core, and its kernels declare parameters (sizes of blocks), these are searched one after the
   other: rounds between the winner and the same with each other value of one parameter; the fastest goes on.
4. The duel: the winner must win again, in fresh turns against the untuned choice alone (which of many candidates came
   out first is partly luck, and fresh turns know nothing of it). It has to be faster by MARGIN in so many of TURNS
   turns that, were it truly so in half of them only, chance would bring that about less than once in a hundred times
   (sign test: no assumption about the noise). Only then it is written; else the size is recorded as measured and left
   alone.

Candidates are called as they will be: through the function that wisdom puts into the dispatcher, so what deciding costs
is part of what is measured. Seconds and gains are medians of the duel.
"""

from __future__ import annotations

import functools
import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refimpl._names import expected
from refimpl._version import __version__
from refimpl.backends import get_num_threads, native, operations, wisdom
from refimpl.backends.dispatch import untuned
from refimpl.backends.wisdom import Entry, Tunable, Way
from refimpl.lab.bench import agree
from refimpl.lab.errors import RunError, UsageError
from refimpl.lab.machine import core, limited_threads, machine
from refimpl.lab.progress import Bar
from refimpl.lab.signals import Stop
from refimpl.lab.text import duration, paragraph, short, table
from refimpl.ops import tunables  # noqa: F401  (declares what can be tuned)

__all__ = ["age", "place", "report", "run", "show", "state", "summary"]

SAMPLE = 0.0005  # seconds of one turn, at least
ROUNDS = 6
TURNS = 15
MARGIN = 0.03
CHANCE = 0.01
NAME = 29  # columns that the table leaves for the name of an operation
HOPELESS = 8  # times slower than the untuned choice in the first call: not worth a round

UNTUNED = Way("native", 0)
WORTH = 1e-4  # seconds a call must take for its parameters to be searched


@functools.cache
def needed(turns: int, chance: float) -> int:
    """The least number of wins that a fair coin reaches in `turns` throws with a probability of at most `chance`."""
    tail = [sum(math.comb(turns, k) for k in range(w, turns + 1)) / 2**turns for w in range(turns + 1)]
    return next(w for w in range(turns + 1) if tail[w] <= chance)


@dataclass
class Job:
    """One operation at one size, and what came out.

    state: "changed" (a choice was found), "stays" (nothing beats the untuned choice), "wrong" (the untuned choice has
    other results than NumPy), "no time".
    """

    tunable: Tunable
    size: int
    state: str = "no time"
    untuned: Way = UNTUNED
    untuned_s: float | None = None
    choice: Way | None = None
    choice_s: float | None = None
    wrong: list[Way] = field(default_factory=list)

    def entry(self) -> Entry | None:
        """What is stored of it."""
        if self.state not in ("changed", "stays") or self.untuned_s is None:
            return None
        if self.choice is None or self.choice_s is None:
            return Entry("default", 0, self.untuned_s, self.untuned_s, int(time.time()))
        body, threads, parameters = self.choice
        return Entry(body, threads, self.choice_s, self.untuned_s, int(time.time()), parameters)


def place() -> str:
    """The file. Raises UsageError where wisdom is switched off."""
    path = wisdom.file()
    if path is None:
        raise UsageError("tune: REFIMPL_WISDOM=off switches wisdom off; unset it, or name a file with it")
    return path


def run(
    names: Sequence[str] = (), budget: float = 60.0, threads: int | None = None, show: bool = True
) -> dict[str, Any]:
    """Tune operations (none named: all that can be), in at most `budget` seconds and one call; returns the outcome.

    What was learned is stored before this returns, however it ends. `interrupted` in the outcome is the signal that
    ended it early, or 0. Raises UsageError for what cannot be tuned, RunError where nothing can be stored.
    """
    path, known = place(), wisdom.tunables()
    if native.lib is None:
        raise RunError("tune: without the C core every operation has one body: nothing to choose (see refimpl doctor)")
    for name in names:
        if name not in known:
            raise UsageError(f"tune: cannot tune {name!r}, {expected(name, sorted(known))}")
    try:
        wisdom.check_writable(path)
    except OSError as error:
        raise _unwritable(path, error) from None
    chosen = [known[name] for name in dict.fromkeys(names or known)]
    jobs = [Job(t, c) for t in chosen for c in t.classes]
    # the small sizes of all operations first: they are quick, and what time they leave goes to the large ones
    jobs.sort(key=lambda job: job.tunable.classes.index(job.size) / len(job.tunable.classes))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    started = time.monotonic()
    with ExitStack() as stack:
        n = stack.enter_context(limited_threads(threads))
        stop = stack.enter_context(Stop("this turn; what was learned is kept"))
        bar = stack.enter_context(Bar(len(jobs), show=show))
        collecting = gc.isenabled()
        gc.disable()

        def over() -> bool:
            return bool(stop.signal) or time.monotonic() - started > budget

        try:
            pace: dict[str, tuple[int, float]] = {}  # operation -> the last size, and seconds of all its first calls
            for i, job in enumerate(jobs):
                left = budget - (time.monotonic() - started)
                if over():
                    break
                bar.at(i, f"{job.tunable.op} 2^{job.size}")
                before = pace.get(job.tunable.op)
                if before is not None and before[1] * 2.0 ** (job.size - before[0]) > left:
                    continue
                # a few may take more than their share, because many take less
                first = _measure(job, n, min(left, max(0.05, 5 * left / (len(jobs) - i))), over)
                pace[job.tunable.op] = (job.size, first)
        finally:
            if collecting:
                gc.enable()
            learned: dict[str, dict[int, Entry]] = {}
            for job in jobs:
                entry = job.entry()
                if entry is not None:
                    learned.setdefault(job.tunable.op, {})[job.size] = entry
            if learned:
                try:
                    wisdom.store(path, n, learned)
                except OSError as error:
                    raise _unwritable(path, error) from None
                wisdom.load()
    return {
        "version": __version__,
        "machine": {**machine(), "core": core(), "key": wisdom.machine_key()},
        "file": path,
        "threads": n,
        "budget_s": budget,
        "seconds": time.monotonic() - started,
        "load_before": load,
        "interrupted": stop.signal,
        "rows": [_row(job) for job in jobs],
    }


def _unwritable(path: str, error: OSError) -> RunError:
    why = error.strerror or error
    return RunError(f"{path}: wisdom cannot be stored there ({why}). Name another file with REFIMPL_WISDOM")


def _row(job: Job) -> dict[str, Any]:
    gain = job.untuned_s / job.choice_s if job.choice_s and job.untuned_s else None
    return {
        "operation": job.tunable.op,
        "size": job.size,
        "state": job.state,
        "untuned": list(job.untuned),
        "untuned_s": job.untuned_s,
        "choice": job.choice and list(job.choice),
        "choice_s": job.choice_s,
        "gain": gain,
        "wrong": [list(way) for way in job.wrong],
    }


# ---------------------------------------------------------------- measuring


def candidates(n: int) -> list[Way]:
    """What can be chosen on n threads; the untuned choice comes first."""
    fewer = [1 << k for k in range(n.bit_length()) if 1 << k < n]
    return [Way("native", n), Way("numpy", 0), *(Way("native", k) for k in fewer)]


def _measure(job: Job, n: int, seconds: float, over: Callable[[], bool]) -> float:
    """Find the choice for one job in about `seconds`; returns the seconds of the first calls of all candidates."""
    t, began = job.tunable, time.perf_counter()
    op: Any = operations()[t.op]
    rng = np.random.default_rng(0)
    args = t.make(lambda *shape: rng.standard_normal(shape, np.float32), 1 << job.size)
    size = wisdom.size(t, args).bit_length() - 1
    default, *others = candidates(n)
    job.untuned = default
    ways: dict[Way, Callable[[], Any]] = {}
    plain = untuned(op.bodies)
    ordered = list(args) == list(op.numpy.__code__.co_varnames[: len(args)])

    def fresh() -> dict[str, Any]:
        return {k: v.copy() if k in op.inplace and v is not None else v for k, v in args.items()}

    def outcome(body: Callable[..., Any]) -> tuple[Any, ...]:
        given = fresh()
        result = body(**given)
        outs = () if result is None else result if isinstance(result, tuple) else (result,)
        return tuple(x for x in (*outs, *(given[k] for k in op.inplace if k in given)) if x is not None)

    with np.errstate(all="ignore"):
        expected = outcome(op.bodies["numpy"])
        first: dict[Way, float] = {}

        def enter(way: Way) -> bool:
            """Call it for the first time; it becomes one of `ways` if its results are right."""
            body = plain if way == default else wisdom.chooser(t, {(n, size): way}, op.bodies)
            calling = time.perf_counter()
            results = outcome(body)
            first[way] = time.perf_counter() - calling
            if not agree(results, expected):
                job.wrong.append(way)
                return False
            # by position where that can be, as most callers give them
            given = fresh()
            ways[way] = functools.partial(body, *given.values()) if ordered else functools.partial(body, **given)
            return True

        for way in (default, *others):
            enter(way)
        spent = time.perf_counter() - began
        if default not in ways:
            job.state = "wrong"
            return spent
        for way in others:
            if way in ways and first[way] > HOPELESS * max(first[default], SAMPLE):
                del ways[way]
        loops, cost = {}, {}
        for way, f in ways.items():
            once = min(first[way], _once(f))
            loops[way] = max(1, math.ceil(SAMPLE / max(once, 1e-9)))
            cost[way] = (loops[way] + 1) * once
        if 3 * sum(cost.values()) + 2 * TURNS * cost[default] > seconds:
            return spent
        winner, times = _rounds(ways, loops, default, over)
        left = seconds - (time.perf_counter() - began) - 2 * TURNS * cost[default]
        usual = statistics.median(times[winner])
        for name, parameter in t.parameters().items() if winner.body == "native" and usual >= WORTH else ():
            others_now = [v for v in parameter.values if v != parameter.default]
            left -= (len(others_now) + 1) * 4 * max(SAMPLE, 2 * usual)  # losers stop after three rounds
            if left < 0 or over():
                break
            rivals = [winner]
            for value in others_now:
                way = winner._replace(parameters=tuple(sorted({**dict(winner.parameters), name: value}.items())))
                if enter(way):
                    loops[way] = loops[winner]
                    rivals.append(way)
            winner, _ = _rounds({w: ways[w] for w in rivals}, loops, winner, over)
        beaten = None
        if winner != default:
            beaten = _duel(ways[winner], ways[default], loops[winner], loops[default], over)
        if over():
            return spent
        job.state, job.untuned_s = "stays", statistics.median(times[default])
        if beaten is not None:
            job.state, job.choice, (job.choice_s, job.untuned_s) = "changed", winner, beaten
    return spent


def _once(f: Callable[[], Any]) -> float:
    started = time.perf_counter()
    f()
    return time.perf_counter() - started


def _turn(f: Callable[[], Any], loops: int) -> float:
    """Seconds of a call."""
    f()
    started = time.perf_counter()
    for _ in range(loops):
        f()
    return (time.perf_counter() - started) / loops


def _rounds(
    ways: Mapping[Way, Callable[[], Any]], loops: Mapping[Way, int], default: Way, over: Callable[[], bool]
) -> tuple[Way, dict[Way, list[float]]]:
    """The fastest, and all times."""
    times: dict[Way, list[float]] = {way: [] for way in ways}
    racing = list(ways)
    for turn in range(ROUNDS):
        for way in racing[turn % len(racing) :] + racing[: turn % len(racing)]:
            times[way].append(_turn(ways[way], loops[way]))
        if over() or racing == [default]:
            break
        if turn >= 2:
            leader = min(statistics.median(times[way]) for way in racing)
            racing = [way for way in racing if way == default or min(times[way]) <= leader]
    return min(racing, key=lambda way: statistics.median(times[way])), times


def _duel(
    ours: Callable[[], Any], theirs: Callable[[], Any], a: int, b: int, over: Callable[[], bool]
) -> tuple[float, float] | None:
    """The medians of both where `ours` is faster than `theirs` beyond the noise."""
    mine: list[float] = []
    other: list[float] = []
    wins, losses = 0, 0
    while len(mine) < TURNS and losses <= TURNS - needed(TURNS, CHANCE) and not over():
        if len(mine) % 2:
            x, y = _turn(ours, a), _turn(theirs, b)
        else:
            y, x = _turn(theirs, b), _turn(ours, a)
        mine.append(x)
        other.append(y)
        wins, losses = wins + (x < (1 - MARGIN) * y), losses + (x >= (1 - MARGIN) * y)
    if wins < needed(TURNS, CHANCE):
        return None
    return statistics.median(mine), statistics.median(other)


# ---------------------------------------------------------------- telling


def _name(way: Sequence[Any]) -> str:
    return "NumPy" if way[0] == "numpy" else f"C x{way[1]}{' *' if len(way) > 2 and way[2] else ''}"


def _with(rows: Sequence[tuple[str, int, Sequence[Any]]]) -> list[str]:
    """A paragraph on the parameters of those choices that have some."""
    told = [
        f"{op} 2^{size}: " + ", ".join(f"{name.removesuffix('_f32')} {value}" for name, value in way[2])
        for op, size, way in rows
        if len(way) > 2 and way[2]
    ]
    return [paragraph(f"* with parameters: {'; '.join(told)}.")] if told else []


def _compared(rows: Sequence[tuple[str, int, Sequence[Any], float, Sequence[Any], float]]) -> str:
    """Untuned against tuned, within 80 columns: the middle of a long name gives way."""
    body = [
        (
            op if len(op) <= NAME else f"{op[: NAME // 2]}…{op[-(NAME // 2) :]}",
            f"2^{size}",
            _name(was),
            short(was_s),
            _name(now),
            short(now_s),
            f"{was_s / max(now_s, 1e-12):.2f}x",
        )
        for op, size, was, was_s, now, now_s in rows
    ]
    return table(("operation", "size", "untuned", "time", "tuned", "time", "gain"), body, right=(1, 3, 5, 6))


def report(outcome: Mapping[str, Any]) -> str:
    """What was tuned, as text: what changed, before and after; how many did not; where it is."""
    rows, n, m = outcome["rows"], outcome["threads"], outcome["machine"]
    changed = sorted((r for r in rows if r["state"] == "changed"), key=lambda r: (r["operation"], r["size"]))
    lines = [f"{m['cpu']}, {n} thread{'s' * (n != 1)}, C core {m['core']}, float32", ""]
    if changed:
        keys = ("operation", "size", "untuned", "untuned_s", "choice", "choice_s")
        lines += [_compared([tuple(r[k] for k in keys) for r in changed]), ""]
        lines += _with([(r["operation"], r["size"], r["choice"]) for r in changed])
    count = {s: sum(r["state"] == s for r in rows) for s in ("changed", "stays", "no time", "wrong")}
    k = len({r["operation"] for r in rows})
    told = f"{len(rows)} sizes of {k} operation{'s' * (k != 1)} in {duration(outcome['seconds'])}: "
    told += f"{count['changed']} faster with another choice, {count['stays']} best as they are"
    if count["no time"]:
        why = "before it was stopped" if outcome["interrupted"] else "in the budget (--budget gives more)"
        told += f", {count['no time']} not measured {why}"
    lines.append(paragraph(f"{told}."))
    if changed:
        lines.append(
            paragraph(
                "size: elements of the data, or multiplications of a matrix product. C x2: the C core on 2 threads. "
                f"Medians; each choice was faster by {100 * MARGIN:.0f} % in {needed(TURNS, CHANCE)} or more of "
                f"{TURNS} fresh turns against the untuned one, with the same results."
            )
        )
    load = outcome["load_before"]
    if load is not None and load > 0.3 * m["cores"]:
        told = f"Other work was running (load {load:.1f} on {m['cores']} cores): tune again when the machine is quiet."
        lines.append(paragraph(told))
    lines.append(paragraph(f"In force from now on, for {n} thread{'s' * (n != 1)}: {outcome['file']}"))
    for r in rows:
        for way in r["wrong"]:
            lines.append(f"WRONG: {r['operation']} 2^{r['size']}: {_name(way)} has other results than NumPy")
    return "\n".join(lines)


def age(seconds: float) -> str:
    """A time that has passed, roughly: 5 minutes, 3 hours, 12 days."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            k = int(seconds // length)
            return f"{k} {unit}{'s' * (k != 1)}"
    return "less than a minute"


def state(threads: int | None = None) -> dict[str, Any]:
    """The wisdom in force here, as data: the file, the choices, when the last one was learned."""
    path, n = wisdom.file(), threads or get_num_threads()
    wisdom.load()
    entries = [(op, c, e) for op, sizes in sorted(wisdom.in_force(n).items()) for c, e in sorted(sizes.items())]
    newest = max((e.when for _, _, e in entries), default=None)
    return {
        "file": path,
        "exists": path is not None and os.path.isfile(path),
        "threads": n,
        "machine": wisdom.machine_key(),
        "measured": len(entries),
        "choices": [{"operation": op, "size": c, **e._asdict()} for op, c, e in entries if e.body != "default"],
        "age_s": None if newest is None else max(0.0, time.time() - newest),
        "hash": wisdom.fingerprint(n),
    }


def summary(found: Mapping[str, Any]) -> str:
    """The state in one sentence."""
    path, n = found["file"], found["threads"]
    on = f"{n} thread{'s' * (n != 1)}"
    if path is None:
        return "switched off by REFIMPL_WISDOM=off"
    if not found["exists"]:
        return "none (to find the fastest body of each operation here: refimpl tune)"
    if not found["measured"]:
        return f"nothing about this machine, these versions and {on} (to learn it: refimpl tune) in {path}"
    k = len(found["choices"])
    return (
        f"{k} choice{'s' * (k != 1)} in force for {on} ({found['measured']} sizes measured), "
        f"learned {age(found['age_s'])} ago, from {path}"
    )


def _way(choice: Mapping[str, Any]) -> Way:
    return Way(choice["body"], choice["threads"], choice["parameters"])


def show(found: Mapping[str, Any]) -> str:
    """What is in force, as text."""
    lines = [paragraph(f"Wisdom: {summary(found)}")]
    if found["choices"]:
        n = found["threads"]
        rows = [
            (c["operation"], c["size"], Way("native", n), c["default_seconds"], _way(c), c["seconds"])
            for c in found["choices"]
        ]
        lines += ["", _compared(rows), *_with([(c["operation"], c["size"], _way(c)) for c in found["choices"]])]
        lines += ["", f"for {found['machine']}"]
    return "\n".join(lines)
