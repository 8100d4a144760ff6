"""`refimpl bench` and `refimpl tune`: how fast the bodies of operations are here."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from refimpl.cli import parts


def describe_bench(parser: argparse.ArgumentParser) -> None:
    parts.tell(
        parser,
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
    parser.add_argument("what", nargs="*", metavar="ops|steps|methods NAME", help="what to race (default: all)")
    parser.add_argument("--against", choices=("torch",), help="race PyTorch too, where it is installed")
    parts.threads(parser)
    parts.json_file(parser)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the roofline chart into FILE (.png)")
    parser.set_defaults(command=_bench)


def _bench(options: argparse.Namespace) -> int:
    from refimpl.lab import bench
    from refimpl.lab.errors import UsageError

    parts.check_target(options.json)
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
    parts.write_json(options.json, outcome)
    return 0 if all(r["correct"] is not False for r in outcome["rows"]) else 1


def describe_tune(parser: argparse.ArgumentParser) -> None:
    parts.tell(
        parser,
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
    parser.add_argument("ops", nargs="*", metavar="OP", help="operations (default: all that can be tuned)")
    parser.add_argument("--budget", type=parts.seconds, metavar="SECONDS", help="time for all of it (default: 60)")
    parser.add_argument("--show", action="store_true", help="measure nothing; tell what is in force")
    parts.threads(parser)
    parts.json_file(parser)
    parser.set_defaults(command=_tune)


def _tune(options: argparse.Namespace) -> int:
    from refimpl.lab import tune
    from refimpl.lab.errors import Interrupted, UsageError

    parts.check_target(options.json)
    if options.show:
        if options.ops or options.budget is not None:
            raise UsageError("--show measures nothing: leave out the rest")
        found = tune.state(options.threads)
        if options.json != "-":
            print(tune.show(found))
        parts.write_json(options.json, found)
        return 0
    outcome = tune.run(options.ops, 60.0 if options.budget is None else options.budget, options.threads)
    if options.json != "-":
        print(tune.report(outcome))
    parts.write_json(options.json, outcome)
    if outcome["interrupted"]:
        raise Interrupted(f"stopped; what was learned is in {outcome['file']}", outcome["interrupted"])
    return 1 if any(r["wrong"] for r in outcome["rows"]) else 0
