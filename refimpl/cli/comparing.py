"""`refimpl compare`."""

from __future__ import annotations

import argparse
from pathlib import Path

from refimpl.cli import parts


def describe_compare(parser: argparse.ArgumentParser) -> None:
    parts.tell(
        parser,
        """Train one network by every rule that can: back-propagation, other baselines,
and the methods of this library; with the same data, passes and batches, and a
learning rate that is chosen for each on held-out data. The table shows
accuracy, time, memory of a step, and which signals an update uses.

Finished measurements are stored: the same command goes on after an
interruption.""",
        """  refimpl compare
  refimpl compare --data mnist --train 8000 --test 2000 --out runs/mnist
  refimpl compare --rules "Back-propagation" "Feedback alignment"
  refimpl compare --quick""",
    )
    parser.add_argument("--data", default="digits", metavar="NAME", help="a set of images (default: digits)")
    parser.add_argument("--train", type=parts.whole(10), metavar="N", help="draw N of the training images")
    parser.add_argument("--test", type=parts.whole(1), metavar="N", help="draw N of the test images")
    parser.add_argument("--seeds", type=parts.whole(1), metavar="N", help="seeds 0 to N-1 (default: 3; 1 with --quick)")
    parser.add_argument("--rules", nargs="+", default=(), metavar="NAME", help="only these")
    parser.add_argument("--epochs", type=parts.whole(1), metavar="N", help="passes over the data (default: 10)")
    parser.add_argument("--out", type=Path, default=Path("runs/comparison"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="less data and two passes: to see it work")
    parts.json_file(parser)
    parser.set_defaults(command=_compare)


def _compare(options: argparse.Namespace) -> int:
    from refimpl import data as datasets
    from refimpl.lab import comparison
    from refimpl.lab.errors import UsageError
    from refimpl.record import Common

    parts.check_target(options.json)
    try:
        if options.data not in datasets.names("images"):
            raise ValueError(f"{options.data!r} is no set of images, expected {', '.join(datasets.names('images'))}")
    except ValueError as error:
        raise UsageError(str(error)) from None
    data = datasets.load(options.data)
    if options.quick:
        data = data.quick(0)
    try:
        data = data.subset(options.train, options.test, 0) if options.train or options.test else data
    except ValueError as error:
        raise UsageError(str(error)) from None
    common = Common(epochs=options.epochs or (2 if options.quick else Common().epochs))
    seeds = options.seeds or (1 if options.quick else 3)
    try:
        outcome = comparison.compare(data, seeds, options.out, common, options.rules)
    except KeyboardInterrupt:
        parts.complain("stopped; finished measurements are stored. To go on: the same command again")
        return 130
    if options.json != "-":
        print(comparison.report(outcome))
    parts.write_json(options.json, outcome)
    return 0
