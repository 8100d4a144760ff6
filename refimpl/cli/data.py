"""`refimpl data`: which data sets there are, and where."""

from __future__ import annotations

import argparse

from refimpl.cli import parts


def describe_data(parser: argparse.ArgumentParser) -> None:
    parts.tell(
        parser,
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
    parser.add_argument("action", choices=("list", "fetch", "verify", "path"), help="what to do")
    parser.add_argument("name", nargs="?", metavar="NAME", help="a data set")
    parser.set_defaults(command=_data)


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
