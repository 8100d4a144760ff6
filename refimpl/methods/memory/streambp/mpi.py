"""The ranks of distributed.py as MPI processes on one machine or many.

    mpirun -n 4 python -m refimpl.methods.memory.streambp.mpi --steps 20 --stage 2

trains a small model on the embedded text; rank 0 tells the losses and the bytes that left it. Needs mpi4py
(pip install refimpl[mpi]) and an MPI library.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Generator
from typing import Any

import numpy as np

from refimpl.methods.memory.streambp.distributed import Rank
from refimpl.methods.memory.streambp.objectives import SFT, shifted

__all__ = ["batch", "drive", "main"]


def drive(program: Generator[np.ndarray, np.ndarray, Any], comm: Any) -> tuple[Any, int]:
    """Run one rank's program; arrays go to the right neighbour in `comm` and come from the left. Returns the program's
    result and the bytes sent."""
    rank, ranks, sent = comm.Get_rank(), comm.Get_size(), 0
    right, left = (rank + 1) % ranks, (rank - 1) % ranks
    arrived: np.ndarray | None = None
    while True:
        try:
            out = program.send(arrived) if arrived is not None else next(program)
        except StopIteration as end:
            return end.value, sent
        out = np.ascontiguousarray(out)
        length = np.empty(1, np.int64)
        comm.Sendrecv(np.array([out.size], np.int64), right, 0, length, left, 0)  # shares differ by one
        arrived = np.empty(int(length[0]), out.dtype)
        comm.Sendrecv(out, right, 1, arrived, left, 1)
        sent += out.nbytes


def batch(text: np.ndarray, step: int, ranks: int, rank: int | None, B: int, T: int, seed: int) -> Any:
    """Texts of B bytes sequences a rank for one step, those of all ranks where rank is None; and their objective."""
    starts = np.random.default_rng([seed, step]).integers(0, len(text) - T, ranks * B)
    tokens = np.stack([text[s : s + T] for s in starts]).astype(np.int64)
    target, mask = shifted(tokens)
    rows = slice(None) if rank is None else slice(rank * B, (rank + 1) * B)
    return tokens[rows], SFT(target[rows], mask[rows], float(mask.sum()))


def main(arguments: list[str] | None = None) -> int:
    from refimpl import nn
    from refimpl.data import load
    from refimpl.models.gpt import GPT

    parser = argparse.ArgumentParser(prog="mpirun -n R python -m refimpl.methods.memory.streambp.mpi")
    parser.add_argument("--steps", type=int, default=20, help="steps of training (default: 20)")
    parser.add_argument("--stage", type=int, default=2, choices=(0, 1, 2, 3), help="what is sharded, ZeRO (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="seed (default: 0)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"), help="default: float32")
    parser.add_argument("--save", metavar="FILE", help="store the parameters of rank 0 (.npy)")
    options = parser.parse_args(arguments)
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        print(f"needs mpi4py (pip install refimpl[mpi]) and an MPI library: {error}", file=sys.stderr)
        return 1
    comm = MPI.COMM_WORLD
    rank, ranks = comm.Get_rank(), comm.Get_size()
    model = GPT(256, layers=2, d=32, heads=4, kv_heads=2, hidden=48)
    params = nn.initialise(model, np.random.default_rng(options.seed), options.dtype)
    text = load("coriolanus").train_bytes
    member = Rank(model, rank, ranks, options.stage, length=16, head_length=16)
    member.start(params)
    total = 0
    for step in range(options.steps):
        tokens, objective = batch(text, step, ranks, rank, 2, 64, options.seed)
        loss, sent = drive(member.train_step(tokens, objective), comm)
        total += sent
        everywhere = comm.allreduce(loss)
        if rank == 0 and (step % 10 == 9 or step == options.steps - 1):
            print(f"step {step + 1}: loss {everywhere:.4f}, {total:,} bytes sent", flush=True)
    vector, _ = drive(member.parameters(), comm)
    if rank == 0 and options.save:
        with open(options.save, "wb") as file:
            np.save(file, vector)
    return 0


if __name__ == "__main__":
    sys.exit(main())
