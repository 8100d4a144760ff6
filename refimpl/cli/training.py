"""`refimpl run`, `refimpl generate` and `refimpl claims`: training, and what came of it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from refimpl.cli import parts


def describe_run(parser: argparse.ArgumentParser) -> None:
    parts.tell(
        parser,
        """Train a method and the baselines of its paper on the same data; print a table
(test accuracy, training seconds, peak memory over what the process held
before) and draw a figure.

A run has a folder of its own (runs/SLUG-DATA-NNN, or --out) with its
configuration, metrics, checkpoints, result.json and figure.png. It may be
stopped or killed at any time: --resume goes on to the same bits, or says what
has changed and refuses.""",
        """  refimpl run noprop
  refimpl run noprop --data mnist --seed 1 --out runs/mnist
  refimpl run noprop --set epochs=5 --set "hidden=(128, 128)"
  refimpl run noprop --compare-backends
  refimpl run noprop --resume runs/mnist""",
    )
    parser.add_argument("slug", metavar="SLUG", help="a method (see: refimpl list)")
    parser.add_argument("--data", metavar="NAME", help="data set (default: the method's own; see: refimpl data list)")
    parser.add_argument("--seed", type=parts.whole(0), metavar="N", help="seed of all randomness (default: 0)")
    parser.add_argument(
        "--backend",
        choices=("numpy", "native", "opencl", "auto"),
        help="which body of the operations runs (default: auto, the fastest here)",
    )
    parser.add_argument("--compare-backends", action="store_true", help="run twice, NumPy and C core, side by side")
    parts.threads(parser)
    parser.add_argument(
        "--set",
        action="append",
        type=parts.setting,
        default=[],
        metavar="key=value",
        help="a setting of the experiment; may be given several times",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="a new or empty folder for the run")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with the run in DIR")
    parser.add_argument("--quick", action="store_true", help="a small part of the data: to try things, not to judge")
    parts.json_file(parser)
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    from refimpl.lab import run
    from refimpl.lab.errors import UsageError

    parts.method(options.slug)
    parts.check_target(options.json)
    if options.compare_backends and options.backend:
        raise UsageError("--compare-backends runs NumPy and the C core: leave out --backend")
    backends: tuple[str, ...] | None = (options.backend,) if options.backend else None
    if options.compare_backends:
        backends = _both()
    if options.resume is not None:
        if options.out is not None:
            raise UsageError("--resume DIR goes on in its own folder: leave out --out")
        given = {
            "slug": options.slug,
            "data": options.data,
            "seed": options.seed,
            "backends": backends,
            "threads": options.threads,
            "settings": dict(options.set) or None,
            "quick": options.quick or None,
        }
        outcome = run.resume(options.resume, {k: v for k, v in given.items() if v is not None})
    else:
        config = run.Config(
            slug=options.slug,
            data=options.data or "",
            seed=options.seed or 0,
            backends=backends or ("auto",),
            threads=options.threads,
            settings=dict(options.set),
            quick=options.quick,
        )
        outcome = run.start(config, options.out)
    if options.json != "-":
        print(run.report(outcome))
    parts.write_json(options.json, outcome)
    return 0


def _both() -> tuple[str, ...]:
    """NumPy and the C core, where there is one."""
    from refimpl.backends import available_backends, native
    from refimpl.lab.progress import say

    if "native" in available_backends():
        return ("numpy", "native")
    say(f"refimpl: no C core to compare with ({native.why_not or 'see refimpl doctor'}): NumPy alone.")
    return ("numpy",)


def describe_generate(parser: argparse.ArgumentParser) -> None:
    parts.tell(
        parser,
        """Continue a prompt with a language model that a run has trained, token by token.
The model is read from the run's checkpoints; the run need not be finished.""",
        """  refimpl run streambp --data tinyshakespeare --out runs/shakespeare
  refimpl generate runs/shakespeare
  refimpl generate runs/shakespeare --prompt "ROMEO:" -n 500 --temperature 0.8
  refimpl generate runs/shakespeare --learner checkpointing --top-k 10 --seed 3""",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder of a run")
    parser.add_argument("--prompt", default="\n", metavar="TEXT", help="the text to continue (default: a new line)")
    parser.add_argument(
        "-n", "--tokens", type=parts.whole(1), default=300, metavar="N", help="tokens to write (default: 300)"
    )
    parser.add_argument(
        "--temperature", type=parts.temperature, default=0.8, metavar="X", help="0: the likeliest (default: 0.8)"
    )
    parser.add_argument("--top-k", type=parts.whole(1), metavar="K", help="draw from the K most probable tokens only")
    parser.add_argument(
        "--seed", type=parts.whole(0), default=0, metavar="N", help="seed of what is drawn (default: 0)"
    )
    parser.add_argument("--learner", metavar="NAME", help="which learner of the run (default: the first)")
    parser.set_defaults(command=_generate)


def _generate(options: argparse.Namespace) -> int:
    from refimpl.lab import generate

    writer = generate.learner(options.folder, options.learner)
    how = (options.tokens, options.seed, options.temperature, options.top_k)
    sys.stdout.write(options.prompt)
    for piece in generate.text(writer, options.prompt, *how):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0


def describe_claims(parser: argparse.ArgumentParser) -> None:
    parts.tell(
        parser,
        """Measure the claims of one or more methods (all without SLUG) over data sets
and seeds, and judge each against the threshold that was set before the first
run.

Each finished measurement is stored in the folder at once: the same command
goes on after an interruption. Claims on data sets that are not here are
skipped, and said to be. The exit code is 1 when a measurement failed or
nothing could be measured; a claim that does not hold is a result.""",
        """  refimpl claims noprop
  refimpl claims noprop --data digits --seeds 5 --jobs 2
  refimpl claims --quick""",
    )
    parser.add_argument("slugs", nargs="*", metavar="SLUG", help="methods (default: all)")
    parser.add_argument("--seeds", type=parts.whole(1), metavar="N", help="seeds 0 to N-1 (default: 3; 1 with --quick)")
    parser.add_argument("--jobs", type=parts.whole(1), default=1, metavar="N", help="processes, cores / N threads each")
    parser.add_argument("--data", metavar="NAME", help="only on this data set")
    parser.add_argument("--out", type=Path, default=Path("runs/claims"), metavar="DIR", help="default: runs/claims")
    parser.add_argument("--quick", action="store_true", help="small measurements: most cannot decide then")
    parts.json_file(parser)
    parser.set_defaults(command=_claims)


def _claims(options: argparse.Namespace) -> int:
    from refimpl.lab import claims, pool
    from refimpl.lab.machine import limited_threads
    from refimpl.lab.progress import say

    parts.check_target(options.json)
    seeds = options.seeds or (1 if options.quick else 3)
    planned = claims.plan(options.slugs, options.data)
    for missing in dict.fromkeys(p.missing for p in planned if p.missing):
        say(f"refimpl: skipped: {missing}")
    jobs = min(options.jobs, seeds * len(planned))
    try:
        # one process: all cores for it, BLAS included
        with limited_threads(None), pool.processes(jobs) as executor:
            threads = pool.threads_each(jobs) if jobs > 1 else None
            reports = claims.run(planned, seeds, options.out, executor, jobs, options.quick, threads)
    except KeyboardInterrupt:
        parts.complain("stopped; finished measurements are stored. To go on: the same command again")
        return 130
    if options.json != "-":
        print(claims.report(reports, options.out))
    parts.write_json(options.json, reports)
    entries = [e for r in reports for e in r["claims"]]
    failed = any(m["error"] for e in entries for m in e["measured"])
    return 1 if failed or all(e["verdict"] == claims.NOT_MEASURED for e in entries) else 0
