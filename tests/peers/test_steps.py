"""The training steps of the race: from the same weights PyTorch trains to the same losses."""

import numpy as np
import pytest

import refimpl
from refimpl.lab.steps import steps

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("step", [s for s in steps() if "B=128" not in s.shape], ids=lambda s: s.name)
def test_a_training_step_is_the_same_in_pytorch(step):
    with refimpl.backend("native"):
        mine = step.make()
        losses = [mine() for _ in range(4)]
    theirs = step.make_torch(torch)
    assert losses == pytest.approx([theirs() for _ in range(4)], rel=1e-3)
    assert not np.isclose(losses[0], losses[-1], rtol=1e-3)  # something was learned
