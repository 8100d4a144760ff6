"""`refimpl list` and `refimpl info`: what there is."""

from __future__ import annotations

import argparse
from typing import Any

from refimpl.cli import parts


def describe_list(parser: argparse.ArgumentParser) -> None:
    parts.tell(
        parser,
        "List the methods: slug, family, year, title.",
        "  refimpl list\n  refimpl list --json",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(command=_list)


def _list(options: argparse.Namespace) -> int:
    from refimpl import methods
    from refimpl.lab.text import table

    papers = [methods.module(slug).PAPER for slug in methods.slugs()]
    if options.json:
        parts.print_json([_paper(p) for p in papers])
        return 0
    print(table(("slug", "family", "year", "paper"), [(p.slug, p.family, str(p.year), p.title) for p in papers]))
    print(f"\n{len(papers)} method{'s' * (len(papers) != 1)}. More about one: refimpl info SLUG")
    return 0


def _paper(paper: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(paper)


def describe_info(parser: argparse.ArgumentParser) -> None:
    parts.tell(
        parser,
        "Tell where a method comes from, its idea, and its claims that can be measured.",
        "  refimpl info noprop\n  refimpl info noprop --json",
    )
    parser.add_argument("slug", metavar="SLUG", help="a method (see: refimpl list)")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(command=_info)


def _info(options: argparse.Namespace) -> int:
    from refimpl import record
    from refimpl.lab.text import paragraph

    paper = parts.method(options.slug).PAPER
    claims = record.claims(options.slug)
    if options.json:
        keys = ("id", "sentence", "threshold", "data")
        parts.print_json({**_paper(paper), "claims": [{k: getattr(c, k) for k in keys} for c in claims]})
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
