"""Every operation is complete: inputs to draw, an error bound, a gradient check, a mirror with the body's arguments."""

import inspect
import re
import sys
from pathlib import Path

import pytest

import tests.strategies  # noqa: F401
from refimpl.backends import operations
from tests.harness import BOUNDS, GRADIENTS, INPUTS

NATIVE = Path(__file__).resolve().parents[2] / "native"
sys.path.insert(0, str(NATIVE))
import build as native_build  # noqa: E402

OPERATIONS = operations()


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_has_inputs_to_draw_and_an_error_bound(name):
    assert name in INPUTS, f"register @inputs({name!r}) in tests/strategies"
    assert name in BOUNDS, f"register @bound({name!r}) in tests/strategies"


@pytest.mark.parametrize("name", [n for n in OPERATIONS if n.endswith("_backward")])
def test_backward_has_a_gradient_check(name):
    forward = name.removesuffix("_backward")
    assert forward in OPERATIONS, f"{name} has no forward operation {forward}"
    assert forward in GRADIENTS, f"register @gradient({forward!r}, ...) in tests/strategies"


def test_no_test_data_for_operations_that_do_not_exist():
    assert set(INPUTS) | set(BOUNDS) | set(GRADIENTS) <= set(OPERATIONS)


@pytest.mark.parametrize("name", [n for n, op in OPERATIONS.items() if len(op.bodies) > 1])
def test_mirror_has_the_arguments_of_the_body(name):
    op = OPERATIONS[name]
    body = inspect.signature(op.numpy).parameters
    for backend, mirror in op.bodies.items():
        parameters = inspect.signature(mirror).parameters
        assert list(parameters) == list(body), f"{backend} mirror of {name}: {list(parameters)} != {list(body)}"
        for p in body.values():
            assert parameters[p.name].default == p.default, f"{backend} mirror of {name}: default of {p.name}"
            assert parameters[p.name].kind == p.kind, f"{backend} mirror of {name}: kind of {p.name}"


C_KERNELS = {name: args for family in native_build.families() for name, args in native_build.prototypes(family)}


@pytest.mark.parametrize("name", [n for n, op in OPERATIONS.items() if n in C_KERNELS])
def test_c_kernel_takes_the_arguments_of_the_body_in_their_order(name):
    c_names = native_build.argument_names(C_KERNELS[name])
    shared = [p for p in inspect.signature(OPERATIONS[name].numpy).parameters if p in c_names]
    assert shared, f"kernel {name} shares no argument name with its NumPy body"
    positions = [c_names.index(p) for p in shared]
    assert positions == sorted(positions), f"kernel {name}: {c_names}, body: {shared}"
    assert c_names[-1] == "threads"


def test_every_c_prototype_is_seen_by_the_build():
    for header in (NATIVE / "include").glob("*.h"):
        if not (NATIVE / "src" / f"{header.stem}.c").exists():
            continue
        written = re.findall(r"RI\((\w+)\)\(", re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.DOTALL))
        assert written == [name for name, _ in native_build.prototypes(header.stem)], header.name
