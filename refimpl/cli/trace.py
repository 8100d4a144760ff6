"""`refimpl trace`: a page to step through a training step."""

from __future__ import annotations

import argparse
from pathlib import Path

from refimpl.cli import parts


def describe_trace(parser: argparse.ArgumentParser) -> None:
    parts.tell(
        parser,
        """Record one real training step and write it as one HTML file that needs neither
a server nor a network. A reader steps through it with the arrow keys: the line
of NumPy and of C, the equation, the arrays, time and memory, the gradient that
belongs to each operation, and a check of that gradient entry by entry.

The step is small, so that its arrays can be read, but it is the method's own.""",
        """  refimpl trace noprop
  refimpl trace noprop --out step.html
  refimpl trace noprop --step ct --backend numpy""",
    )
    parser.add_argument("slug", metavar="SLUG", help="a method (see: refimpl list)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page (default: SLUG-trace.html)")
    parser.add_argument("--step", metavar="NAME", help="which step, by any part of its name (default: the first)")
    parser.add_argument(
        "--backend",
        choices=("numpy", "native", "opencl", "auto"),
        default="auto",
        help="which body of the operations runs (default: auto, the fastest here)",
    )
    parser.set_defaults(command=_trace)


def _trace(options: argparse.Namespace) -> int:
    from refimpl.lab import walk

    module = parts.method(options.slug)
    for line in walk.run(module, options.out or Path(f"{options.slug}-trace.html"), options.step, options.backend):
        print(line)
    return 0
