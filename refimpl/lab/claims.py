"""`refimpl claims`: measure the claims of papers over data sets and seeds, judge them, publish what came out.

A measurement is one claim on one data set with one seed. It is stored in `measurements.jsonl` the moment it is done;
whatever stops the work, the same command goes on with what is missing. Measurements of another version, backend or size
(quick or not) are not mixed in. At the end each method has its `<slug>.json` and each claim its figure.

Verdicts: "holds", "does not hold", "measured" (there is no threshold), "not at this scale" (a quick measurement that is
too small to decide); and "not measured", with the reason, where a data set is missing or a measurement failed. Nothing
is judged from a part of the seeds.
"""

from __future__ import annotations

import concurrent.futures
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from refimpl import data as datasets
from refimpl import methods, record
from refimpl._version import __version__
from refimpl.backends import backend, get_backend, get_num_threads
from refimpl.data import DataNotFound
from refimpl.lab import files
from refimpl.lab.errors import RunError, UsageError
from refimpl.lab.machine import core, machine, need
from refimpl.lab.pool import Here
from refimpl.lab.progress import Bar
from refimpl.lab.text import duration, paragraph
from refimpl.record import Claim, Setting

__all__ = ["NOT_MEASURED", "Job", "measure", "plan", "report", "run"]

NOT_MEASURED = "not measured"
FORMAT = "refimpl claims 1"


@dataclass(frozen=True)
class Job:
    """One measurement; can be pickled."""

    slug: str
    id: str
    data: str
    seed: int
    quick: bool
    backend: str
    out: str

    def key(self) -> list[Any]:
        """What tells this measurement from others in the file."""
        return [self.slug, self.id, self.data, self.seed, self.quick, self.backend, core(), __version__]


def _claim(slug: str, id: str) -> Claim:
    methods.module(slug)
    return next(c for c in record.claims(slug) if c.id == id)


def measure(job: Job, tell: Callable[[str], None] = lambda message: None) -> dict[str, Any]:
    """Do one measurement in this process: {"seconds", "values"}, or {"error", "traceback"} where it raised."""
    claim = _claim(job.slug, job.id)
    out = Path(job.out) / "work" / f"{job.slug}-{job.id}-{job.data or 'none'}-{job.seed}"
    started = time.perf_counter()
    try:
        data = datasets.load(job.data) if job.data else None
        out.mkdir(parents=True, exist_ok=True)
        with backend(job.backend):
            values = claim.measure(Setting(data, job.data, job.seed, job.quick, out, tell))
        found = {"values": files.plain(values, finite=False)}
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    finally:
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()
    return {**found, "seconds": time.perf_counter() - started}


# ---------------------------------------------------------------- what to measure


@dataclass(frozen=True)
class Part:
    """A claim on one data set: what gets one verdict. `missing` says why it cannot be measured."""

    claim: Claim
    data: str
    missing: str = ""


def plan(slugs: Sequence[str], data: str | None = None) -> list[Part]:
    """All claims of the methods (all methods where none is named), each on each of its data sets or on `data` alone.

    Raises UsageError for unknown names or where nothing is left; DataNotFound where `data` is not there.
    """
    try:
        if data is not None:
            datasets.info(data)
        found = [c for slug in slugs or methods.slugs() for c in (methods.module(slug), record.claims(slug))[1]]
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not found:
        raise UsageError(f"no claims are registered for {', '.join(slugs) or 'any method'}")
    if data is not None:
        datasets.path(data)
        found = [c for c in found if data in c.data]
        if not found:
            raise UsageError(f"no claim of {', '.join(slugs) or 'any method'} is about {data}")
    missing: dict[str, str] = {}
    for name in {d for c in found for d in c.data if d and data in (None, d)}:
        try:
            datasets.path(name)
        except DataNotFound:
            missing[name] = f"data set {name} is not here; get it with: refimpl data fetch {name}"
    return [Part(c, d, missing.get(d, "")) for c in found for d in c.data if data in (None, d)]


def run(
    parts: Sequence[Part],
    seeds: int,
    out: Path,
    executor: concurrent.futures.Executor | None = None,
    at_once: int = 1,
    quick: bool = False,
    threads: int | None = None,
    show: bool = True,
) -> list[dict[str, Any]]:
    """Measure `parts` over seeds 0..seeds-1 and write reports and figures into `out`; one report a method.

    `executor` gets at most `at_once` measurements at a time (None: this process does them); `threads` is how many each
    of its workers uses, for the report. Measurements already in `out` are not repeated.
    """
    if any(p.claim.draw for p in parts):
        need("matplotlib")
    files.make_folder(out)
    with files.lock(out):
        jobs = [
            Job(p.claim.slug, p.claim.id, p.data, seed, quick, get_backend(), str(out))
            for p in parts
            if not p.missing
            for seed in range(seeds)
        ]
        store = out / "measurements.jsonl"
        known = {_hashable(e.get("key")): e for e in files.read_lines(store)}
        done: dict[Any, dict[str, Any]] = {}
        for job in jobs:
            entry = known.get(_hashable(job.key()))
            if entry is not None and "values" in entry:
                done[_hashable(job.key())] = entry
        todo = [job for job in jobs if _hashable(job.key()) not in done]
        with Bar(len(jobs), done=len(jobs) - len(todo), show=show) as bar:
            if len(todo) < len(jobs):
                bar.say(f"{len(jobs) - len(todo)} of {len(jobs)} measurements are here already.")
            for job, result in _all(todo, executor or Here(), at_once, bar):
                entry = {"key": job.key(), **result}
                files.append_line(store, entry)
                done[_hashable(job.key())] = entry
        return _publish(parts, jobs, done, seeds, quick, threads or get_num_threads(), out)


def _hashable(key: Any) -> tuple:
    return tuple(key) if isinstance(key, list) else ()


def _all(
    jobs: Sequence[Job], executor: concurrent.futures.Executor, at_once: int, bar: Bar
) -> Iterable[tuple[Job, dict[str, Any]]]:
    """Results as they come; the executor never holds more than `at_once` jobs, so stopping loses little."""
    waiting, count = list(reversed(jobs)), 0
    running: dict[concurrent.futures.Future, Job] = {}
    done_before = bar.position
    while waiting or running:
        while waiting and len(running) < at_once:
            job = waiting.pop()
            what = f"{job.slug} {job.id}{f' on {job.data}' if job.data else ''}, seed {job.seed}"
            bar.at(done_before + count, what)
            if isinstance(executor, Here):
                at = done_before + count

                def tell(message: str, at: float = at, what: str = what) -> None:
                    bar.at(at, what, message)

                running[executor.submit(measure, job, tell)] = job
            else:
                running[executor.submit(measure, job)] = job
        finished, _ = concurrent.futures.wait(running, 1.0, concurrent.futures.FIRST_COMPLETED)
        bar.tick()
        for future in finished:
            job = running.pop(future)
            try:
                result = future.result()
            except concurrent.futures.BrokenExecutor:
                raise RunError("a worker process was killed (out of memory?). Go on with fewer --jobs") from None
            count += 1
            bar.at(done_before + count)
            bar.finished(f"{job.slug} {job.id} {job.data} seed {job.seed}: {duration(result['seconds'])}")
            yield job, result


# ---------------------------------------------------------------- judging and publishing


def _publish(
    parts: Sequence[Part],
    jobs: Sequence[Job],
    done: Mapping[Any, Any],
    seeds: int,
    quick: bool,
    threads: int,
    out: Path,
) -> list[dict[str, Any]]:
    reports = []
    for slug in dict.fromkeys(p.claim.slug for p in parts):
        entries = []
        for part in (p for p in parts if p.claim.slug == slug):
            mine = [j for j in jobs if (j.slug, j.id, j.data) == (slug, part.claim.id, part.data)]
            entries.append(_judge(part, [(j, done[_hashable(j.key())]) for j in mine], quick, out))
        report = {
            "format": FORMAT,
            "slug": slug,
            "version": __version__,
            "machine": {**machine(), "core": core(), "backend": get_backend(), "threads": threads},
            "date": datetime.now(timezone.utc).date().isoformat(),
            "seconds": sum(m["seconds"] for e in entries for m in e["measured"]),
            "seeds": list(range(seeds)),
            "quick": quick,
            "claims": entries,
        }
        files.write_json(out / f"{slug}.json", report)
        reports.append(report)
    return reports


def _judge(part: Part, results: list[tuple[Job, dict[str, Any]]], quick: bool, out: Path) -> dict[str, Any]:
    claim = part.claim
    entry: dict[str, Any] = {
        "id": claim.id,
        "data": part.data,
        "sentence": claim.sentence,
        "threshold": claim.threshold,
        "measured": [
            {"seed": j.seed, "seconds": r["seconds"], "values": r.get("values"), "error": r.get("error")}
            for j, r in results
        ],
        "verdict": NOT_MEASURED,
        "note": part.missing,
        "figure": None,
    }
    failed = [(j, r) for j, r in results if "error" in r]
    if failed:
        job, result = failed[0]
        entry["note"] = f"{len(failed)} of {len(results)} measurements failed; seed {job.seed}: {result['error']}"
    elif results:
        values = [r["values"] for _, r in results]
        holds, entry["note"] = claim.judge(values)
        if quick and not claim.quick_judged:
            entry["verdict"] = record.NOT_HERE
            entry["note"] = f"quick measurement, too small to decide; {entry['note']}"
        else:
            entry["verdict"] = record.MEASURED if holds is None else record.HOLDS if holds else record.FAILS
        draw = claim.draw
        if draw is not None:
            from refimpl.lab import figures

            name = "-".join(filter(None, (claim.slug, claim.id, part.data))) + ".png"
            files.write(out / name, figures.png(lambda figure: draw(figure, values)))
            entry["figure"] = name
    return entry


def report(reports: Sequence[Mapping[str, Any]], out: Path) -> str:
    """Verdicts as text: the sentence, its threshold, what came out."""
    lines = []
    for r in reports:
        lines.append(f"{r['slug']}: {len(r['seeds'])} seed{'s' * (len(r['seeds']) != 1)}, {duration(r['seconds'])}")
        for e in r["claims"]:
            lines.append("")
            lines.append(f"  [{e['verdict']}] {e['id']}{' on ' + e['data'] if e['data'] else ''}")
            lines.append(paragraph(e["sentence"], "    "))
            lines.append(paragraph(e["threshold"], "      ", "    threshold: "))
            if e["note"]:
                lines.append(paragraph(e["note"], "      ", "    note: "))
        lines.append("")
    count: dict[str, int] = {}
    for r in reports:
        for e in r["claims"]:
            count[e["verdict"]] = count.get(e["verdict"], 0) + 1
    lines.append("; ".join(f"{n} {verdict}" for verdict, n in count.items()))
    lines.append(f"Numbers and figures: {out}")
    return "\n".join(lines)
