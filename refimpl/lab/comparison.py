"""`refimpl compare`: rules that train one common network, on the same data with the same budget.

Every rule trains the same multilayer perceptron for the same number of passes. Its learning rate is the best of a few
on a tenth of the training data that is held out (one seed, the same budget for each rule); then it trains on all of it
with every seed and is scored on the test set. All on one thread:

    seconds   processor time of training, a pass over the data: not the clock, which other work on the machine slows
    memory    the most that arrays held at once during one step on 512 samples, beyond what was there when it began
              (weights, gradients and optimiser state exist from the beginning and do not count); scratch memory inside
              the C core is not seen

A measurement is stored the moment it is done, so the same command goes on after an interruption.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refimpl import methods
from refimpl._version import __version__
from refimpl.backends import get_backend
from refimpl.baselines.rules import rules as baselines
from refimpl.data import Data, Dataset
from refimpl.lab import files
from refimpl.lab.errors import UsageError
from refimpl.lab.machine import core, limited_threads, machine
from refimpl.lab.progress import Bar
from refimpl.lab.text import paragraph
from refimpl.record import Common, Rule

__all__ = ["collect", "compare", "report"]

FORMAT = "refimpl comparison 1"
STEP = 512  # samples of the step whose memory is measured


def collect(common: Common) -> list[Rule]:
    """The baselines' rules, then those of every method that has some."""
    found = list(baselines(common))
    for slug in methods.slugs():
        make = getattr(methods.module(slug), "rules", None)
        found += make(common) if make is not None else []
    return found


def _held_out(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows for training and rows for choosing, a tenth of all; the same for every rule and seed."""
    order = np.random.default_rng(0).permutation(n)
    return np.sort(order[n // 10 :]), np.sort(order[: n // 10])


def _fit(rule: Rule, rate: float, seed: int, x: np.ndarray, y: np.ndarray, tell: Callable[[float], None]) -> tuple:
    """A fitted learner, and the processor seconds of its units of training."""
    learner = rule.make(rate, seed)
    learner.begin(x, y)
    seconds, units = 0.0, learner.total_
    for unit in range(units):
        started = time.process_time()
        learner.advance()
        seconds += time.process_time() - started
        tell((unit + 1) / units)
    learner.finish()
    return learner, seconds


def _score(learner: Any, x: np.ndarray, y: np.ndarray) -> float:
    return float(learner.score(x, y))


def _step_bytes(rule: Rule, rate: float, x: np.ndarray, y: np.ndarray) -> int:
    """The most that arrays of one step on STEP samples hold at once, beyond what was there before it."""
    few = np.resize(np.arange(len(y)), STEP)
    learner = rule.make(rate, 0)
    learner.set_params(batch_size=STEP, epochs=2)
    learner.begin(x[few], y[few])
    learner.advance()  # what exists from the first step on is no cost of a step
    tracemalloc.start()
    try:
        learner.advance()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _measure(rule: Rule, kind: str, number: Any, data: Data, best: float, tell: Callable[[float], None]) -> Any:
    x, y = (np.asarray(a) for a in data.train)
    x = x.reshape(len(x), -1)
    if kind == "memory":
        return _step_bytes(rule, best, x, y)
    if kind == "rate":
        train, held = _held_out(len(y))
        learner, _ = _fit(rule, number, 0, x[train], y[train], tell)
        return _score(learner, x[held], y[held])
    learner, seconds = _fit(rule, best, number, x, y, tell)
    x_test, y_test = (np.asarray(a) for a in data.test)
    return {"score": _score(learner, x_test.reshape(len(x_test), -1), y_test), "seconds": seconds}


def compare(
    data: Dataset,
    seeds: int,
    out: Path,
    common: Common | None = None,
    only: Sequence[str] = (),
    show: bool = True,
) -> dict[str, Any]:
    """Measure all rules (or those named in `only`) and return the comparison, also written to out/comparison.json.

    Raises UsageError for a name that no rule has.
    """
    common = Common() if common is None else common
    rules = collect(common)
    unknown = [name for name in only if name not in [r.name for r in rules]]
    if unknown:
        raise UsageError(f"no rule {unknown[0]!r}, expected some of: {', '.join(r.name for r in rules)}")
    rules = [r for r in rules if not only or r.name in only]
    files.make_folder(out)
    with files.lock(out), limited_threads(1):
        store = out / "measurements.jsonl"
        known = {files.dumps(e["key"]): e["value"] for e in files.read_lines(store) if "key" in e}
        total = sum(len(r.rates) + seeds + 1 for r in rules)
        position, found = 0, []
        with Bar(total, show=show) as bar:

            def take(rule: Rule, kind: str, number: Any, best: float = 0.0) -> Any:
                nonlocal position
                setting = [common.hidden, common.epochs, common.batch_size]
                key = [
                    rule.name,
                    kind,
                    number,
                    best,
                    data.name,
                    data.sizes,
                    setting,
                    get_backend(),
                    core(),
                    __version__,
                ]
                written = files.dumps(key)
                at, position = position, position + 1
                bar.at(at, f"{rule.name}: {kind} {'' if number is None else number}".rstrip())
                if written not in known:
                    value = _measure(rule, kind, number, data, best, lambda part: bar.at(at + part))
                    files.append_line(store, {"key": key, "value": value})
                    known[written] = value
                bar.at(position)
                return known[written]

            for rule in rules:
                held_out = {rate: take(rule, "rate", rate) for rate in rule.rates}
                best = max(rule.rates, key=lambda rate: held_out[rate])
                runs = [take(rule, "seed", seed, best) for seed in range(seeds)]
                found.append(
                    {
                        "name": rule.name,
                        "role": rule.role,
                        "signals": list(rule.signals),
                        "note": rule.note,
                        "rate": best,
                        "held_out": [{"rate": rate, "score": score} for rate, score in held_out.items()],
                        "scores": [run["score"] for run in runs],
                        "seconds": [run["seconds"] / max(1, common.epochs) for run in runs],
                        "step_bytes": take(rule, "memory", None, best),
                    }
                )
    outcome = {
        "format": FORMAT,
        "data": data.name,
        "sizes": data.sizes,
        "seeds": seeds,
        "network": {"hidden": list(common.hidden), "epochs": common.epochs, "batch_size": common.batch_size},
        "step_samples": STEP,
        "backend": core(),
        "machine": machine(),
        "version": __version__,
        "rules": found,
    }
    files.write_json(out / "comparison.json", files.plain(outcome))
    return outcome


def report(outcome: dict[str, Any]) -> str:
    """The comparison as a table for the terminal, the best test accuracy first."""
    rules = sorted(outcome["rules"], key=lambda r: -float(np.mean(r["scores"])))
    width = max(len(r["name"]) for r in rules)
    lines = [f"{'rule':<{width}}  test accuracy     s a pass   MB a step   rate    what an update sees"]
    for r in rules:
        mean, sd = 100 * float(np.mean(r["scores"])), 100 * float(np.std(r["scores"]))
        cost = f"{float(np.median(r['seconds'])):8.2f}   {r['step_bytes'] / 1e6:9.1f}"
        told = f"{mean:6.1f} % ± {sd:3.1f}    {cost}   {r['rate']:<7g} {', '.join(r['signals']) or 'nothing'}"
        lines.append(f"{r['name']:<{width}}  {told}")
    network = "-".join(map(str, outcome["network"]["hidden"]))
    budget = f"{outcome['network']['epochs']} passes in batches of {outcome['network']['batch_size']}"
    lines += [
        "",
        paragraph(
            f"Hidden layers of {network} on {outcome['data']}, {budget}, seeds 0 to {outcome['seeds'] - 1} (± is their "
            f"deviation), one thread; memory of a step on {outcome['step_samples']} samples."
        ),
    ]
    return "\n".join(lines)
