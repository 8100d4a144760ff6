"""Floor 7: the `refimpl` command. It reads arguments, asks the lab, prints; it computes nothing itself.

Exit codes: 0 done; 1 something failed; 2 the request makes no sense; 130 stopped by Ctrl-C (143: by SIGTERM). Results
go to standard output, progress and errors to standard error, an error as one line. A module here holds the commands of
one kind; the one that is asked for is imported, and what only it needs inside it, so that `refimpl --help` is quick.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from refimpl._version import __version__
from refimpl.cli.parts import complain

__all__ = ["main"]

COMMANDS = {  # command -> its module, which describes it with describe_COMMAND; a line of help
    "list": ("methods", "the methods, one a line"),
    "info": ("methods", "one method: paper, idea, claims"),
    "run": ("training", "train a method and its baselines"),
    "generate": ("training", "write text with a language model"),
    "claims": ("training", "measure the claims of papers"),
    "compare": ("comparing", "train one network by every rule"),
    "bench": ("speed", "race NumPy, C and PyTorch"),
    "tune": ("speed", "learn which bodies are fastest here"),
    "trace": ("trace", "a page to step through a training step"),
    "doctor": ("doctor", "what this machine has"),
    "tutorial": ("tutorial", "read and run a tutorial"),
    "data": ("data", "data sets: list, fetch, verify, path"),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        complain(f"{message} (see: {self.prog} --help)")
        raise SystemExit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # "µs" in a terminal without "µ" is no reason to lose a table
    try:
        options = _parser(argv).parse_args(argv)
    except SystemExit as stop:  # argparse has said why
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        complain("stopped")
        return 130
    from refimpl.data import DataError
    from refimpl.lab.errors import LabError

    try:
        code = options.command(options)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except LabError as error:
        complain(error)
        return error.code
    except DataError as error:
        complain(error)
        return 1
    except KeyboardInterrupt:
        complain("stopped")
        return 130
    except BrokenPipeError:  # `refimpl list | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError as error:
        complain(f"not enough memory: {error or 'an array did not fit'}. Try less data or a smaller model")
        return 1
    except OSError as error:
        complain(error)
        return 1


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of all commands, with the arguments of the one that `argv` asks for."""
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
    asked = next((word for word in argv if not word.startswith("-")), None)
    for name, (module, help) in COMMANDS.items():
        made = commands.add_parser(name, help=help, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name == asked:
            getattr(importlib.import_module(f"refimpl.cli.{module}"), f"describe_{name}")(made)
    return parser
