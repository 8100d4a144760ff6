"""Files of the Planetoid citation graphs, read without running what a pickle may ask to run.

A set is eight files `ind.<name>.<part>`. x, tx and allx are pickled SciPy matrices (features of the labelled, the test
and all nodes but the test nodes), y, ty and ally pickled NumPy arrays (their classes, one-hot), graph is a pickled dict
of lists (the neighbours of each node), and test.index names the node of each row of tx in text.

Unpickling a foreign file is running a foreign program. Here nothing is unpickled: `_interpret` reads the instructions
itself, knows those that build numbers, strings, tuples, lists and dicts, and turns the four objects that such files
name (a CSR matrix, an array, a dtype, a defaultdict) into plain records. Any other name or instruction is an error.
SciPy is not needed.

Source: Yang, Cohen and Salakhutdinov, "Revisiting semi-supervised learning with graph embeddings", 2016.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.data.errors import DataError
from refimpl.data.files import take_all

__all__ = ["Citations", "read_pickled", "read_planetoid"]

PARTS = ("x", "y", "tx", "ty", "allx", "ally", "graph", "test.index")
MOST_BYTES = 64 << 20  # of one file; the largest of the published small sets has 0.6 MB
MOST_INSTRUCTIONS = 5_000_000
DTYPES = {"i4": np.int32, "i8": np.int64, "f4": np.float32, "f8": np.float64, "u1": np.uint8, "b1": np.bool_}


@dataclass(frozen=True, eq=False)
class Citations:
    """What the eight files say. Nodes are numbered as in `graph`; N nodes, F features, K classes.

    edges (E, 2): each neighbour of each node, as it stands there (in both directions, some twice). rows, columns,
    values: the features (N, F) that are not zero. labels (N,): the class, -1 for a node that no file describes. train,
    validation, test: the split of the paper, node numbers.
    """

    n: int
    edges: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    n_features: int
    labels: np.ndarray
    n_classes: int
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def read_planetoid(folder: str | os.PathLike[str], name: str) -> Citations:
    """The set `name` ("cora", "citeseer") in a folder. Raises DataError that names the file for anything unexpected.

    Nodes without features in any file (15 test nodes of CiteSeer) have none and the label -1. The validation nodes are
    the 500 after the labelled ones, as in the paper by Kipf and Welling.
    """
    where = {part: Path(folder) / f"ind.{name}.{part}" for part in PARTS}
    (x, y), (tx, ty), (allx, ally) = (
        (_matrix(where[a]), _array(where[b])) for a, b in (("x", "y"), ("tx", "ty"), ("allx", "ally"))
    )
    F, K = allx[1][1], ally.shape[1] if ally.ndim == 2 else 0
    for part, (matrix, classes) in {"x": (x, y), "tx": (tx, ty), "allx": (allx, ally)}.items():
        if matrix[1][1] != F:
            raise DataError(f"{where[part]}: {matrix[1][1]} features, but allx has {F}")
        if classes.shape != (matrix[1][0], K) or K < 2:
            raise DataError(
                f"{where[part]}: {matrix[1][0]} nodes, but their classes have shape {classes.shape}, expected K >= 2"
            )
        if not ((classes == 0) | (classes == 1)).all() or not (classes.sum(axis=1) == 1).all():
            raise DataError(f"{where[part.replace('x', 'y')]}: a node without exactly one class")
    graph = _neighbours(where["graph"])
    n, known = len(graph), allx[1][0]
    test = _numbers(where["test.index"])
    if len(test) != tx[1][0] or len(set(test.tolist())) != len(test) or (test < known).any() or (test >= n).any():
        raise DataError(f"{where['test.index']}: expected {tx[1][0]} different nodes from {known} to {n - 1}")
    if x[1][0] > known:
        raise DataError(f"{where['x']}: {x[1][0]} labelled nodes, but allx has {known}")
    edges = np.array([(i, j) for i, near in graph.items() for j in near], np.int64).reshape(-1, 2)
    if edges.size and not 0 <= edges.min() <= edges.max() < n:
        raise DataError(f"{where['graph']}: neighbours {edges.min()} to {edges.max()}, expected 0 to {n - 1}")
    labels = np.full(n, -1)
    labels[:known], labels[test] = ally.argmax(axis=1), ty.argmax(axis=1)
    (rows, columns, values), (t_rows, t_columns, t_values) = (_entries(m) for m in (allx, tx))
    train = np.arange(x[1][0])
    return Citations(
        n=n,
        edges=edges,
        rows=np.concatenate([rows, test[t_rows]]),
        columns=np.concatenate([columns, t_columns]),
        values=np.concatenate([values, t_values]),
        n_features=F,
        labels=labels,
        n_classes=K,
        train=train,
        validation=np.arange(len(train), min(len(train) + 500, known)),
        test=np.sort(test),
    )


def read_pickled(path: str | os.PathLike[str]) -> Any:
    """The object in a Planetoid file: an array, a dict of lists, or ("csr", shape, indptr, indices, data).

    Raises DataError for a file that holds anything else, or that is damaged.
    """
    program = bytes(take_all(path, MOST_BYTES))
    try:
        return _interpret(program)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # damaged instructions may fail nearly anywhere
        raise DataError(f"{path}: not a whole Planetoid file: {error!r}") from error


# ---------------------------------------------------------------- the few instructions of a pickle


@dataclass
class _Name:
    """Something named by the pickle; calling it is up to `_call`."""

    name: str


@dataclass
class _Dtype:
    code: str
    order: str = "|"


@dataclass
class _Made:
    """An array or a matrix before its state is known; `value` afterwards."""

    kind: str
    value: Any = None


_MARK = object()
_KNOWN = {
    "scipy.sparse.csr csr_matrix": "csr",
    "scipy.sparse._csr csr_matrix": "csr",
    "numpy.core.multiarray _reconstruct": "reconstruct",
    "numpy._core.multiarray _reconstruct": "reconstruct",
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "collections defaultdict": "defaultdict",
    "__builtin__ list": "list",
    "builtins list": "list",
}
_VALUES = {"BININT", "BININT1", "BININT2", "SHORT_BINSTRING", "BINSTRING", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


def _interpret(program: bytes) -> Any:
    """Carry out the instructions on a stack of plain values."""
    import pickletools  # slow to import, and needed here alone

    stack: list[Any] = []
    memo: dict[int, Any] = {}
    end = 0
    for count, (instruction, argument, position) in enumerate(pickletools.genops(program)):
        op, end = instruction.name, (position or 0) + 1
        if count > MOST_INSTRUCTIONS:
            raise DataError(f"more than {MOST_INSTRUCTIONS} instructions")
        if op in ("PROTO", "FRAME"):
            continue
        if op == "STOP":
            break
        if op in _VALUES:
            stack.append(argument)
        elif op in _CONSTANTS:
            stack.append(_CONSTANTS[op])
        elif op == "GLOBAL":
            if argument not in _KNOWN:
                raise DataError(f"it asks for {argument!r}, which no such file needs; nothing was run")
            stack.append(_Name(_KNOWN[str(argument)]))
        elif op == "MARK":
            stack.append(_MARK)
        elif op in ("EMPTY_LIST", "EMPTY_DICT", "EMPTY_TUPLE"):
            stack.append({"EMPTY_LIST": [], "EMPTY_DICT": {}, "EMPTY_TUPLE": ()}[op])
        elif op in ("TUPLE1", "TUPLE2", "TUPLE3"):
            n = int(op[-1])
            stack[-n:] = [tuple(_taken(stack, n))]
        elif op == "TUPLE":
            stack.append(tuple(_marked(stack)))
        elif op == "APPEND":
            item = stack.pop()
            _the(list, stack[-1]).append(item)
        elif op == "APPENDS":
            items = _marked(stack)
            _the(list, stack[-1]).extend(items)
        elif op == "SETITEM":
            key, value = _taken(stack, 2)
            del stack[-2:]
            _the(dict, stack[-1])[key] = value
        elif op == "SETITEMS":
            items = _marked(stack)
            _the(dict, stack[-1]).update(zip(items[::2], items[1::2], strict=True))
        elif op in ("BINPUT", "LONG_BINPUT"):
            memo[int(argument)] = stack[-1]  # type: ignore[arg-type]
        elif op == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif op in ("BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument)])  # type: ignore[arg-type]
        elif op in ("REDUCE", "NEWOBJ"):
            named, arguments = _taken(stack, 2)
            stack[-2:] = [_call(_the(_Name, named).name, _the(tuple, arguments))]
        elif op == "BUILD":
            state = stack.pop()
            _build(stack[-1], state)
        else:
            raise DataError(f"instruction {op} at byte {position} has no place in such a file")
    if end != len(program):
        raise DataError(f"{len(program) - end} bytes follow the end of the pickle")
    (result,) = stack
    return result.value if isinstance(result, _Made) else result


def _taken(stack: list[Any], n: int) -> list[Any]:
    """The last n values. They stay where they are."""
    if len(stack) < n or any(v is _MARK for v in stack[-n:]):
        raise DataError("an instruction finds too few values")
    return stack[-n:]


def _marked(stack: list[Any]) -> list[Any]:
    """The values after the last mark; they and the mark are removed."""
    at = len(stack) - 1
    while stack[at] is not _MARK:
        at -= 1
    values = stack[at + 1 :]
    del stack[at:]
    return values


def _the(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise DataError(f"a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _call(name: str, arguments: tuple[Any, ...]) -> Any:
    if name == "defaultdict":
        return {}
    if name == "dtype" and arguments and isinstance(arguments[0], str):
        return _Dtype(arguments[0])
    if name in ("reconstruct", "csr"):
        return _Made("array" if name == "reconstruct" else "csr")
    raise DataError(f"a call of {name} with {arguments!r:.60}")


def _build(target: Any, state: Any) -> None:
    """Give a dtype, an array or a matrix its state."""
    if isinstance(target, _Dtype):
        target.order = str(_the(tuple, state)[1])
    elif isinstance(target, _Made) and target.kind == "array" and target.value is None:
        _, shape, dtype, fortran, content = _the(tuple, state)
        target.value = _stored_array(shape, dtype, fortran, content)
    elif isinstance(target, _Made) and target.kind == "csr" and target.value is None:
        parts = {key: value.value if isinstance(value, _Made) else value for key, value in _the(dict, state).items()}
        missing = {"_shape", "indptr", "indices", "data"} - set(parts)
        if missing:
            raise DataError(f"a matrix without {sorted(missing)[0]}")
        target.value = ("csr", parts["_shape"], parts["indptr"], parts["indices"], parts["data"])
    else:
        raise DataError(f"a state for a {type(target).__name__}")


def _stored_array(shape: Any, dtype: Any, fortran: Any, content: Any) -> np.ndarray:
    dtype = _the(_Dtype, dtype)
    if dtype.code not in DTYPES or dtype.order not in "<|":
        raise DataError(f"an array of dtype {dtype.order}{dtype.code}, expected little-endian {', '.join(DTYPES)}")
    if not isinstance(shape, tuple) or not all(type(s) is int and s >= 0 for s in shape):
        raise DataError(f"an array of shape {shape!r}")
    # pickletools gives the strings of Python 2 as text, one character a byte
    raw = content.encode("latin1") if isinstance(content, str) else content
    values: np.ndarray = np.frombuffer(raw, np.dtype(DTYPES[dtype.code]).newbyteorder("<")).astype(DTYPES[dtype.code])
    return values.reshape(shape, order="F" if fortran else "C")


# ---------------------------------------------------------------- what the objects must be


def _matrix(path: Path) -> tuple[str, tuple[int, int], np.ndarray, np.ndarray, np.ndarray]:
    """A CSR matrix whose parts fit together."""
    found = read_pickled(path)
    if not isinstance(found, tuple) or found[0] != "csr":
        raise DataError(f"{path}: holds a {type(found).__name__}, expected a sparse matrix")
    _, shape, indptr, indices, data = found
    parts = (indptr, indices, data)
    if (
        not isinstance(shape, tuple)
        or [type(s) for s in shape] != [int, int]
        or not all(isinstance(a, np.ndarray) and a.ndim == 1 for a in parts)
        or indptr.dtype.kind != "i"
        or indices.dtype.kind != "i"
    ):
        raise DataError(f"{path}: a sparse matrix of shape {shape!r} with unusable parts")
    n, m = shape
    if len(indptr) != n + 1 or indptr[0] != 0 or indptr[-1] != len(indices) or (np.diff(indptr) < 0).any():
        raise DataError(f"{path}: indptr does not climb from 0 to {len(indices)} in {n} rows")
    if len(indices) != len(data) or (len(indices) and not 0 <= indices.min() <= indices.max() < m):
        raise DataError(f"{path}: column numbers outside [0, {m})")
    if not np.isfinite(data.astype(np.float64)).all():
        raise DataError(f"{path}: features that are not finite")
    return found


def _entries(matrix: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    _, (n, _), indptr, indices, data = matrix
    return np.repeat(np.arange(n), np.diff(indptr)), indices.astype(np.int64), data.astype(np.float64)


def _array(path: Path) -> np.ndarray:
    found = read_pickled(path)
    if not isinstance(found, np.ndarray):
        raise DataError(f"{path}: holds a {type(found).__name__}, expected an array")
    return found


def _neighbours(path: Path) -> dict[int, list[int]]:
    found = read_pickled(path)
    if not isinstance(found, dict) or sorted(found) != list(range(len(found))):
        raise DataError(f"{path}: expected a dict with the nodes 0, 1, 2, ... as keys")
    for near in found.values():
        if not isinstance(near, list) or not all(type(j) is int for j in near):
            raise DataError(f"{path}: expected a list of node numbers for each node")
    return found


def _numbers(path: Path) -> np.ndarray:
    try:
        return np.array([int(line) for line in take_all(path, MOST_BYTES).decode("ascii").split()], np.int64)
    except ValueError as error:
        raise DataError(f"{path}: expected one node number a line: {error}") from error
