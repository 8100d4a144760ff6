"""Graph data: the karate club, Planetoid files (read strictly), splits of nodes and of edges."""

from __future__ import annotations

import pickle
import struct
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import refimpl.data as data
from refimpl.data import DataError, DataNotFound
from refimpl.data.graphs import Graph, GraphData
from refimpl.data.planetoid import PARTS, read_pickled, read_planetoid
from refimpl.nn.graph import Sparse

# ---------------------------------------------------------------- files made by hand, opcode by opcode


def text(s: bytes) -> bytes:
    return b"U" + bytes([len(s)]) + s if len(s) < 256 else b"T" + struct.pack("<i", len(s)) + s


def integer(n: int) -> bytes:
    return b"J" + struct.pack("<i", n)


def array_program(a: np.ndarray) -> bytes:
    """A NumPy array as Python 2 pickles it (protocol 2), without the first and the last instruction."""
    shape = b"(" + b"".join(integer(n) for n in a.shape) + b"t"
    code = {"i": b"i", "f": b"f"}[a.dtype.kind] + str(a.itemsize).encode()
    dtype = b"cnumpy\ndtype\n(" + text(code) + integer(0) + integer(1) + b"tR"
    dtype += b"(" + integer(3) + text(b"<") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb"
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + integer(0) + b"t" + text(b"b") + b"tR"
    return made + b"(" + integer(1) + shape + dtype + b"\x89" + text(a.tobytes()) + b"tb"


def matrix_program(a: np.ndarray) -> bytes:
    rows, columns = np.nonzero(a)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(a)))]).astype(np.int32)
    parts = {b"indptr": indptr, b"indices": columns.astype(np.int32), b"data": a[rows, columns].astype(np.float32)}
    state = b"}(" + text(b"_shape") + b"(" + integer(a.shape[0]) + integer(a.shape[1]) + b"t"
    state += b"".join(text(name) + array_program(values) for name, values in parts.items()) + b"u"
    return b"cscipy.sparse.csr\ncsr_matrix\n)\x81" + state + b"b"


def whole(program: bytes) -> bytes:
    return b"\x80\x02" + program + b"."


def write_set(folder: Path, **changes: bytes) -> dict[str, np.ndarray]:
    """A set of 9 nodes: 0..6 known (0..1 labelled), 8 and 7 for the test, in this order; 4 features, 2 classes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    features = (rng.random((9, 4)) < 0.5) * 1.0
    classes = np.eye(2, dtype=np.int32)[np.arange(9) % 2]
    graph = defaultdict(list, {i: [(i + 1) % 9, (i + 8) % 9] for i in range(9)})
    files = {
        "x": whole(matrix_program(features[:2])),
        "y": whole(array_program(classes[:2])),
        "allx": whole(matrix_program(features[:7])),
        "ally": whole(array_program(classes[:7])),
        "tx": whole(matrix_program(features[[8, 7]])),
        "ty": whole(array_program(classes[[8, 7]])),
        "graph": pickle.dumps(graph, 2),
        "test.index": b"8\n7\n",
        **changes,
    }
    for part, content in files.items():
        (folder / f"ind.cora.{part}").write_bytes(content)
    return {"features": features, "classes": classes}


def test_a_planetoid_set_is_put_together_from_its_files(tmp_path: Path) -> None:
    written = write_set(tmp_path / "planetoid")
    found = data.load("cora", root=tmp_path)
    x = written["features"] / np.maximum(written["features"].sum(axis=1, keepdims=True), 1)
    assert np.allclose(found.graph.x.dense(), x)
    assert np.array_equal(found.labels, np.arange(9) % 2)
    assert np.array_equal(found.graph.A.dense(), Sparse.from_edges(9, [(i, (i + 1) % 9) for i in range(9)]).dense())
    train, validation, test = (np.flatnonzero(m).tolist() for m in found.masks)
    assert (train, validation, test) == ([0, 1], [2, 3, 4, 5, 6], [7, 8])


def test_a_node_that_no_file_describes_has_no_label(tmp_path: Path) -> None:
    graph = {i: [(i + 1) % 10] for i in range(10)}
    write_set(tmp_path, graph=pickle.dumps(graph, 2), **{"test.index": b"9\n7\n"})
    found = read_planetoid(tmp_path, "cora")
    assert found.n == 10 and found.labels[8] == -1 and (found.labels >= 0).sum() == 9
    assert 8 not in found.rows


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_dicts_of_lists_of_any_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    file = tmp_path / "graph"
    for graph in ({}, {0: []}, {0: [1], 1: [0, 300, 70_000]}):
        file.write_bytes(pickle.dumps(graph, protocol))
        assert read_pickled(file) == graph


class Evil:
    def __reduce__(self):
        return eval, ("open('hacked', 'w').write('x')",)


def test_a_file_that_asks_for_more_is_refused_and_nothing_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "ind.cora.graph"
    bad = {
        "__builtin__ eval": pickle.dumps(Evil(), 2),
        "has no place in such a file": pickle.dumps(Evil(), 4),
        "os system": b"\x80\x02cos\nsystem\nU\x02ls\x85R.",
        "instruction INST": b"(U\x02lsios\nsystem\n.",
        "a call of list": b"\x80\x02c__builtin__\nlist\n)R.",
        "a state for a dict": b"\x80\x02}}b.",
        "a list where a tuple": b"\x80\x02cnumpy\ndtype\n]R.",
        "finds too few values": b"\x80\x02R.",
        "bytes follow the end": pickle.dumps({}, 2) + b"more",
    }
    for message, program in bad.items():
        file.write_bytes(program)
        with pytest.raises(DataError, match=message) as caught:
            read_pickled(file)
        assert str(file) in str(caught.value)
    assert not (tmp_path / "hacked").exists()


@given(st.data())
def test_damaged_files_are_data_errors_and_nothing_else(scratch, draw: st.DataObject) -> None:
    rng = np.random.default_rng(draw.draw(st.integers(0, 2**32 - 1)))
    programs = [
        whole(matrix_program(np.eye(3))),
        whole(array_program(np.arange(6, dtype=np.int32).reshape(2, 3))),
        pickle.dumps({0: [1], 1: [0]}, 2),
    ]
    program = bytearray(programs[rng.integers(3)])
    for _ in range(rng.integers(1, 4)):
        program[rng.integers(len(program))] = rng.integers(256)
    if rng.random() < 0.3:
        del program[rng.integers(len(program)) :]
    with scratch() as folder:
        (folder / "f").write_bytes(program)
        try:
            read_pickled(folder / "f")
        except DataError:
            pass


@pytest.mark.parametrize(
    ("part", "content", "message"),
    [
        ("graph", pickle.dumps([1, 2], 2), "expected a dict with the nodes"),
        ("graph", pickle.dumps({0: [1], 2: [0]}, 2), "expected a dict with the nodes"),
        ("graph", pickle.dumps({0: [None]}, 2), "expected a list of node numbers"),
        ("graph", pickle.dumps({i: [i + 1] if i else [0] for i in range(9)}, 2), "neighbours 0 to 9, expected 0 to 8"),
        ("test.index", b"7\nseven\n", "expected one node number a line"),
        ("test.index", b"7\n7\n", "expected 2 different nodes from 7 to 8"),
        ("test.index", b"7\n3\n", "expected 2 different nodes"),
        ("x", whole(array_program(np.eye(2))), "expected a sparse matrix"),
        ("x", whole(matrix_program(np.eye(2, 5))), "5 features, but allx has 4"),
        ("ty", whole(array_program(np.eye(3, 2, dtype=np.int32))), "classes have shape"),
        ("ally", whole(array_program(np.ones((7, 2), np.int32))), "without exactly one class"),
        ("allx", pickle.dumps({}, 2), "expected a sparse matrix"),
        ("y", b"", "not a whole Planetoid file"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path: Path, part: str, content: bytes, message: str) -> None:
    write_set(tmp_path, **{part: content})
    with pytest.raises(DataError, match=message) as caught:
        read_planetoid(tmp_path, "cora")
    assert f"ind.cora.{part.replace('ty', 't')}" in str(caught.value) or "ind.cora." in str(caught.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    write_set(tmp_path / "planetoid")
    (tmp_path / "planetoid" / "ind.cora.ty").unlink()
    with pytest.raises(DataNotFound, match=r"lacks ind\.cora\.ty"):
        data.load("cora", root=tmp_path)
    assert len(PARTS) == 8


# ---------------------------------------------------------------- the karate club


def test_the_karate_club_is_zacharys() -> None:
    """34 members, 78 friendships, 17 in each club; the instructor (1) has 16 friends, the officer (34) 17."""
    karate = data.load("karate")
    degree = karate.graph.A.dense().sum(axis=0)
    assert karate.graph.n == 34 and karate.graph.A.nnz == 2 * 78
    assert degree[0] == 16 and degree[33] == 17 and degree[32] == 12 and degree.min() == 1
    assert np.bincount(karate.labels).tolist() == [17, 17] and karate.labels[[0, 33]].tolist() == [0, 1]
    assert np.array_equal(karate.graph.x.dense(), np.eye(34))
    assert [c.ok for c in data.verify("karate")] == [True, True]


def test_real_citation_graphs_are_the_published_ones(real_root) -> None:
    root = real_root("planetoid")
    counts = {"cora": [351, 217, 418, 818, 426, 298, 180], "citeseer": [249, 590, 668, 701, 596, 508]}
    for name, n, edges, features in (("cora", 2708, 5278, 1433), ("citeseer", 3327, 4552, 3703)):
        found = data.load(name, root=root)
        assert (found.graph.n, found.graph.A.nnz, found.graph.x.shape[1]) == (n, 2 * edges, features)
        assert np.bincount(found.labels[found.labels >= 0]).tolist() == counts[name]
        assert [int(m.sum()) for m in found.masks] == [20 * len(counts[name]), 500, 1000]
        sums = found.graph.x.row_sums()
        assert np.allclose(sums[sums > 0], 1, atol=1e-5)
        assert all(c.message == "format and checksum right" for c in data.verify(name, root=root))


# ---------------------------------------------------------------- splits


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 0.7), st.floats(0, 0.2))
def test_nodes_are_split_by_class_and_none_twice(seed: int, train: float, validation: float) -> None:
    karate = data.load("karate")
    split = karate.split(seed, train, validation)
    assert np.array_equal(np.sum(split.masks, axis=0), np.ones(34))
    for k in range(2):
        own = split.labels == k
        assert abs((split.masks[0] & own).sum() - 17 * train) <= 1
        assert (split.masks[0] & own).any()
    again = karate.split(seed, train, validation)
    assert all(np.array_equal(a, b) for a, b in zip(split.masks, again.masks))
    graph, y, mask = split.train
    assert graph is karate.graph and np.array_equal(y >= 0, split.masks[0] | split.masks[1])
    assert np.array_equal(mask, split.masks[1]) and np.array_equal(split.test[1] >= 0, split.masks[2])


@given(st.integers(0, 2**32 - 1))
def test_links_are_split_and_no_test_edge_carries_messages(seed: int) -> None:
    karate = data.load("karate")
    links, A = karate.links(seed), karate.graph.A.dense()
    seen = set()
    for pairs in links.pairs:
        assert pairs.joined.mean() == 0.5 and (pairs.nodes[:, 0] < pairs.nodes[:, 1]).all()
        assert np.array_equal(A[pairs.nodes[:, 0], pairs.nodes[:, 1]], pairs.joined)
        keys = set(map(tuple, pairs.nodes.tolist()))
        assert len(keys) == len(pairs) and not keys & seen
        seen |= keys
    assert len(seen) == 2 * 78
    edges = [p.nodes[p.joined == 1] for p in links.pairs]
    assert np.array_equal(links.graph.A.dense(), Sparse.from_edges(34, edges[0]).dense())
    assert np.array_equal(links.test_graph.A.dense(), Sparse.from_edges(34, np.concatenate(edges[:2])).dense())


def test_a_quick_part_is_a_connected_looking_part_of_the_graph(real_root) -> None:
    cora = data.load("cora", root=real_root("planetoid"))
    part = cora.quick(3)
    assert part.graph.n == 600 and part.graph.A.nnz / 2 > 600 and "a part: 600 of 2,708" in part.title
    assert np.sum(part.masks) == 600 and np.array_equal(part.arrays()["labels"], part.labels)
    assert data.load("karate").quick(0).graph.n == 34


def test_data_that_cannot_be_are_clear_errors() -> None:
    karate = data.load("karate")
    with pytest.raises(ValueError, match="expected a rest for testing"):
        karate.split(0, 0.8, 0.2)
    with pytest.raises(ValueError, match="expected a rest for testing"):
        karate.links(0, 0.0)
    with pytest.raises(ValueError, match=r"expected \(N, N\) and \(N, F\)"):
        Graph(karate.graph.A, karate.graph.x.take(np.arange(3)))
    with pytest.raises(ValueError, match="expected finite floats"):
        Graph(karate.graph.A, Sparse(np.arange(35), np.arange(34), np.full(34, np.nan), 34))
    full = Sparse.from_edges(4, [(i, j) for i in range(4) for j in range(i)])
    masks = (np.ones(4, bool), np.zeros(4, bool), np.zeros(4, bool))
    complete = GraphData("k4", "", Graph(full, Sparse.from_dense(np.eye(4))), np.zeros(4, int), 1, masks, "", "")
    with pytest.raises(ValueError, match="only 0 pairs without one"):
        complete.links(0)
    with pytest.raises(ValueError, match="no node in two of them"):
        GraphData("k4", "", complete.graph, complete.labels, 1, (masks[0], masks[0], masks[1]), "", "")
    with pytest.raises(ValueError, match=r"expected 4 in \[-1, 1\)"):
        GraphData("k4", "", complete.graph, np.arange(4), 1, masks, "", "")
    with pytest.raises(ValueError, match="a node without a label is in a split"):
        GraphData("k4", "", complete.graph, np.full(4, -1), 1, masks, "", "")
