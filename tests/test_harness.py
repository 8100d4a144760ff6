"""The test harness itself: a gradient check's twin is held to the operation it stands for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from tests import harness
from tests.harness import assert_gradient, central_differences, differentiated, gradient


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


def test_a_gradient_is_compared_where_there_is_one():
    x = np.array([-1.0, 3.0, 4e-6])  # the last one's kink is within the step
    loss = lambda: float(np.maximum(x, 0).sum())  # noqa: E731
    assert_gradient(np.array([0.0, 1.0, 7.0]), loss, x)
    for wrong in ([1e-5, 1.0, 1.0], [0.0, 1 + 1e-5, 1.0]):
        with pytest.raises(AssertionError, match=r"gradient of w at .* the central difference"):
            assert_gradient(np.array(wrong), loss, x, of="of w")


def kinked():
    x = np.array([-1.0, 3e-6, 4e-6])
    assert_gradient(np.zeros(3), lambda: float(np.maximum(x, 0).sum()), x)


def test_a_draw_next_to_kinks_in_most_entries_is_rejected():
    drawn = given(st.none())(lambda _: kinked())
    with pytest.raises(Unsatisfiable):
        drawn()
    with pytest.raises(AssertionError, match="2 of 3 entries have a kink"):
        kinked()
