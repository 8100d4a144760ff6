"""Floor 2: the mathematics. Pure functions, forward and backward, each with a NumPy body that defines it.

Where an operation is hot it has a C mirror too. No state, no randomness, no I/O: masks and noise are arguments.
"""

from os.path import exists as _exists

import refimpl.ops.native  # noqa: F401  (registers the mirrors)
from refimpl._disk import wisdom_file as _wisdom_file
from refimpl.backends.dispatch import prepare_with as _prepare_with
from refimpl.ops.activation import *  # noqa: F403
from refimpl.ops.attention import *  # noqa: F403
from refimpl.ops.conv import *  # noqa: F403
from refimpl.ops.denoise import *  # noqa: F403
from refimpl.ops.embedding import *  # noqa: F403
from refimpl.ops.events import *  # noqa: F403
from refimpl.ops.goodness import *  # noqa: F403
from refimpl.ops.graph import *  # noqa: F403
from refimpl.ops.heads import *  # noqa: F403
from refimpl.ops.loss import *  # noqa: F403
from refimpl.ops.matmul import *  # noqa: F403
from refimpl.ops.norm import *  # noqa: F403
from refimpl.ops.pool import *  # noqa: F403
from refimpl.ops.recurrent import *  # noqa: F403
from refimpl.ops.reduce import *  # noqa: F403
from refimpl.ops.rotary import *  # noqa: F403
from refimpl.ops.segment import *  # noqa: F403
from refimpl.ops.softmax import *  # noqa: F403
from refimpl.ops.sparse import *  # noqa: F403
from refimpl.ops.spiking import *  # noqa: F403
from refimpl.ops.target import *  # noqa: F403
from refimpl.ops.update import *  # noqa: F403
from refimpl.ops.upsample import *  # noqa: F403
from refimpl.ops.wave import *  # noqa: F403


def _learned() -> None:
    from refimpl.backends import wisdom
    from refimpl.ops import tunables  # noqa: F401  (declares what wisdom may decide)

    wisdom.load()


if (_file := _wisdom_file()) is not None and _exists(_file):  # else nothing is tuned here
    _prepare_with(_learned)
