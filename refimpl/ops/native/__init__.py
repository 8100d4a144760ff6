"""Native mirrors: for each family of operations, the Python side of its C kernels.

Importing this package registers every mirror; without the C core it registers none.
"""

from refimpl.backends import native

if native.lib is not None:
    from refimpl.ops.native import (
        activation,  # noqa: F401
        attention,  # noqa: F401
        conv,  # noqa: F401
        denoise,  # noqa: F401
        embedding,  # noqa: F401
        events,  # noqa: F401
        goodness,  # noqa: F401
        graph,  # noqa: F401
        heads,  # noqa: F401
        loss,  # noqa: F401
        matmul,  # noqa: F401
        norm,  # noqa: F401
        pool,  # noqa: F401
        recurrent,  # noqa: F401
        reduce,  # noqa: F401
        rotary,  # noqa: F401
        segment,  # noqa: F401
        softmax,  # noqa: F401
        sparse,  # noqa: F401
        spiking,  # noqa: F401
        target,  # noqa: F401
        update,  # noqa: F401
        upsample,  # noqa: F401
        wave,  # noqa: F401
    )
