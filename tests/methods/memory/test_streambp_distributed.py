"""Ranks: rings move what the formulas say, and training on shards equals training in one process."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl import nn
from refimpl.methods.memory.streambp import mpi
from refimpl.methods.memory.streambp.distributed import (
    Rank,
    all_gather,
    all_reduce,
    reduce_scatter,
    share,
    simulate,
    train,
)
from refimpl.methods.memory.streambp.objectives import SFT, shifted
from refimpl.methods.memory.streambp.strategies import Plain
from refimpl.models.gpt import GPT
from refimpl.optim import AdamW


@given(st.integers(0, 40), st.integers(1, 6), st.integers(0, 5))
def test_rings_sum_and_gather_and_send_what_the_formulas_say(n, R, seed):
    a = np.random.default_rng(seed).standard_normal((R, n))
    total = a.sum(axis=0)
    run = simulate([reduce_scatter(a[r].copy(), r, R) for r in range(R)])
    for r in range(R):
        np.testing.assert_allclose(run.results[r], total[share(n, r, R)], atol=1e-13)
    assert sum(run.sent) == (R - 1) * n * 8
    run = simulate([all_gather(total[share(n, r, R)], n, r, R) for r in range(R)])
    assert all(np.array_equal(result, total) for result in run.results) and sum(run.sent) == (R - 1) * n * 8
    run = simulate([all_reduce(a[r].copy(), r, R) for r in range(R)])
    assert all(np.array_equal(result, run.results[0]) for result in run.results)
    assert sum(run.sent) == 2 * (R - 1) * n * 8
    assert sorted(i for r in range(R) for i in range(n)[share(n, r, R)]) == list(range(n))


def setting(R, steps=3, **options):
    model = GPT(11, **{"layers": 2, "d": 8, "heads": 2, "hidden": 6, **options})
    rng = np.random.default_rng(0)
    params = nn.initialise(model, rng, "float64")
    params.flat += 0.1 * rng.standard_normal(params.size)
    whole, parts = [], [[] for _ in range(R)]
    for _ in range(steps):
        tokens = rng.integers(0, 11, (2 * R, 9))
        target, mask = shifted(tokens, rng.random(tokens.shape) < 0.7)
        n = float(mask.sum())
        whole.append((tokens, SFT(target, mask, n)))
        for r in range(R):
            at = slice(2 * r, 2 * r + 2)
            parts[r].append((tokens[at], SFT(target[at], mask[at], n)))
    return model, params, whole, parts


def alone(model, params, batches):
    params, optimizer, losses = params.copy(), AdamW(1e-3), []
    state, grads = optimizer.init(params), params.zeros_like()
    for tokens, objective in batches:
        grads.flat[...] = 0
        losses.append(Plain().gradient(model, params, grads, tokens, objective))
        optimizer.step(params, grads, state)
    return params.flat, losses


def together(model, params, parts, **options):
    R = len(parts)
    ranks = [Rank(model, r, R, length=4, head_length=3, **options) for r in range(R)]
    run = simulate([train(rank, params, parts[r]) for r, rank in enumerate(ranks)])
    after = simulate([rank.parameters() for rank in ranks])
    losses = np.sum([result[0] for result in run.results], axis=0)
    return after.results, losses, run.sent


@pytest.mark.parametrize("kind", [{}, {"positions": "learned", "norm": "layer", "mlp": "gelu", "bias": True}])
@pytest.mark.parametrize("R", [1, 3, 4])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_training_on_ranks_equals_training_in_one_process(stage, R, kind):
    model, params, whole, parts = setting(R, **kind)
    expected, losses = alone(model, params, whole)
    found, got, _ = together(model, params, parts, stage=stage)
    for vector in found:
        np.testing.assert_allclose(vector, expected, atol=1e-12)
    np.testing.assert_allclose(got, losses, atol=1e-12)


def test_bytes_are_those_of_the_formulas_and_the_naive_way_moves_a_layer_once_a_chunk():
    R, steps, D = 4, 3, 3  # 9 positions in chunks of 4
    model, params, _, parts = setting(R, steps)
    n = params.size * 8
    layers = n - 8 * sum(params[name].size for name in ("embed.table", "norm.gain"))
    unit = steps * (R - 1)
    # ZeRO-3: sums go to one owner; tables and norm are gathered once, a layer for the way forward and the way back
    for stage, each in {0: 2 * n, 1: 3 * n, 2: 2 * n, 3: n + (n - layers) + 2 * layers}.items():
        *_, sent = together(model, params, parts, stage=stage)
        assert sum(sent) == unit * each
    *_, naive = together(model, params, parts, stage=0, naive=True)
    assert sum(naive) == unit * 2 * (n - layers + D * layers)
    *_, naive = together(model, params, parts, stage=3, naive=True)
    assert sum(naive) == unit * ((n - layers) + D * layers + (n - layers) + layers + D * layers)


def test_shards_of_optimiser_gradients_and_parameters_are_small():
    R = 4
    model, params, *_ = setting(R)
    held = {}
    for stage in range(4):
        rank = Rank(model, 0, R, stage)
        rank.start(params)
        held[stage] = (sum(m.size for m, _ in rank.moments.values()), sum(v.size for v in rank.values.values()))
    assert held[0] == (params.size, params.size)
    for stage in (1, 2, 3):
        assert held[stage][0] <= params.size / R + len(params)
    assert held[2][1] == params.size and held[3][1] <= params.size / R + len(params)


def test_bad_ranks_are_named_and_ranks_that_lose_each_other_are_found():
    model, *_ = setting(1)
    with pytest.raises(ValueError, match="stage is 4"):
        Rank(model, 0, 1, 4)
    with pytest.raises(ValueError, match="rank is 2, expected 0 to 1"):
        Rank(model, 2, 2)
    with pytest.raises(RuntimeError, match="some ranks returned while others wait"):
        simulate([all_reduce(np.ones(4), 0, 2), all_gather(np.ones(2), 4, 1, 2)])


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_mpi_processes_give_the_parameters_of_one_process(stage, tmp_path):
    if shutil.which("mpirun") is None:
        pytest.skip("needs mpirun of an MPI library")
    if subprocess.run([sys.executable, "-c", "from mpi4py import MPI"], capture_output=True).returncode:
        pytest.skip("needs mpi4py with an MPI library: pip install refimpl[mpi]")
    file, R = tmp_path / "params.npy", 2
    command = [sys.executable, "-m", "refimpl.methods.memory.streambp.mpi", "--steps", "3", "--dtype", "float64"]
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    run = subprocess.run(
        ["mpirun", "-n", str(R), *command, "--stage", str(stage), "--save", str(file)],
        capture_output=True,
        text=True,
        env={**environment, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert "step 3: loss" in run.stdout
    model = GPT(256, layers=2, d=32, heads=4, kv_heads=2, hidden=48)
    params = nn.initialise(model, np.random.default_rng(0), "float64")
    from refimpl.data import load

    text = load("coriolanus").train_bytes
    expected, _ = alone(model, params, [mpi.batch(text, step, R, None, 2, 64, 0) for step in range(3)])
    np.testing.assert_allclose(np.load(file), expected, atol=1e-12)
