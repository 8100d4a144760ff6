"""StreamBP's steps in PyTorch are the same steps."""

import numpy as np
import pytest

from refimpl.methods.memory.streambp import study
from refimpl.methods.memory.streambp.strategies import Plain, Stream

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("strategy", [Plain(), Stream(5, 5)])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_training_follows_pytorch(strategy, kv_heads):
    sizes = {"layers": 2, "d": 8, "heads": 2, "kv_heads": kv_heads, "hidden": 12}
    step = study._step("s", 2, 12, 11, strategy, sizes)
    ours, theirs = step.make(), step.make_torch(torch)
    np.testing.assert_allclose([ours() for _ in range(5)], [theirs() for _ in range(5)], rtol=2e-5)
