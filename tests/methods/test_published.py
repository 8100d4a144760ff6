"""What docs/results publishes is what the code says of the published numbers."""

import json
from pathlib import Path

import pytest

from refimpl import methods, record

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


@pytest.mark.parametrize("slug", methods.slugs())
def test_published_verdicts_are_those_of_the_published_numbers(slug):
    methods.module(slug)
    claims = {c.id: c for c in record.claims(slug)}
    published = json.loads((RESULTS / f"{slug}.json").read_text(encoding="utf-8"))["claims"]
    for entry in published:
        claim, where = claims[entry["id"]], f"{entry['id']} {entry['data']}"
        assert (entry["sentence"], entry["threshold"]) == (claim.sentence, claim.threshold), where
        values = [m["values"] for m in entry["measured"]]
        assert len(values) >= 3 and all(values), where
        holds, note = claim.judge(values)
        assert entry["verdict"] == {True: "holds", False: "does not hold", None: "measured"}[holds], where
        assert entry["note"] == note, where
    assert {(c.id, data) for c in claims.values() for data in c.data} <= {(e["id"], e["data"]) for e in published}
