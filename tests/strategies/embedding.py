import numpy as np
from hypothesis import strategies as st

from refimpl import ops
from tests.harness import array, bound, generator, gradient, inputs, size, ulps


def _index(draw, V):
    shape = tuple(size(draw, 0, 17) for _ in range(draw(st.integers(0, 2))))
    if V == 0:
        shape = (*shape, 0)
    dtype = draw(st.sampled_from([np.int64, np.int64, np.int32, np.uint8, np.uint64]))
    few = draw(st.booleans())  # many entries for the same row
    return generator(draw).integers(0, max(1, min(V, 2) if few else V), shape).astype(dtype)


@inputs("embedding")
def _(draw, dtype):
    V = size(draw, 0, 33)
    return {"index": _index(draw, V), "table": array(draw, (V, size(draw, 0, 65)), dtype, special=True)}


@inputs("embedding_backward")
def _(draw, dtype):
    V = size(draw, 0, 33)
    index = _index(draw, V)
    return {"dy": array(draw, (*index.shape, size(draw, 0, 65)), dtype, special=True), "index": index, "V": V}


@gradient("embedding", wrt=("table",))
def _(args, dy):
    index, table = args["index"], args["table"]
    return ops.embedding(index, table), {"table": ops.embedding_backward(dy, index, len(table))}


# Copies, and sums in the same order without a product: equal to the last bit.
bound("embedding", "embedding_backward")(ulps(0))


def _dropout(draw, dtype, name):
    x = array(draw, tuple(size(draw, 0, 40) for _ in range(draw(st.integers(0, 2)))), dtype, special=True)
    mask = np.asarray(generator(draw).integers(0, 2, x.shape)).astype(draw(st.sampled_from([np.bool_, np.uint8])))
    return {name: x, "mask": mask, "rate": draw(st.floats(0, 0.99))}


@inputs("dropout")
def _(draw, dtype):
    return _dropout(draw, dtype, "x")


@inputs("dropout_backward")
def _(draw, dtype):
    return _dropout(draw, dtype, "dy")


@gradient("dropout", wrt=("x",))
def _(args, dy):
    return ops.dropout(**args), {"x": ops.dropout_backward(dy, args["mask"], args["rate"])}


# One product with the same rounded number.
bound("dropout", "dropout_backward")(ulps(1))
