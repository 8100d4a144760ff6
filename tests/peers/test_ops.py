"""Every operation, forward and backward, against PyTorch in float64 (skipped where PyTorch is not installed)."""

import importlib
import pkgutil

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import tests.peers
import tests.strategies
from refimpl.backends import backend, operations
from tests.harness import GRADIENTS, INPUTS, PEERS, array, as_tuple, relative_error

torch = pytest.importorskip("torch")
for _module in pkgutil.iter_modules(tests.peers.__path__):
    if not _module.name.startswith("test_"):
        importlib.import_module(f"tests.peers.{_module.name}")

OPERATIONS = operations()
FORWARD = [name for name in OPERATIONS if not name.endswith("_backward")]


@pytest.mark.parametrize("name", FORWARD)
def test_operation_has_a_peer(name):
    assert name in PEERS, f"register @peer({name!r}) in tests/peers"


@pytest.mark.parametrize("body", ["numpy", "native"])
@pytest.mark.parametrize("name", [n for n in FORWARD if n in PEERS])
@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=20)
@given(data=st.data())
def test_operation_equals_pytorch(name, body, data):
    op, spec = OPERATIONS[name], GRADIENTS.get(name)
    args = data.draw(st.composite(lambda draw: INPUTS[name](draw, np.dtype("float64")))(), label="args")
    floats = [v for v in args.values() if isinstance(v, np.ndarray) and v.dtype.kind == "f"]
    assume(all(np.isfinite(v).all() and (v.size == 0 or np.abs(v).max() < 1e3) for v in floats))
    assume(all(v.size for v in args.values() if isinstance(v, np.ndarray)))
    options = data.draw(st.composite(lambda draw: spec.options(draw))(), label="options") if spec else {}
    assume(spec is None or spec.smooth(args, **options))
    tensors = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in args.items()}
    for w in spec.wrt if spec else ():
        if tensors.get(w) is not None:
            tensors[w].requires_grad_(True)
    theirs = as_tuple(PEERS[name](torch, **tensors, **options))
    with backend(body), np.errstate(all="ignore"):
        written = {k: v.copy() if k in op.inplace and isinstance(v, np.ndarray) else v for k, v in args.items()}
        result = op(**written)
        ours = (() if result is None else as_tuple(result)) + tuple(written[k] for k in op.inplace)
        for i, (a, b) in enumerate(zip(ours, theirs)):
            if b is None:  # not asked for
                assert a is None, f"{name}: result {i} is there, but not in PyTorch"
                continue
            b = b.detach().numpy()
            assert np.shape(a) == b.shape, f"{name}: result {i} has shape {np.shape(a)}, PyTorch {b.shape}"
            assert relative_error(np.asarray(a), b) < 1e-11, f"{name}: result {i}"
        if spec is None:
            return
        dys = tuple(array(data.draw, np.shape(o), np.float64) for o in ours[: spec.outputs])
        _, grads = spec.run(args, dys[0] if spec.outputs == 1 else dys, **options)
    loss = sum((torch.tensor(dy) * o).sum() for dy, o in zip(dys, theirs))
    loss.backward()
    for w, ours_d in grads.items():
        theirs_d = tensors[w].grad
        theirs_d = np.zeros(args[w].shape) if theirs_d is None else theirs_d.numpy()
        assert relative_error(ours_d, theirs_d) < 1e-10, f"{name}: d{w}"
