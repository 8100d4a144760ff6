"""What the commands share: kinds of arguments, JSON, errors."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any


def complain(message: object) -> None:
    """One line on standard error."""
    from refimpl.lab.progress import say

    say(f"refimpl: {message}")


def method(slug: str) -> Any:
    """The module of a method. Raises UsageError for an unknown slug."""
    from refimpl import methods
    from refimpl.lab.errors import UsageError

    try:
        return methods.module(slug)
    except ValueError as error:
        raise UsageError(f"{error} (see: refimpl list)") from None


# ---------------------------------------------------------------- help


def tell(parser: argparse.ArgumentParser, description: str, examples: str) -> None:
    """The text of a command's --help, around its arguments."""
    parser.description = description
    parser.epilog = f"examples:\n{examples}"


def json_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE", help="write the numbers as JSON into FILE ('-': to standard output)")


def threads(parser: argparse.ArgumentParser) -> None:
    text = "threads for the C core and BLAS (default: all cores)"
    parser.add_argument("--threads", type=_thread_count, metavar="N", help=text)


# ---------------------------------------------------------------- kinds of arguments


def setting(text: str) -> tuple[str, Any]:
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


def whole(least: int) -> Any:
    """Whole numbers of at least `least`."""

    def read(text: str) -> int:
        try:
            n = int(text)
        except ValueError:
            n = least - 1
        if n < least:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least {least}")
        return n

    return read


def temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of at least 0")
    return value


def seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of seconds above 0")
    return seconds


def _thread_count(text: str) -> int:
    from refimpl.backends.threads import MAX_THREADS

    n = whole(1)(text)
    if n > MAX_THREADS:
        raise argparse.ArgumentTypeError(f"{text!r}: expected at most {MAX_THREADS}")
    return n


# ---------------------------------------------------------------- JSON


def print_json(value: Any) -> None:
    from refimpl.lab.files import dumps

    print(dumps(value), end="")


def check_target(target: str | None) -> None:
    """Complain about a file that cannot be written before the work, not after it."""
    from refimpl.lab.errors import UsageError

    if target not in (None, "-"):
        folder = Path(target).absolute().parent
        if not folder.is_dir() or not os.access(folder, os.W_OK) or Path(target).is_dir():
            raise UsageError(f"--json {target}: cannot be written there")


def write_json(target: str | None, value: Any) -> None:
    from refimpl.lab.files import write_json

    if target == "-":
        print_json(value)
    elif target is not None:
        write_json(Path(target), value)
