"""The test harness itself: a gradient check's twin is held to the operation it stands for."""

import numpy as np
import pytest

from tests import harness
from tests.harness import central_differences, differentiated, gradient


@pytest.fixture
def registered(monkeypatch):
    """Registers a gradient check of `relu` for one test."""
    monkeypatch.setattr(harness, "GRADIENTS", {})

    def register(**settings):
        gradient("relu", wrt=("x",), **settings)(lambda args, dy, **options: None)

    return register


def shifted(args, slope):
    """relu at the arguments given, but of this slope everywhere."""
    x = args["x"].copy()
    return lambda: (np.maximum(x, 0) + slope * (args["x"] - x),)


def test_without_a_twin_the_operation_is_differentiated(registered):
    registered()
    args = {"x": np.array([-1.0, 3.0])}
    function = differentiated("relu", args, {})
    assert np.allclose(central_differences(lambda: function()[0].sum(), args["x"]), [0, 1])


@pytest.mark.parametrize("slope", [2.0, 5.0])
def test_a_twin_is_differentiated_in_place_of_the_operation_and_knows_the_options(registered, slope):
    registered(twin=shifted)
    args = {"x": np.array([-1.0, 3.0])}
    function = differentiated("relu", args, {"slope": slope})
    assert np.allclose(central_differences(lambda: function()[0].sum(), args["x"]), slope)


def test_a_twin_that_is_another_function_is_refused(registered):
    registered(twin=lambda args: lambda: (np.maximum(args["x"], 0) + 1e-9,))
    with pytest.raises(AssertionError, match="relu: its twin is another function"):
        differentiated("relu", {"x": np.array([-1.0, 3.0])}, {})


def test_a_twin_with_another_number_of_results_is_refused(registered):
    registered(twin=lambda args: lambda: ())
    with pytest.raises(AssertionError, match="relu: its twin has 0 results, expected 1"):
        differentiated("relu", {"x": np.array([-1.0, 3.0])}, {})
