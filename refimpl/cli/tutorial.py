"""`refimpl tutorial`: read and run a tutorial."""

from __future__ import annotations

import argparse
from pathlib import Path

from refimpl.cli import parts


def describe_tutorial(parser: argparse.ArgumentParser) -> None:
    parts.tell(
        parser,
        """Open a tutorial in Jupyter: it is written as NAME.ipynb into the current folder
(or --out) and opened there. Without a name: list them. With --run its cells run
here in the terminal, without Jupyter, and the first that fails is reported.

REFIMPL_TUTORIAL_QUICK=1 makes tutorials train less, to try them.""",
        """  refimpl tutorial
  refimpl tutorial gradients-by-hand
  refimpl tutorial noprop --run""",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a tutorial (a method's slug, or see the list)")
    parser.add_argument("--run", action="store_true", help="run it here, without Jupyter")
    parser.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="folder for the notebook (default: here)"
    )
    parser.set_defaults(command=_tutorial)


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
