"""Floor 7: the `refimpl` command. It reads arguments, asks the lab, prints; it computes nothing itself.

Exit codes: 0 done; 1 something failed; 2 the request makes no sense; 130 stopped by Ctrl-C (143: by SIGTERM). Results
go to standard output, progress and errors to standard error, an error as one line. What only one command needs is
imported inside it, so that `refimpl --help` is quick.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from refimpl._version import __version__

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _complain(f"{message} (see: {self.prog} --help)")
        raise SystemExit(2)


def _complain(message: object) -> None:
    print(f"refimpl: {message}", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        options = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has said why
        return stop.code if isinstance(stop.code, int) else 2
    from refimpl.data import DataError
    from refimpl.lab.errors import LabError

    try:
        code = options.command(options)
        sys.stdout.flush()
        return code
    except LabError as error:
        _complain(error)
        return error.code
    except DataError as error:
        _complain(error)
        return 1
    except KeyboardInterrupt:
        _complain("stopped")
        return 130
    except BrokenPipeError:  # `refimpl list | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError as error:
        _complain(f"not enough memory: {error or 'an array did not fit'}. Try less data or a smaller model")
        return 1
    except OSError as error:
        _complain(error)
        return 1


# ---------------------------------------------------------------- list, info


def _list(options: argparse.Namespace) -> int:
    from refimpl import methods
    from refimpl.lab.text import table

    papers = [methods.module(slug).PAPER for slug in methods.slugs()]
    if options.json:
        _print_json([_paper(p) for p in papers])
        return 0
    print(table(("slug", "family", "year", "paper"), [(p.slug, p.family, str(p.year), p.title) for p in papers]))
    print(f"\n{len(papers)} method{'s' * (len(papers) != 1)}. More about one: refimpl info SLUG")
    return 0


def _paper(paper: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(paper)


def _module(slug: str) -> Any:
    from refimpl import methods
    from refimpl.lab.errors import UsageError

    try:
        return methods.module(slug)
    except ValueError as error:
        raise UsageError(f"{error} (see: refimpl list)") from None


def _info(options: argparse.Namespace) -> int:
    from refimpl import record
    from refimpl.lab.text import paragraph

    paper = _module(options.slug).PAPER
    claims = record.claims(options.slug)
    if options.json:
        keys = ("id", "sentence", "threshold", "data")
        _print_json({**_paper(paper), "claims": [{k: getattr(c, k) for k in keys} for c in claims]})
        return 0
    print(paragraph(paper.title))
    print(paragraph(f"{', '.join(paper.authors)}, {paper.year}. arXiv:{paper.arxiv}. Family: {paper.family}."))
    print("\n" + paragraph(paper.idea))
    if claims:
        print("\nClaims of the paper that can be measured here:")
        for c in claims:
            where = ", ".join(d for d in c.data if d)
            print(f"\n  {c.id}{f' (on {where})' if where else ''}")
            print(paragraph(c.sentence, "    "))
            print(paragraph(c.threshold, "      ", "    threshold: "))
    print(f"\nTrain it:       refimpl run {paper.slug}\nMeasure claims: refimpl claims {paper.slug}")
    return 0


# ---------------------------------------------------------------- run, claims


def _run(options: argparse.Namespace) -> int:
    from refimpl.lab import run
    from refimpl.lab.errors import UsageError

    _module(options.slug)
    _check_target(options.json)
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
    _write_json(options.json, outcome)
    return 0


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


def _both() -> tuple[str, ...]:
    """NumPy and the C core, where there is one."""
    from refimpl.backends import available_backends, native
    from refimpl.lab.progress import say

    if "native" in available_backends():
        return ("numpy", "native")
    say(f"refimpl: no C core to compare with ({native.why_not or 'see refimpl doctor'}): NumPy alone.")
    return ("numpy",)


def _claims(options: argparse.Namespace) -> int:
    from refimpl.lab import claims, pool
    from refimpl.lab.machine import limited_threads
    from refimpl.lab.progress import say

    _check_target(options.json)
    seeds = options.seeds or (1 if options.quick else 3)
    parts = claims.plan(options.slugs, options.data)
    for missing in dict.fromkeys(p.missing for p in parts if p.missing):
        say(f"refimpl: skipped: {missing}")
    jobs = min(options.jobs, seeds * len(parts))
    try:
        # one process: all cores for it, BLAS included
        with limited_threads(None), pool.processes(jobs) as executor:
            threads = pool.threads_each(jobs) if jobs > 1 else None
            reports = claims.run(parts, seeds, options.out, executor, jobs, options.quick, threads)
    except KeyboardInterrupt:
        _complain("stopped; finished measurements are stored. To go on: the same command again")
        return 130
    if options.json != "-":
        print(claims.report(reports, options.out))
    _write_json(options.json, reports)
    entries = [e for r in reports for e in r["claims"]]
    failed = any(m["error"] for e in entries for m in e["measured"])
    return 1 if failed or all(e["verdict"] == claims.NOT_MEASURED for e in entries) else 0


# ---------------------------------------------------------------- bench, tune, doctor


def _bench(options: argparse.Namespace) -> int:
    from refimpl.lab import bench
    from refimpl.lab.errors import UsageError

    _check_target(options.json)
    kinds = ("ops", "steps", "methods")
    names = list(options.what)
    kind = names.pop(0) if names and names[0] in kinds else None
    if names and kind is None:
        raise UsageError(f"bench {names[0]}: expected ops, steps or methods first, as in: refimpl bench ops {names[0]}")
    if options.plot is not None:
        bench.check_plot(options.plot)
    outcome = bench.run(kinds if kind is None else (kind,), names, options.against, options.threads)
    if options.json != "-":
        print(bench.report(outcome))
    if options.plot is not None:
        bench.plot(outcome, options.plot)
        print(f"\nFigure: {options.plot}", file=sys.stderr if options.json == "-" else sys.stdout)
    _write_json(options.json, outcome)
    return 0 if all(r["correct"] is not False for r in outcome["rows"]) else 1


def _tune(options: argparse.Namespace) -> int:
    from refimpl.lab import tune
    from refimpl.lab.errors import Interrupted, UsageError

    _check_target(options.json)
    if options.show:
        if options.ops or options.budget is not None:
            raise UsageError("--show measures nothing: leave out the rest")
        found = tune.state(options.threads)
        if options.json != "-":
            print(tune.show(found))
        _write_json(options.json, found)
        return 0
    outcome = tune.run(options.ops, 60.0 if options.budget is None else options.budget, options.threads)
    if options.json != "-":
        print(tune.report(outcome))
    _write_json(options.json, outcome)
    if outcome["interrupted"]:
        raise Interrupted(f"stopped; what was learned is in {outcome['file']}", outcome["interrupted"])
    return 1 if any(r["wrong"] for r in outcome["rows"]) else 0


def _doctor(options: argparse.Namespace) -> int:
    from refimpl.lab import doctor

    found = doctor.examine()
    if options.json:
        _print_json(found)
    else:
        print(doctor.report(found))
    return 0


def _trace(options: argparse.Namespace) -> int:
    from refimpl.lab import walk

    module = _module(options.slug)
    for line in walk.run(module, options.out or Path(f"{options.slug}-trace.html"), options.step, options.backend):
        print(line)
    return 0


# ---------------------------------------------------------------- tutorial


def _tutorial(options: argparse.Namespace) -> int:
    from refimpl.lab import tutorials
    from refimpl.lab.errors import UsageError
    from refimpl.lab.text import duration, table

    if options.name is None:
        if options.run:
            raise UsageError(f"tutorial --run: which one? expected one of {', '.join(tutorials.names())}")
        texts = [(n, tutorials.path(n).read_text(encoding="utf-8")) for n in tutorials.names()]
        print(table(("name", "tutorial"), [(name, tutorials.title(text)) for name, text in texts]))
        return 0
    own = Path(options.name)
    file = own.resolve() if own.suffix == ".md" and own.exists() else tutorials.path(options.name)
    if options.run:
        seconds = tutorials.execute(file)
        print(f"{file.name}: every cell runs, {duration(seconds)}")
        return 0
    command = tutorials.jupyter()
    notebook, new = tutorials.write_notebook(file, options.out)
    print(f"{notebook}{'' if new else ' (it was here already, with what you changed in it)'}", flush=True)
    import subprocess

    return subprocess.run([*command, str(notebook)]).returncode


# ---------------------------------------------------------------- data


def _data(options: argparse.Namespace) -> int:
    from refimpl import data
    from refimpl.lab.errors import UsageError

    if options.name is not None:
        try:
            data.info(options.name)
        except ValueError as error:
            raise UsageError(f"{error} (see: refimpl data list)") from None
    return {"list": _data_list, "fetch": _data_fetch, "verify": _data_verify, "path": _data_path}[options.action](
        options
    )


def _needed(options: argparse.Namespace) -> str:
    from refimpl import data
    from refimpl.lab.errors import UsageError

    if options.name is None:
        raise UsageError(f"data {options.action}: which one? expected one of {', '.join(data.names())}")
    return options.name


def _data_list(options: argparse.Namespace) -> int:
    from refimpl import data
    from refimpl.lab.text import memory, table

    rows = []
    for name in data.names() if options.name is None else [options.name]:
        info = data.info(name)
        try:
            data.path(name)
            state = "here"
        except data.DataNotFound:
            state = f"not here ({memory(info.download_bytes)} to fetch)" if info.downloads else "not here"
        rows.append((name, info.kind, info.what, state))
    print(table(("name", "kind", "what", "state"), rows))
    return 0


def _data_fetch(options: argparse.Namespace) -> int:
    from refimpl import data
    from refimpl.lab.machine import need

    name = _needed(options)
    need("pooch", "tqdm")
    print(data.fetch(name))
    return 0


def _data_verify(options: argparse.Namespace) -> int:
    from refimpl import data

    names, bad, seen = [options.name] if options.name else data.names(), 0, 0
    for name in names:
        try:
            checks = data.verify(name)
        except data.DataNotFound:
            if options.name:
                raise
            print(f"{name}: not here")
            continue
        for check in checks:
            seen += 1
            bad += not check.ok
            print(f"{name}: {check.file.name}: {'ok' if check.ok else 'BAD'}: {check.message}")
    print(f"{seen - bad} of {seen} files are right")
    return 1 if bad else 0


def _data_path(options: argparse.Namespace) -> int:
    from refimpl import data

    print(data.path(_needed(options)))
    return 0


# ---------------------------------------------------------------- JSON


def _print_json(value: Any) -> None:
    from refimpl.lab.files import dumps

    print(dumps(value), end="")


def _check_target(target: str | None) -> None:
    """Complain about a file that cannot be written before the work, not after it."""
    from refimpl.lab.errors import UsageError

    if target not in (None, "-"):
        folder = Path(target).absolute().parent
        if not folder.is_dir() or not os.access(folder, os.W_OK) or Path(target).is_dir():
            raise UsageError(f"--json {target}: cannot be written there")


def _write_json(target: str | None, value: Any) -> None:
    from refimpl.lab.files import write_json

    if target == "-":
        _print_json(value)
    elif target is not None:
        write_json(Path(target), value)


# ---------------------------------------------------------------- arguments


def _setting(text: str) -> tuple[str, Any]:
    """key=value; the value as Python or JSON writes it (3, 1e-3, true, none, "a", (64, 64)), else plain text."""
    import ast

    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r}: expected key=value, as in epochs=5")
    words = {"true": True, "false": False, "none": None, "null": None}
    if value.lower() in words:
        return key, words[value.lower()]
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return key, value


def _whole(least: int) -> Any:
    def read(text: str) -> int:
        try:
            n = int(text)
        except ValueError:
            n = least - 1
        if n < least:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least {least}")
        return n

    return read


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of at least 0")
    return value


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of seconds above 0")
    return seconds


def _threads(text: str) -> int:
    from refimpl.backends.threads import MAX_THREADS

    n = _whole(1)(text)
    if n > MAX_THREADS:
        raise argparse.ArgumentTypeError(f"{text!r}: expected at most {MAX_THREADS}")
    return n


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="refimpl",
        description="Deep-learning papers you can read, step through, import and race:\n"
        "NumPy for the eye, C for the clock.",
        epilog="""examples:
  refimpl list                            which methods there are
  refimpl run noprop                      train one on the embedded digits
  refimpl run noprop --compare-backends   in NumPy and in C, side by side
  refimpl claims noprop                   measure what the paper claims
  refimpl bench ops matmul                race one operation
  refimpl trace noprop                    step through a training step
  refimpl tune                            learn which bodies are fastest here
  refimpl tutorial gradients-by-hand      learn how it works, in Jupyter
  refimpl doctor                          what this machine has and lacks
  refimpl run --help                      more about one command""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"refimpl {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, function: Any, help: str, description: str, examples: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=help,
            description=description,
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(command=function)
        return made

    def json_file(made: argparse.ArgumentParser) -> None:
        made.add_argument(
            "--json", metavar="FILE", help="write the numbers as JSON into FILE ('-': to standard output)"
        )

    def threads(made: argparse.ArgumentParser) -> None:
        text = "threads for the C core and BLAS (default: all cores)"
        made.add_argument("--threads", type=_threads, metavar="N", help=text)

    p = command(
        "list",
        _list,
        "the methods, one a line",
        "List the methods: slug, family, year, title.",
        "  refimpl list\n  refimpl list --json",
    )
    p.add_argument("--json", action="store_true", help="as JSON")

    p = command(
        "info",
        _info,
        "one method: paper, idea, claims",
        "Tell where a method comes from, its idea, and its claims that can be measured.",
        "  refimpl info noprop\n  refimpl info noprop --json",
    )
    p.add_argument("slug", metavar="SLUG", help="a method (see: refimpl list)")
    p.add_argument("--json", action="store_true", help="as JSON")

    p = command(
        "run",
        _run,
        "train a method and its baselines",
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
    p.add_argument("slug", metavar="SLUG", help="a method (see: refimpl list)")
    p.add_argument("--data", metavar="NAME", help="data set (default: the method's own; see: refimpl data list)")
    p.add_argument("--seed", type=_whole(0), metavar="N", help="seed of all randomness (default: 0)")
    p.add_argument(
        "--backend",
        choices=("numpy", "native", "opencl", "auto"),
        help="which body of the operations runs (default: auto, the fastest here)",
    )
    p.add_argument("--compare-backends", action="store_true", help="run twice, NumPy and C core, side by side")
    threads(p)
    p.add_argument(
        "--set",
        action="append",
        type=_setting,
        default=[],
        metavar="key=value",
        help="a setting of the experiment; may be given several times",
    )
    p.add_argument("--out", type=Path, metavar="DIR", help="a new or empty folder for the run")
    p.add_argument("--resume", type=Path, metavar="DIR", help="go on with the run in DIR")
    p.add_argument("--quick", action="store_true", help="a small part of the data: to try things, not to judge")
    json_file(p)

    p = command(
        "generate",
        _generate,
        "write text with a language model",
        """Continue a prompt with a language model that a run has trained, token by token.
The model is read from the run's checkpoints; the run need not be finished.""",
        """  refimpl run streambp --data tinyshakespeare --out runs/shakespeare
  refimpl generate runs/shakespeare
  refimpl generate runs/shakespeare --prompt "ROMEO:" -n 500 --temperature 0.8
  refimpl generate runs/shakespeare --learner checkpointing --top-k 10 --seed 3""",
    )
    p.add_argument("folder", type=Path, metavar="DIR", help="the folder of a run")
    p.add_argument("--prompt", default="\n", metavar="TEXT", help="the text to continue (default: a new line)")
    p.add_argument("-n", "--tokens", type=_whole(1), default=300, metavar="N", help="tokens to write (default: 300)")
    p.add_argument("--temperature", type=_temperature, default=0.8, metavar="X", help="0: the likeliest (default: 0.8)")
    p.add_argument("--top-k", type=_whole(1), metavar="K", help="draw from the K most probable tokens only")
    p.add_argument("--seed", type=_whole(0), default=0, metavar="N", help="seed of what is drawn (default: 0)")
    p.add_argument("--learner", metavar="NAME", help="which learner of the run (default: the first)")

    p = command(
        "claims",
        _claims,
        "measure the claims of papers",
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
    p.add_argument("slugs", nargs="*", metavar="SLUG", help="methods (default: all)")
    p.add_argument("--seeds", type=_whole(1), metavar="N", help="seeds 0 to N-1 (default: 3; 1 with --quick)")
    p.add_argument("--jobs", type=_whole(1), default=1, metavar="N", help="processes, cores / N threads each")
    p.add_argument("--data", metavar="NAME", help="only on this data set")
    p.add_argument("--out", type=Path, default=Path("runs/claims"), metavar="DIR", help="default: runs/claims")
    p.add_argument("--quick", action="store_true", help="small measurements: most cannot decide then")
    json_file(p)

    p = command(
        "bench",
        _bench,
        "race NumPy, C and PyTorch",
        """Race the bodies of operations, or one training step of ordinary networks or of
methods: NumPy, C core and, with --against torch, PyTorch, in one process, in
turns, on the same arrays and threads. Results are compared before anything is
timed. Limits (copy bandwidth, best matrix product) are measured in the same
run; "limit" is the share of what they allow that the C core reaches.""",
        """  refimpl bench ops
  refimpl bench ops matmul softmax --against torch
  refimpl bench ops --json bench.json --plot roofline.png
  refimpl bench steps resnet
  refimpl bench methods noprop --threads 1""",
    )
    p.add_argument("what", nargs="*", metavar="ops|steps|methods NAME", help="what to race (default: all)")
    p.add_argument("--against", choices=("torch",), help="race PyTorch too, where it is installed")
    threads(p)
    json_file(p)
    p.add_argument("--plot", type=Path, metavar="FILE", help="draw the roofline chart into FILE (.png)")

    p = command(
        "tune",
        _tune,
        "learn which bodies are fastest here",
        """Measure, for each operation and size, which body is fastest on this machine:
NumPy, or the C core on 1, 2, 4, ... threads. What beats the untuned choice (the
C core on all threads) beyond the noise is stored as wisdom, and backend "auto",
the default, uses it from then on. --backend numpy and native never change.

Each candidate must give the same results as NumPy. Small calls often gain from
fewer threads, some from NumPy. Tune on a quiet machine, with the number of
threads that you will use: wisdom holds for that number, this processor and
these versions. Ctrl-C keeps what was learned; tuning again measures anew.

The file: $REFIMPL_WISDOM, else wisdom.json in the user's cache folder.
REFIMPL_WISDOM=off switches wisdom off.""",
        """  refimpl tune                         all operations, at most a minute
  refimpl tune matmul linear softmax   some
  refimpl tune --budget 300            with more time, the large sizes too
  refimpl tune --threads 1             for work that runs on one thread
  refimpl tune --show                  what is in force, and from which file""",
    )
    p.add_argument("ops", nargs="*", metavar="OP", help="operations (default: all that can be tuned)")
    p.add_argument("--budget", type=_seconds, metavar="SECONDS", help="time for all of it (default: 60)")
    p.add_argument("--show", action="store_true", help="measure nothing; tell what is in force")
    threads(p)
    json_file(p)

    p = command(
        "trace",
        _trace,
        "a page to step through a training step",
        """Record one real training step and write it as one HTML file that needs neither
a server nor a network. A reader steps through it with the arrow keys: the line
of NumPy and of C, the equation, the arrays, time and memory, the gradient that
belongs to each operation, and a check of that gradient entry by entry.

The step is small, so that its arrays can be read, but it is the method's own.""",
        """  refimpl trace noprop
  refimpl trace noprop --out step.html
  refimpl trace noprop --step ct --backend numpy""",
    )
    p.add_argument("slug", metavar="SLUG", help="a method (see: refimpl list)")
    p.add_argument("--out", type=Path, metavar="FILE", help="the page (default: SLUG-trace.html)")
    p.add_argument("--step", metavar="NAME", help="which step, by any part of its name (default: the first)")
    p.add_argument(
        "--backend",
        choices=("numpy", "native", "opencl", "auto"),
        default="auto",
        help="which body of the operations runs (default: auto, the fastest here)",
    )

    p = command(
        "doctor",
        _doctor,
        "what this machine has",
        "Look at Python, NumPy, the C core, threads, BLAS, wisdom, OpenCL, data sets\n"
        "and packages, and say what to do about each problem.",
        "  refimpl doctor\n  refimpl doctor --json",
    )
    p.add_argument("--json", action="store_true", help="as JSON")

    p = command(
        "tutorial",
        _tutorial,
        "read and run a tutorial",
        """Open a tutorial in Jupyter: it is written as NAME.ipynb into the current folder
(or --out) and opened there. Without a name: list them. With --run its cells run
here in the terminal, without Jupyter, and the first that fails is reported.

REFIMPL_TUTORIAL_QUICK=1 makes tutorials train less, to try them.""",
        """  refimpl tutorial
  refimpl tutorial gradients-by-hand
  refimpl tutorial noprop --run""",
    )
    p.add_argument("name", nargs="?", metavar="NAME", help="a tutorial (a method's slug, or see the list)")
    p.add_argument("--run", action="store_true", help="run it here, without Jupyter")
    p.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="folder for the notebook (default: here)")

    p = command(
        "data",
        _data,
        "data sets: list, fetch, verify, path",
        """Data sets are looked for in $REFIMPL_DATA and in the user's cache. The digits
are embedded.

  list    what there is and whether it is here
  fetch   download into the cache
  verify  read the files again and check them
  path    the folder that is used""",
        """  refimpl data list
  refimpl data fetch mnist
  refimpl data verify
  refimpl data path digits""",
    )
    p.add_argument("action", choices=("list", "fetch", "verify", "path"), help="what to do")
    p.add_argument("name", nargs="?", metavar="NAME", help="a data set")
    return parser


if __name__ == "__main__":
    sys.exit(main())
