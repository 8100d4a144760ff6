"""Settings of an experiment: what is refused before any work, and by which words."""

import numpy as np
import pytest

from refimpl import data, methods, record

DEFAULTS = {"T": 10, "lr": 1e-3, "block": "mlp", "hidden": (64, 64), "batch_size": 8, "noisy": False}


def test_settings_of_the_right_kind_come_back():
    asked = {"T": 1e3, "lr": 1, "block": "conv", "hidden": (3,), "noisy": True, "quick": True}
    found = record.given("m", DEFAULTS, asked)
    assert found == {"T": 1000, "lr": 1, "block": "conv", "hidden": (3,), "noisy": True} and type(found["T"]) is int


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("blok", "mlp", "m: no setting 'blok', expected one of T, lr, .*Did you mean block"),
        *[
            ("T", v, "m: T is .*, expected a whole number of at least 0")
            for v in (None, "x", 2.5, -1, True, (3,), 10**30)
        ],
        *[("lr", v, "m: lr is .*, expected a number") for v in (None, "x", np.nan, np.inf, (), {})],
        *[("block", v, "m: block is .*, expected a word, as in mlp") for v in (None, 3, ())],
        *[("hidden", v, "m: hidden is .*, expected ") for v in (None, 3, "x", (0,), ("a",), ((1,),))],
        ("batch_size", 0, "m: batch_size is 0, expected a whole number of at least 1"),
        ("noisy", 1, "m: noisy is 1, expected true or false"),
    ],
)
def test_other_settings_are_refused_by_name(name, value, told):
    with pytest.raises(ValueError, match=told):
        record.given("m", DEFAULTS, {name: value})


@pytest.mark.parametrize("slug", methods.slugs())
def test_no_setting_of_any_method_takes_nonsense(slug):
    """A setting that a method has, with a value of no kind, is a ValueError that names it: no TypeError from within."""
    module = methods.module(slug)
    few = data.load(methods.data(slug)[0]).quick(0)
    with pytest.raises(ValueError, match="no setting") as caught:
        module.experiment(few, 0, {"no_such_thing": 1})
    for name in str(caught.value).split("expected one of ")[1].split(", "):
        with pytest.raises(ValueError, match=f"{slug}: {name} is "):
            module.experiment(few, 0, {name: {}})
