"""`refimpl doctor`: what this machine has and lacks."""

from __future__ import annotations

import argparse

from refimpl.cli import parts


def describe_doctor(parser: argparse.ArgumentParser) -> None:
    parts.tell(
        parser,
        "Look at Python, NumPy, the C core, threads, BLAS, wisdom, OpenCL, data sets\n"
        "and packages, and say what to do about each problem.",
        "  refimpl doctor\n  refimpl doctor --json",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(command=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from refimpl.lab import doctor

    found = doctor.examine()
    if options.json:
        parts.print_json(found)
    else:
        print(doctor.report(found))
    return 0
