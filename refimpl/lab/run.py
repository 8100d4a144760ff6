"""`refimpl run`: train every contender of a method's experiment on the same data, tabulate, draw; killable, resumable.

A run is a folder:

    config.json                  what was asked for, and what the numbers depend on (versions, processor, data)
    metrics.jsonl                one line a unit of training
    checkpoints/<backend>-<i>    state of contender i: every few seconds while it trains, once more when it is done
    result.json, figure.png      the end

A checkpoint holds all that its contender needs: parameters, optimiser, random streams, seconds and memory so far, and
the result when it is done. Whatever kills the process, `resume` goes on from there to the same bits: it refuses to go
on where something the bits depend on has changed.

What a method's `experiment(data, seed, settings)` gets: the data set (a small part of it with --quick), the seed,
and a dictionary with what was given by --set (lists and tuples as tuples), and "quick": True with --quick. It raises
ValueError for a setting that it does not know.
"""

from __future__ import annotations

import functools
import hashlib
import math
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from refimpl import data as datasets
from refimpl import methods
from refimpl.backends import BACKENDS, available_backends, backend, get_num_threads, native, wisdom
from refimpl.backends.threads import MAX_THREADS
from refimpl.data import Data
from refimpl.lab import checkpoint, figures, files
from refimpl.lab.errors import Interrupted, RunError, UsageError, WriteError
from refimpl.lab.machine import core, limited_threads, machine, need, versions
from refimpl.lab.memory import Peak
from refimpl.lab.progress import Bar
from refimpl.lab.signals import Stop
from refimpl.lab.text import duration, memory, table
from refimpl.record import Contender, Experiment, Score

__all__ = ["Config", "fresh_folder", "report", "resume", "start"]

FORMAT = "refimpl run 1"
CHECKPOINT_SECONDS = 10.0


@dataclass(frozen=True)
class Config:
    """What a run is asked for. `backends`: one, or ("numpy", "native") to see both side by side."""

    slug: str
    data: str = ""  # the method's own default
    seed: int = 0
    backends: tuple[str, ...] = ("auto",)
    threads: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    quick: bool = False


# ---------------------------------------------------------------- starting and resuming


def fresh_folder(config: Config, parent: Path = Path("runs")) -> Path:
    """A folder that does not exist yet: runs/<slug>-<data>-<number>."""
    files.make_folder(parent)
    for number in range(1, 1_000_000):
        folder = parent / f"{config.slug}-{config.data}-{number:03d}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise files.explain(error, folder) from error
        return folder
    raise RunError(f"{parent}: a million runs are enough")


def start(config: Config, folder: Path | None = None, every: float | None = None, show: bool = True) -> dict:
    """Run an experiment in a new or empty folder (default: one of its own under runs/); returns the result.

    A checkpoint is stored every `every` (10) seconds, at the end of a unit. Raises UsageError, RunError, DataError, or
    Interrupted after a signal.
    """
    config = _with_data(config)
    data, make = _prepare(config)
    make()  # settings that do not exist are found before a folder is made
    if folder is None:
        folder = fresh_folder(config)
    else:
        files.make_folder(folder)
    with files.lock(folder):
        if (folder / "config.json").exists():
            raise RunError(f"{folder}: already holds a run; go on with --resume {folder}, or choose another --out")
        others = [entry.name for entry in folder.iterdir() if entry.name != ".lock"]
        if others:
            raise RunError(f"{folder}: not empty ({sorted(others)[0]}), expected a new or empty folder")
        stored = _describe(config, data)
        files.write_json(folder / "config.json", {**stored, "started": _now()})
        return _train(config, stored, data, make, folder, every, show)


def resume(folder: Path, given: Mapping[str, Any] | None = None, every: float | None = None, show: bool = True) -> dict:
    """Go on with the run in `folder`. `given` holds what the user asked for explicitly; it must be as in the run.

    Raises RunError that names every difference (options, version, processor, data, ...) in place of other bits.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder, expected the folder of a run")
    with files.lock(folder):
        stored = files.read_json(folder / "config.json", "the configuration of a run")
        try:
            if stored["format"] != FORMAT:
                raise RunError(f"{folder / 'config.json'}: format {stored['format']!r}, expected {FORMAT!r}")
            config = Config(
                slug=_kind(stored, "slug", str),
                data=_kind(stored, "data", str),
                seed=_kind(stored, "seed", int, 0),
                backends=tuple(_kind(stored, "backends", list)),
                threads=_kind(stored, "threads", int, 1, MAX_THREADS),
                settings=_kind(stored, "settings", dict),
                quick=_kind(stored, "quick", bool),
            )
            if not config.backends:
                raise ValueError("backends is []")
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{folder / 'config.json'}: not the configuration of a run ({error!r})") from None
        asked = {k: files.plain(v) for k, v in (given or {}).items()}
        _refuse(folder, [(k, stored.get(k), v) for k, v in asked.items()], "was asked for now")
        data, make = _prepare(config)
        stored.setdefault("wisdom", None)  # runs from before there was any
        now = _describe(config, data)
        _refuse(folder, [(k, _at(stored, k), _at(now, k)) for k in _DECISIVE], "is here now")
        return _train(config, stored, data, make, folder, every, show)


def _kind(stored: Any, key: str, kind: type, least: float = -math.inf, most: float = math.inf) -> Any:
    """An entry of a stored configuration. Raises TypeError or ValueError where it is not what a run stores there."""
    value: Any = stored[key]
    if type(value) is not kind:
        raise TypeError(f"{key} is {value!r}, expected {kind.__name__}")
    if isinstance(value, int) and not least <= value <= most:
        raise ValueError(f"{key} is {value}, expected {least} to {most}")
    return value


_DECISIVE = ("versions.refimpl", "versions.numpy", "core", "machine.cpu", "data_sha256", "threads", "wisdom")


def _at(tree: Mapping[str, Any], dotted: str) -> Any:
    for part in dotted.split("."):
        tree = tree.get(part, {}) if isinstance(tree, Mapping) else {}
    return tree


def _refuse(folder: Path, triples: list[tuple[str, Any, Any]], what: str) -> None:
    different = [f"{key} is {was!r} in the run, {now!r} {what}" for key, was, now in triples if was != now]
    if different:
        raise RunError(f"{folder}: cannot go on to the same bits: {'; '.join(different)}. Start a new run instead")


def _describe(config: Config, data: Data) -> dict[str, Any]:
    threads = get_num_threads() if config.threads is None else config.threads
    return {
        "format": FORMAT,
        "slug": config.slug,
        "data": config.data,
        "data_sha256": _fingerprint(data),
        "seed": config.seed,
        "backends": list(config.backends),
        "threads": threads,
        "wisdom": wisdom.fingerprint(threads) if "auto" in config.backends else None,
        "settings": files.plain(config.settings),
        "quick": config.quick,
        "versions": versions(),
        "core": core(),
        "machine": machine(),
    }


def _fingerprint(data: Data) -> str:
    state = hashlib.sha256()
    for a in data.arrays().values():
        state.update(f"{a.dtype.str} {a.shape}\n".encode())
        state.update(np.ascontiguousarray(a).data)
    return state.hexdigest()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _with_data(config: Config) -> Config:
    """The same with the name of a data set that the method can use."""
    try:
        known = methods.data(config.slug)
    except ValueError as error:
        raise UsageError(str(error)) from None
    name = config.data or known[0]
    if name not in known and name in datasets.names():
        raise UsageError(f"{config.slug} cannot use the data set {name!r}, expected one of {', '.join(known)}")
    return replace(config, data=name)


def _prepare(config: Config) -> tuple[Data, Callable[[], Experiment]]:
    """The data, and a function that makes the experiment with fresh learners."""
    need("safetensors", "matplotlib")
    for name in config.backends:
        if name not in BACKENDS:
            raise UsageError(f"no backend named {name!r}, expected one of {', '.join(BACKENDS)}")
        if name in ("native", "opencl") and name not in available_backends():
            why = native.why_not if name == "native" else "no operation has an OpenCL body in this version"
            raise RunError(f"backend {name} is not available: {why or 'see refimpl doctor'}")
    try:
        module = methods.module(config.slug)
        datasets.info(config.data)
    except ValueError as error:
        raise UsageError(str(error)) from None
    data = datasets.load(config.data)
    if config.quick:
        data = data.quick(config.seed)
    settings = {k: _tuples(v) for k, v in config.settings.items()}
    if config.quick:
        settings["quick"] = True

    def make() -> Experiment:
        try:
            return module.experiment(data, config.seed, settings)
        except ValueError as error:
            raise UsageError(str(error)) from None

    return data, make


def _tuples(value: Any) -> Any:
    """Lists of JSON as tuples: hyper-parameters are compared and hashed."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value


# ---------------------------------------------------------------- training


def _train(
    config: Config,
    stored: Mapping[str, Any],
    data: Data,
    make: Callable[[], Experiment],
    folder: Path,
    every: float | None,
    show: bool,
) -> dict[str, Any]:
    again = f"refimpl run {config.slug} --resume {shlex.quote(str(folder))}"
    every = CHECKPOINT_SECONDS if every is None else every
    files.make_folder(folder / "checkpoints")
    rows: list[dict[str, Any]] = []
    fitted: list[dict[str, Any]] = []
    try:
        experiment = make()
        names = [c.name for c in experiment.contenders]
        if len(set(names)) < len(names) or not names:
            raise ValueError(f"{config.slug}: contenders need names of their own, these are {names}")
        with (
            limited_threads(stored["threads"]),
            Stop() as stop,
            Bar(len(names) * len(config.backends), show=show) as bar,
        ):
            for name in config.backends:
                experiment = make() if rows else experiment
                fitted = []
                with backend(name):
                    for i, contender in enumerate(experiment.contenders):
                        job = _Job(
                            folder, name, i, contender, experiment.data, experiment.score, every, bar, len(rows), stop
                        )
                        result = job.run()
                        rows.append(result)
                        history = list(contender.learner.history_)
                        fitted.append({**result, "learner": contender.learner, "history": history})
        outcome = {
            **stored,
            "title": data.title,
            "sizes": experiment.data.sizes,
            "score": asdict(experiment.score),
            "finished": _now(),
            "results": rows,
            "folder": str(folder),
            "figure": None,
        }
        _store(folder, outcome)
        draw = experiment.draw or functools.partial(figures.learning, score=experiment.score)
        files.write(folder / "figure.png", figures.png(lambda figure: draw(figure, fitted)))
        outcome["figure"] = str(folder / "figure.png")
        _store(folder, outcome)
        return outcome
    except WriteError as error:
        raise WriteError(f"{error}. To go on: {again}") from error
    except KeyboardInterrupt:
        raise Interrupted(f"stopped. To go on from the last checkpoint: {again}", 2) from None
    except Interrupted as error:
        raise Interrupted(f"{error}. To go on: {again}", error.code - 128) from None


def _store(folder: Path, outcome: Mapping[str, Any]) -> None:
    # paths are left out of the file: the folder may be moved
    content = {k: v for k, v in outcome.items() if k != "folder"}
    content["figure"] = content["figure"] and "figure.png"
    files.write_json(folder / "result.json", content)


@dataclass
class _Job:
    """One contender on one backend: train it, or go on with it, or take it as it is when it is done."""

    folder: Path
    backend: str
    index: int
    contender: Contender
    data: Data
    score: Score
    every: float
    bar: Bar
    position: int
    stop: Stop

    def run(self) -> dict[str, Any]:
        contender, data = self.contender, self.data
        learner: Any = contender.learner  # that it has a `score` is part of the contract of classifiers and regressors
        path = self.folder / "checkpoints" / f"{self.backend}-{self.index:02d}.safetensors"
        peak, clock = Peak(), time.perf_counter
        began = clock()
        try:
            learner.begin(*data.train)
        except ValueError as error:
            raise UsageError(str(error)) from None
        seconds, most = clock() - began, 0
        loaded = checkpoint.load(path)
        if loaded is not None:
            if loaded.warning:
                self.bar.say(f"refimpl: {loaded.warning}")
            meta = loaded.meta
            if (meta["name"], meta["role"]) != (contender.name, contender.role):
                raise RunError(f"{path}: holds {meta['name']!r}, but the experiment has {contender.name!r} there")
            try:
                learner.restore(loaded.arrays, meta["learner"])
            except ValueError as error:
                raise RunError(f"{path}: {error}") from None
            seconds, most = meta["seconds"], meta["peak_bytes"] or 0
            if meta["result"] is not None:
                learner.finish()
                self.bar.skip_to(self.position + 1, contender.name)
                return meta["result"]
        self._mend_metrics(learner)
        self.bar.skip_to(self.position + learner.progress_ / max(1, learner.total_), contender.name)
        stored = clock()

        def state(result: dict[str, Any] | None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            arrays, meta = learner.checkpoint()
            own = {"name": contender.name, "role": contender.role, "seconds": seconds, "peak_bytes": most}
            return arrays, {**own, "learner": meta, "result": result}

        while learner.progress_ < learner.total_:
            began = clock()
            metrics = learner.advance()
            seconds += clock() - began
            most = max(most, peak.bytes() or 0)
            self._append_metrics(learner.progress_ - 1, learner.total_, seconds, metrics)
            note = ", ".join(f"{k} {v:.3g}" for k, v in list(metrics.items())[:1])
            self.bar.at(self.position + learner.progress_ / learner.total_, contender.name, note)
            if self.stop.signal or clock() - stored >= self.every:
                checkpoint.save(path, *state(None))
                peak.forget()
                stored = clock()
            if self.stop.signal:
                where = f"unit {learner.progress_} of {learner.total_} of {contender.name}"
                raise Interrupted(f"stopped after {where}; all of it is stored", self.stop.signal)
        arrays, meta = state(None)
        began = clock()
        learner.finish()
        seconds += clock() - began
        score = float(learner.score(*data.test))
        result = {
            "name": contender.name,
            "role": contender.role,
            "backend": self.backend,
            "score": score,
            "seconds": seconds,
            "peak_bytes": most or peak.bytes(),
            "units": learner.total_,
        }
        checkpoint.save(path, arrays, {**meta, "seconds": seconds, "result": result})
        self.bar.finished(f"{contender.name}: {self.score.text(score)} in {duration(seconds)}")
        return result

    def _line(self, unit: int, metrics: Mapping[str, float]) -> dict[str, Any]:
        return {"backend": self.backend, "name": self.contender.name, "unit": unit, "metrics": dict(metrics)}

    def _append_metrics(self, unit: int, total: int, seconds: float, metrics: Mapping[str, float]) -> None:
        line = {**self._line(unit, metrics), "total": total, "seconds": seconds}
        files.append_line(self.folder / "metrics.jsonl", line, force=False)

    def _mend_metrics(self, learner: Any) -> None:
        """Make metrics.jsonl agree with the checkpoint: no line that it does not know, none lost in a crash."""
        path = self.folder / "metrics.jsonl"
        lines = files.read_lines(path)
        mine = {e.get("unit"): e for e in lines if self._is_mine(e)}
        right = [mine.get(i, self._line(i, m)) for i, m in enumerate(learner.history_)]
        if list(mine.values()) != right:
            files.write_lines(path, [e for e in lines if not self._is_mine(e)] + right)

    def _is_mine(self, entry: Mapping[str, Any]) -> bool:
        return entry.get("backend") == self.backend and entry.get("name") == self.contender.name


# ---------------------------------------------------------------- telling


def report(outcome: Mapping[str, Any]) -> str:
    """The result as text: a head line, the table (method and baselines), where the files are."""
    backends = outcome["backends"]
    threads = outcome["threads"]
    bodies = {"numpy": "NumPy", "native": f"C core {outcome['core']}", "opencl": "OpenCL"}
    bodies["auto"] = bodies["native"] if outcome["core"] != "none" else bodies["numpy"]
    paths = " and ".join(bodies[b] for b in backends)
    head = (
        f"{outcome['slug']} on {outcome['data']} ({outcome['sizes']})\n"
        f"seed {outcome['seed']}, {paths}, {threads} thread{'s' * (threads != 1)}"
        + (", quick: too small to judge anything by it" if outcome["quick"] else "")
    )
    rows = outcome["results"]
    score = Score(**outcome["score"])
    if len(backends) == 1:
        text = table(
            ("learner", "role", score.name, "seconds", "peak memory"),
            [
                (r["name"], r["role"], score.text(r["score"]), f"{r['seconds']:.2f}", memory(r["peak_bytes"]))
                for r in rows
            ],
            right=(2, 3, 4),
        )
    else:
        by = {(r["name"], r["backend"]): r for r in rows}
        names = list(dict.fromkeys(r["name"] for r in rows))
        first, second = backends
        a, b = (("NumPy", "C")[i] if x in ("numpy", "native") else x for i, x in enumerate(backends))
        body = []
        short = "%" if score.fraction else score.unit or "score"
        unit = f" {short}"
        for name in names:
            one, two = by[name, first], by[name, second]
            ratio = one["seconds"] / two["seconds"] if two["seconds"] else float("nan")
            scores = (score.text(r["score"]).removesuffix(unit) for r in (one, two))
            seconds = (f"{r['seconds']:.2f}" for r in (one, two))
            peaks = (f"{r['peak_bytes'] / 1e6:.1f}" for r in (one, two))
            mark = " *" if one["role"] == "baseline" else ""
            body.append((name + mark, *scores, *seconds, f"{ratio:.1f}x", *peaks))
        head_row = ("learner", f"{short}, {a}", f"{short}, {b}", f"s, {a}", f"s, {b}", "ratio", f"MB, {a}", f"MB, {b}")
        text = table(head_row, body, right=(1, 2, 3, 4, 5, 6, 7))
        text += f"\n\n{short}: {score.name}; s: training time; MB: peak memory of training; *: baseline"
    where = f"Figure: {outcome['figure']}" if outcome["figure"] else "No figure"
    return f"{head}\n\n{text}\n\n{where}\nAll of it: {outcome['folder']}"
