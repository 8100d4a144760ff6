"""`refimpl bench`: the bodies of an operation, or of a training step, raced against each other and the machine.

All in one process, on the same arrays and the same number of threads. Results are compared before anything is timed.
The racers take turns (a machine that slows down slows all of them), each turn of one is preceded by an untimed call
that fills its caches, and the median over turns is what counts; the interquartile range says how far to trust it.
The C core runs in an arena, as it does in every training loop of this library; NumPy and PyTorch have their own memory.

The machine's limits are measured in the same run. Bandwidth: np.copyto between arrays that together take as many bytes
as the operation moves at least (so a working set that fits the caches is held to the caches' bandwidth), on as many
threads. Compute: the fastest float32 matrix product (also inside linear and LSTM) that any racer showed in this run;
no separate probe of the multipliers confirms it. The limit of a case is the longer of flops / compute and
bytes / bandwidth; `limit_fraction` is that time over the time of the C core (of NumPy where there is no C body).
"""

from __future__ import annotations

import functools
import gc
import importlib
import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refimpl import methods
from refimpl._names import expected
from refimpl._version import __version__
from refimpl.backends import arena, backend, get_num_threads, operations, wisdom
from refimpl.lab import files
from refimpl.lab.cases import CASES, Case
from refimpl.lab.errors import RunError, UsageError
from refimpl.lab.machine import core, limited_threads, machine, need, package_version
from refimpl.lab.progress import Bar
from refimpl.lab.steps import steps as STEPS
from refimpl.lab.text import short, table, width

__all__ = ["Timing", "agree", "check_plot", "plot", "race", "report", "run"]

TOLERANCE = 1e-4  # of the largest entry: float32 sums of some thousand terms in different orders
BUDGET = 0.25  # seconds for each racer of a case
SAMPLE = 0.002  # seconds of one turn, at least
SLOW = 1.0  # seconds of a call that needs no warm caches: three turns, each one call
# Not convolutions: PyTorch may do them with fewer multiplications than are counted, and seem faster than the machine.
_PRODUCTS = ("matmul", "linear", "linear_backward", "dense", "dense_backward", "lstm_sequence")
OVERHEAD_BUDGET = 1.5e-6  # seconds that a call of an operation may cost over a call of its body


class Timing(NamedTuple):
    """Seconds of one call: the median over turns, the interquartile range, the best turn."""

    seconds: float
    iqr: float
    best: float


def race(racers: Mapping[str, Callable[[], Any]], contexts: Mapping[str, str] | None = None) -> dict[str, Timing]:
    """Time functions in turns; `contexts` names the backend that a racer runs in."""
    contexts = contexts or {}
    loops, slow = {}, False
    for name, f in racers.items():
        with _in(contexts.get(name)):
            f()
            started = time.perf_counter()
            f()
            once = time.perf_counter() - started
        loops[name] = max(1, math.ceil(SAMPLE / max(once, 1e-9)))
        slow = slow or once > SLOW
    samples: dict[str, list[float]] = {name: [] for name in racers}
    names = list(racers)
    collecting = gc.isenabled()
    gc.disable()
    try:
        started, turn = time.perf_counter(), 0
        while turn < (3 if slow else 5) or (turn < 50 and time.perf_counter() - started < BUDGET * len(racers)):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                f, n = racers[name], loops[name]
                with _in(contexts.get(name)):
                    if not slow:
                        f()
                    t = time.perf_counter()
                    for _ in range(n):
                        f()
                    samples[name].append((time.perf_counter() - t) / n)
            turn += 1
    finally:
        if collecting:
            gc.enable()
    return {name: _summary(times) for name, times in samples.items()}


@contextmanager
def _in(name: str | None) -> Iterator[None]:
    with nullcontext() if name is None else backend(name), arena() if name == "native" else nullcontext():
        yield


def _summary(times: list[float]) -> Timing:
    low, middle, high = statistics.quantiles(times, n=4)
    return Timing(middle, high - low, min(times))


# ---------------------------------------------------------------- limits


class Limits:
    """Copy bandwidth by size of the working set, and the fastest matrix product seen."""

    def __init__(self, threads: int):
        self.threads = threads
        self.flops = 0.0
        self._bandwidth: dict[int, float] = {}
        a = np.ones((1024, 1024), np.float32)
        out = np.empty_like(a)
        products: list[Callable[[], Any]] = [lambda: np.matmul(a, a, out=out)]
        ours: Any = operations().get("matmul")
        if ours is not None and "native" in ours.bodies:
            products.append(lambda: ours.bodies["native"](a, a, out=out))
        self.saw(2.0 * 1024**3 / min(_once(f) for _ in range(8) for f in products))

    def saw(self, flops: float) -> None:
        """Some racer multiplied matrices at this rate."""
        self.flops = max(self.flops, flops)

    def bandwidth(self, n: float) -> float:
        """Bytes a second that a copy moves (reads and writes counted) when both arrays together take n bytes."""
        size = max(12, min(28, round(math.log2(max(1.0, n)))))  # 4 kB to 256 MB
        if size not in self._bandwidth:
            self._bandwidth[size] = self._measure(1 << size)
        return self._bandwidth[size]

    def _measure(self, n: int) -> float:
        source, target = np.ones(n // 2, np.uint8), np.zeros(n // 2, np.uint8)
        repeat = max(1, (1 << 24) // n)

        def copy(part: slice) -> None:
            for _ in range(repeat):
                np.copyto(target[part], source[part])

        edges = [n // 2 * i // self.threads for i in range(self.threads + 1)]
        parts = [slice(a, b) for a, b in itertools.pairwise(edges)]
        best = min(_once(lambda: copy(slice(None))) for _ in range(5))
        if self.threads > 1:
            with ThreadPoolExecutor(self.threads) as pool:
                best = min([best, *(_once(lambda: list(pool.map(copy, parts))) for _ in range(5))])
        return n * repeat / best


def _once(f: Callable[[], Any]) -> float:
    started = time.perf_counter()
    f()
    return time.perf_counter() - started


def overhead() -> tuple[float, float]:
    """Seconds that calling an operation costs over calling its body: in dispatch, and where wisdom decides besides
    (on fewer threads than are set, the longest way). relu of one number."""
    relu: Any = operations()["relu"]
    body = relu.table["native"]
    x = np.ones(1, np.float32)
    declared = wisdom.Tunable("relu", "x", None, lambda normal, n: {}, (0,))
    decides = wisdom.chooser(
        declared, {(get_num_threads(), 0): wisdom.Way("native", -1)}, {**relu.bodies, "native": body}
    )
    with backend("native"):
        return _extra(relu, body, x), _extra(decides, body, x)


def _extra(way: Callable[[Any], Any], body: Callable[[Any], Any], x: np.ndarray) -> float:
    def through() -> None:
        for _ in range(1000):
            way(x)

    def direct() -> None:
        for _ in range(1000):
            body(x)

    # the best of many turns: other work on the machine can only add to what is measured
    pairs = [(_once(through), _once(direct)) for _ in range(40)]
    return (min(a for a, _ in pairs) - min(b for _, b in pairs)) / 1000


# ---------------------------------------------------------------- the races


def _short(name: str) -> str:
    """What a network is called on the command line: "gpt" for "GPT, 4 layers of 256"."""
    return name.replace(",", "").split()[0].lower()


def run(
    kinds: Sequence[str],
    names: Sequence[str] = (),
    against: str | None = None,
    threads: int | None = None,
    show: bool = True,
) -> dict[str, Any]:
    """Race operations ("ops"), training steps of ordinary networks ("steps") and of methods ("methods"); `names` picks
    some. Returns rows and the limits.

    Raises UsageError for an unknown name, RunError where PyTorch is asked for and not installed.
    """
    torch: Any = None
    if against == "torch":
        try:
            torch = importlib.import_module("torch")
        except ImportError:
            raise RunError("PyTorch is not installed: pip install torch, or leave out --against torch") from None
    chosen = [c for c in CASES if "ops" in kinds and c.op in operations() and (not names or c.op in names)]
    slugs = [s for s in methods.slugs() if "methods" in kinds and (not names or s in names)]
    networks = {_short(s.name): s.name for s in STEPS()} if "steps" in kinds else {}
    known = {c.op for c in CASES if "ops" in kinds} | set(networks)
    known |= set(methods.slugs()) if "methods" in kinds else set()
    for name in names:
        if name not in known:
            raise UsageError(f"bench: nothing to race is named {name!r}, {expected(name, sorted(known))}")
        if name not in operations() and name not in slugs and name not in networks:
            raise UsageError(f"bench: {name} is not among the operations of this version")
    steps = [("", s) for s in STEPS() if "steps" in kinds and (not names or _short(s.name) in names)]
    steps += [(slug, step) for slug in slugs for step in getattr(methods.module(slug), "race", list)()]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with ExitStack() as stack:
        n = stack.enter_context(limited_threads(threads))
        if torch is not None:
            before = torch.get_num_threads()
            torch.set_num_threads(n)
            stack.callback(torch.set_num_threads, before)
            stack.enter_context(torch.no_grad())
        bar = stack.enter_context(Bar(len(chosen) + len(steps), show=show))
        limits, rows = Limits(n), []
        for i, case in enumerate(chosen):
            bar.at(i, f"{case.op} {case.shape}")
            rows.append(_race_case(case, limits, torch, n))
        for i, (slug, step) in enumerate(steps):
            bar.at(len(chosen) + i, f"{slug} {step.name}".strip())
            rows.append(_race_step(slug, step, torch, n))
        for row in rows:
            _judge(row, limits)
        overheads = overhead()
        return {
            "version": __version__,
            "machine": {**machine(), "core": core()},
            "date": datetime.now(timezone.utc).date().isoformat(),
            "threads": n,
            "blas_limited": package_version("threadpoolctl") is not None,
            "load_before": load,
            "torch": None if torch is None else str(torch.__version__),
            "tolerance": TOLERANCE,
            "limits": {
                "gflops": limits.flops / 1e9,
                "gflops_from": "fastest float32 matrix product of this run",
                "copy_gbps": limits.bandwidth(1 << 28) / 1e9,
                "copy_gbps_from": "np.copyto, 256 MB, reads and writes counted",
            },
            "dispatch_overhead_s": overheads[0],
            "wisdom_overhead_s": overheads[1],
            "dispatch_budget_s": OVERHEAD_BUDGET,
            "rows": rows,
        }


def _row(kind: str, name: str, shape: str, dtype: str, threads: int, timings: Mapping[str, Timing]) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": kind, "name": name, "shape": shape, "dtype": dtype, "threads": threads}
    for racer in ("numpy", "native", "torch"):
        timing = timings.get(racer)
        row[f"{racer}_s"] = timing and timing.seconds
        row[f"{racer}_iqr_s"] = timing and timing.iqr
        row[f"{racer}_best_s"] = timing and timing.best
    return row


def _race_case(case: Case, limits: Limits, torch: Any, threads: int) -> dict[str, Any]:
    op: Any = operations()[case.op]
    rng = np.random.default_rng(0)
    args = case.make(lambda *shape: rng.standard_normal(shape, np.float32))

    def fresh() -> dict[str, Any]:
        return {k: v.copy() if k in op.inplace and v is not None else v for k, v in args.items()}

    def call(body: Callable[..., Any], copy: bool) -> tuple:
        given = fresh() if copy else dict(args)
        result = body(**given)
        outs = () if result is None else result if isinstance(result, tuple) else (result,)
        return tuple(given[k] for k in op.inplace if given.get(k) is not None) or outs

    expected = call(op.numpy, copy=True)
    least = sum(a.nbytes for a in args.values() if isinstance(a, np.ndarray))
    least += sum(np.asarray(a).nbytes for a in expected)
    racers: dict[str, Callable[[], Any]] = {}
    wrong = []
    for name in ("numpy", "native"):
        body = op.bodies.get(name)
        if body is None:
            continue
        if not agree(call(body, copy=True), expected):
            wrong.append(name)
        with _in(name):  # arrays that lie as those of a training loop on this backend
            mine = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in args.items()}
        racers[name] = functools.partial(body, **mine)
    if torch is not None and case.torch is not None:
        tensors = {k: torch.from_numpy(v).clone() if isinstance(v, np.ndarray) else v for k, v in args.items()}
        f = case.torch(torch, tensors)
        result = f()
        outs = result if isinstance(result, tuple | list) else (result,)
        if not agree([o.detach().numpy() for o in outs], expected[: len(outs)]):
            wrong.append("torch")
        racers["torch"] = f
    timings = race(racers, {"native": "native"})
    if case.op in _PRODUCTS:
        for timing in timings.values():
            limits.saw(case.flops / timing.best)
    row = _row("operation", case.op, case.shape, "float32", threads, timings)
    note = f"other results than NumPy: {', '.join(wrong)}" if wrong else ""
    return {**row, "flops": case.flops, "bytes": least, "correct": not wrong, "note": note}


def agree(got: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Equal within TOLERANCE of the largest entry, result by result."""
    if len(got) != len(expected):
        return False
    for g, e in zip(map(np.asarray, got), map(np.asarray, expected)):
        if g.shape != e.shape or not np.allclose(g, e, rtol=0, atol=TOLERANCE * max(1e-30, float(np.abs(e).max()))):
            return False
    return True


def _race_step(slug: str, step: Any, torch: Any, threads: int) -> dict[str, Any]:
    racers, first = {}, {}
    for name in ("numpy", "native"):
        if name == "native" and core() == "none":
            continue
        with backend(name):
            racers[name] = step.make()
            first[name] = racers[name]()
    numbers = {k: v for k, v in first.items() if isinstance(v, int | float | np.number | np.ndarray)}
    correct = agree([numbers["native"]], [numbers["numpy"]]) if len(numbers) == 2 else None
    if torch is not None and step.make_torch is not None:
        with torch.enable_grad():
            made = step.make_torch(torch)

        if not slug and correct is not False:  # a network starts from the same weights there
            with torch.enable_grad():
                correct = agree([made()], [numbers["numpy"]])

        def torch_step() -> Any:
            with torch.enable_grad():
                return made()

        racers["torch"] = torch_step
    timings = race(racers, {"numpy": "numpy", "native": "native"})
    name = step.name if step.name.startswith(slug) else f"{slug} {step.name}"
    row = _row("method" if slug else "step", name, step.shape, step.dtype, threads, timings)
    note = "" if correct is not None else "the step returns no number to compare"
    return {**row, "flops": step.flops, "bytes": None, "correct": correct, "note": note}


def _judge(row: dict[str, Any], limits: Limits) -> None:
    """Rates, and the fraction of the machine's limit."""
    seconds = row["native_s"] or row["numpy_s"]
    row["gflops"] = row["flops"] / seconds / 1e9 if row["flops"] else None
    row["gbps"] = row["bytes"] / seconds / 1e9 if row["bytes"] else None
    least = (row["flops"] or 0) / limits.flops
    if row["bytes"]:
        row["limit_gbps"] = limits.bandwidth(row["bytes"]) / 1e9
        least = max(least, row["bytes"] / limits.bandwidth(row["bytes"]))
    row["limit_fraction"] = least / seconds if row["flops"] or row["bytes"] else None


# ---------------------------------------------------------------- telling


def report(outcome: Mapping[str, Any]) -> str:
    """The race as text."""
    against, rows = outcome["torch"] is not None, outcome["rows"]
    head = ["what", "shape", "NumPy", "C"] + ["torch"] * against + ["NumPy/C"] + ["torch/C"] * against + ["limit"]
    body = []
    for r in rows:
        line = [r["name"], r["shape"], short(r["numpy_s"]), short(r["native_s"])]
        line += [short(r["torch_s"])] * against
        line += [_ratio(r["numpy_s"], r["native_s"])] + [_ratio(r["torch_s"], r["native_s"])] * against
        line.append("-" if r["limit_fraction"] is None else f"{100 * r['limit_fraction']:.0f}%")
        body.append(line)
    text = table(head, body, right=range(2, len(head)))
    if len(text.splitlines()[1]) > width():  # narrow terminal: the last column stays in the JSON
        text = table(head[:-1], [line[:-1] for line in body], right=range(2, len(head)))
    m, limits, threads = outcome["machine"], outcome["limits"], outcome["threads"]
    lines = [
        f"{m['cpu']}, {threads} thread{'s' * (threads != 1)}, C core {m['core']}, float32"
        + (f", PyTorch {outcome['torch']}" if against else ""),
        f"Limits: {limits['gflops']:.0f} GFLOP/s ({limits['gflops_from']}),\n"
        f"        {limits['copy_gbps']:.1f} GB/s (copy, 256 MB)",
        "",
        text,
        "",
        "Medians of turns. NumPy/C 2.0: the C core takes half the time. limit: the share",
        f"of what the machine allows. Results agree within {TOLERANCE:g} of the largest entry.",
    ]
    load = outcome["load_before"]
    if load is not None and load > 0.3 * m["cores"]:
        lines.append(f"Other work was running (load {load:.1f} on {m['cores']} cores): these times say little.")
    if not outcome["blas_limited"]:
        lines.append("NumPy's BLAS chose its own threads (pip install threadpoolctl to hold it to the same number).")
    over, tuned, budget = (outcome[f"{k}_s"] * 1e6 for k in ("dispatch_overhead", "wisdom_overhead", "dispatch_budget"))
    lines.append(f"A call through the dispatcher costs {over:.2f} µs over its body (budget {budget:.1f} µs),")
    lines.append(f"{tuned:.2f} µs more where wisdom decides.")
    lines += [f"WRONG: {r['name']} {r['shape']}: {r['note']}" for r in rows if r["correct"] is False]
    return "\n".join(lines)


def _ratio(slow: float | None, fast: float | None) -> str:
    return "-" if not slow or not fast else f"{slow / fast:.{1 if slow / fast < 99.5 else 0}f}"


def check_plot(path: Path) -> None:
    """Raise, before the race, what would make `plot` fail after it."""
    need("matplotlib")
    if path.suffix.lower() != ".png":
        raise UsageError(f"--plot {path}: expected a name that ends in .png")


def plot(outcome: Mapping[str, Any], path: Path) -> None:
    """Draw the roofline chart of the operations into a PNG file."""
    from refimpl.lab import figures

    check_plot(path)
    rows = [r for r in outcome["rows"] if r["flops"] and r["bytes"]]
    if not rows:
        raise UsageError("--plot: the chart shows operations, and none was raced")
    size = figures.roofline_size(rows)
    files.write(path, figures.png(lambda figure: figures.roofline(figure, rows, outcome), *size))
