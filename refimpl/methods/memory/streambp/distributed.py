"""StreamBP on R ranks: data parallel, with optimiser state (ZeRO-1), gradients (2) and parameters (3) in shards.

Each rank has its own texts. Gradients of a layer are summed over the ranks ONCE, after its last chunk (the naive way,
after every chunk, moves D times as much); with sharded parameters a layer's weights are gathered ONCE for its chunks.
Rajbhandari et al., "ZeRO", 2020.

A rank is a generator. It computes until it needs to hear from the others, and then yields an array for its right
neighbour and receives the one of its left neighbour: the only thing that ever crosses. Sums and gathers are rings made
of it. Who carries the arrays is decided outside: `simulate` steps all ranks in one process, mpi.py lets each be a
process of its own. Both count the bytes.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refimpl import ops
from refimpl.methods.memory.streambp.objectives import SFT
from refimpl.methods.memory.streambp.streams import Chunks, head, stream_forward, stream_steps
from refimpl.models.gpt import GPT
from refimpl.nn import Params, Scope
from refimpl.optim import AdamW

__all__ = ["Rank", "all_gather", "all_reduce", "reduce_scatter", "share", "simulate", "train"]

Program = Generator[np.ndarray, np.ndarray, Any]  # yields what goes right, receives what comes from the left


def share(n: int, rank: int, ranks: int) -> slice:
    """The part of n numbers that belongs to a rank: as equal as can be, the first ones one longer."""
    base, rest = divmod(n, ranks)
    lo = rank * base + min(rank, rest)
    return slice(lo, lo + base + (rank < rest))


def reduce_scatter(a: np.ndarray, rank: int, ranks: int) -> Generator[np.ndarray, np.ndarray, np.ndarray]:
    """The own share of the sum over ranks of vector a (which is used up): (R - 1)/R of a's bytes leave each rank."""
    for k in range(ranks - 1):
        left = yield a[share(a.size, (rank - k - 1) % ranks, ranks)]
        a[share(a.size, (rank - k - 2) % ranks, ranks)] += left
    return a[share(a.size, rank, ranks)].copy()


def all_gather(own: np.ndarray, n: int, rank: int, ranks: int) -> Generator[np.ndarray, np.ndarray, np.ndarray]:
    """The whole vector of n numbers from the shares of all ranks: (R - 1)/R of its bytes leave each rank."""
    whole = np.empty(n, own.dtype)
    whole[share(n, rank, ranks)] = own
    for k in range(ranks - 1):
        left = yield whole[share(n, (rank - k) % ranks, ranks)]
        whole[share(n, (rank - k - 1) % ranks, ranks)] = left
    return whole


def all_reduce(a: np.ndarray, rank: int, ranks: int) -> Generator[np.ndarray, np.ndarray, np.ndarray]:
    """The sum over ranks: 2 (R - 1)/R of a's bytes leave each rank."""
    own = yield from reduce_scatter(a, rank, ranks)
    return (yield from all_gather(own, a.size, rank, ranks))


@dataclass
class Rank:
    """One rank: its place, and how it trains.

    `stage` 0: everything whole on each rank; 1: optimiser state in shards; 2: gradients too; 3: parameters too.
    `naive` communicates for every chunk instead of once a layer.
    """

    model: GPT
    rank: int
    ranks: int
    stage: int = 0
    length: Chunks = 500
    head_length: Chunks = 100
    naive: bool = False
    optimizer: AdamW = field(default_factory=lambda: AdamW(1e-3))

    def __post_init__(self):
        if self.stage not in (0, 1, 2, 3):
            raise ValueError(f"Rank: stage is {self.stage}, expected 0, 1, 2 or 3")
        if not 0 <= self.rank < self.ranks:
            raise ValueError(f"Rank: rank is {self.rank}, expected 0 to {self.ranks - 1}")

    # ------------------------------------------------------------ what a rank holds

    def start(self, params: Params) -> None:
        """Take the parameters (all ranks start from the same), cut into groups: the tables, each layer, the norm."""
        groups = ("embed", *(("position",) if "position.table" in params else ()), *self.model.names, "norm")
        self.shapes = {
            group: {n.removeprefix(f"{group}."): s for n, s in params.shapes.items() if n.split(".")[0] == group}
            for group in groups
        }
        sizes = {group: sum(int(np.prod(s)) for s in shapes.values()) for group, shapes in self.shapes.items()}
        ends = np.cumsum(list(sizes.values())).tolist()
        self.place = dict(zip(groups, map(slice, [0, *ends[:-1]], ends)))
        self.size, self.step = sizes, 0
        cut = {group: self._share(group) for group in groups}
        self.values = {  # whole vectors, or shards
            group: params.flat[at][cut[group] if self.stage == 3 else slice(None)].copy()
            for group, at in self.place.items()
        }
        held = {g: (self.values[g].size if self.stage in (0, 3) else cut[g].stop - cut[g].start) for g in groups}
        self.moments = {g: (np.zeros(n, params.dtype), np.zeros(n, params.dtype)) for g, n in held.items()}
        self.grads: dict[str, np.ndarray] = {}

    def _share(self, group: str) -> slice:
        return share(self.size[group], self.rank, self.ranks)

    def _weights(self, *groups: str) -> Generator[np.ndarray, np.ndarray, Scope]:
        """The parameters of some groups; sharded ones are gathered for as long as the caller keeps them."""
        windows: dict[str, np.ndarray] = {}
        for group in groups:
            vector = self.values[group]
            if self.stage == 3:
                vector = yield from all_gather(vector, self.size[group], self.rank, self.ranks)
            windows |= {f"{group}.{n}": w for n, w in Params(self.shapes[group], flat=vector).items()}
        return Scope(windows)

    def _zeros(self, *groups: str) -> tuple[Scope, dict[str, np.ndarray]]:
        """Fresh gradients of some groups, and the vectors below them."""
        vectors = {group: np.zeros(self.size[group], self.values[group].dtype) for group in groups}
        windows = {
            f"{g}.{n}": w for g, vector in vectors.items() for n, w in Params(self.shapes[g], flat=vector).items()
        }
        return Scope(windows), vectors

    def _reduce(self, group: str, vector: np.ndarray) -> Program:
        """Sum a group's gradient over the ranks and keep it, or the own share of it."""
        if self.stage >= 2:
            total = yield from reduce_scatter(vector, self.rank, self.ranks)
        else:
            total = yield from all_reduce(vector, self.rank, self.ranks)
        self.grads[group] = self.grads[group] + total if group in self.grads else total

    # ------------------------------------------------------------ a step

    def train_step(self, tokens: np.ndarray, objective: SFT) -> Program:
        """One step of AdamW on the texts of all ranks; `objective` is divided by the tokens of all of them. Returns
        this rank's share of the loss."""
        model, inputs = self.model, []
        tables = tuple(g for g in ("embed", "position") if g in self.size)
        ends = yield from self._weights(*tables, "norm")
        x = model.embed(ends, tokens)
        for name in model.names:
            weights = yield from self._weights(name)
            inputs.append(x)
            x = stream_forward(model.block, weights.scope(name), x, self.length)
        grads, vectors = self._zeros(*tables, "norm")
        loss = head(model, ends, grads, x, objective, self.head_length)
        for name in reversed(model.names):
            x = yield from self._layer(name, inputs.pop(), x)
        model.embed_backward(grads, tokens, x)
        for group, vector in vectors.items():
            yield from self._reduce(group, vector)
        yield from self._update()
        return loss

    def _layer(self, name: str, x: np.ndarray, dz: np.ndarray) -> Program:
        """Back through one layer."""
        weights = yield from self._weights(name)
        grads, vectors = self._zeros(name)
        how = (self.model.block, weights.scope(name), grads.scope(name), x, dz, self.length)
        for i, _ in enumerate(stream_steps(*how)):
            if self.naive:
                if i > 0 and self.stage == 3:
                    yield from self._weights(name)  # gathered anew for each chunk
                yield from self._reduce(name, vectors[name].copy())
                vectors[name][...] = 0
        if not self.naive:
            yield from self._reduce(name, vectors[name])
        return dz

    def _update(self) -> Program:
        """AdamW on what this rank holds the moments of; then whole parameters are made whole again."""
        self.step += 1
        o, lr = self.optimizer, self.optimizer.rate(self.step - 1)
        for group, (m, v) in self.moments.items():
            own = slice(None) if self.stage in (0, 3) else self._share(group)
            part, grad = self.values[group][own], self.grads[group]
            if self.stage == 1:
                grad = np.ascontiguousarray(grad[own])
            ops.adam_update(part, grad, m, v, self.step, lr, o.beta1, o.beta2, o.eps, o.weight_decay, o.decoupled)
            if self.stage in (1, 2):
                self.values[group] = yield from all_gather(part, self.size[group], self.rank, self.ranks)
        self.grads = {}

    def parameters(self) -> Program:
        """All parameters as one vector."""
        found = []
        for group, vector in self.values.items():
            if self.stage == 3:
                vector = yield from all_gather(vector, self.size[group], self.rank, self.ranks)
            found.append(vector)
        return np.concatenate(found)


def train(
    rank: Rank, params: Params, batches: Sequence[tuple[np.ndarray, SFT]]
) -> Generator[np.ndarray, np.ndarray, tuple[list[float], int]]:
    """Some steps of one rank, on its own batches. Returns its losses."""
    rank.start(params)
    losses = []
    for tokens, objective in batches:
        losses.append((yield from rank.train_step(tokens, objective)))
    return losses, rank.step


@dataclass
class Run:
    """What `simulate` returns: each rank's result, and the bytes that left it."""

    results: list[Any]
    sent: list[int]


def simulate(programs: Sequence[Program]) -> Run:
    """Step the programs of all ranks together, in one process, until all return. Raises RuntimeError where they
    lose each other."""
    R = len(programs)
    sent, results, done = [0] * R, [None] * R, [False] * R
    left: list[np.ndarray | None] = [None] * R
    while not all(done):
        out: list[np.ndarray | None] = [None] * R
        for r, program in enumerate(programs):
            came = left[r]
            try:
                out[r] = next(program) if came is None else program.send(came)
            except StopIteration as end:
                results[r], done[r] = end.value, True
        if any(done) and not all(done):
            raise RuntimeError("simulate: some ranks returned while others wait for them")
        if not any(done):
            for r, a in enumerate(out):
                assert a is not None
                sent[r] += a.nbytes
            left = [np.array(out[r - 1]) for r in range(R)]  # a copy: what arrives is another memory
    return Run(results, sent)
