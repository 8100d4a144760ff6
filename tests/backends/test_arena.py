"""The arena: memory of arrays is handed out again, and nothing else changes."""

import os
import threading

import numpy as np
import pytest

import refimpl
from refimpl import BackpropClassifier, ops
from refimpl.backends import native
from refimpl.backends.arena import counts
from refimpl.lab.steps import train
from refimpl.models import mlp, resnet

pytestmark = pytest.mark.skipif(native.lib is None, reason="no C core")
N = 1 << 20  # bytes


@pytest.mark.parametrize("net, shape", [(mlp(64, 10, (2048, 2048)), (64,)), (resnet((3, 16, 16), 10), (3, 16, 16))])
def test_the_steady_state_of_a_training_step_takes_no_large_block_from_the_system(net, shape):
    rng = np.random.default_rng(0)
    step = train(net, rng.standard_normal((32, *shape), np.float32), rng.integers(0, 10, 32))
    with refimpl.backend("native"), refimpl.arena():
        step(), step()
        before = counts()
        for _ in range(3):
            step()
        after = counts()
    assert after.fresh == before.fresh and after.reused > before.reused + 10


def test_training_in_an_arena_gives_the_same_bits():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((32, 3, 16, 16), np.float32), rng.integers(0, 10, 32)
    losses = []
    for inside in (False, True):
        with refimpl.backend("native"):
            step = train(resnet((3, 16, 16), 10), x, y)
            if inside:
                with refimpl.arena():
                    losses.append([step() for _ in range(4)])
            else:
                losses.append([step() for _ in range(4)])
    assert losses[0] == losses[1]


def test_an_array_outlives_the_arena_and_everything_kept_is_given_back():
    with refimpl.arena():
        a = np.arange(N, dtype=np.float64)
        b = a + 1
        del a
        assert counts().kept >= 8 * N
    assert counts().kept == 0
    assert b[-1] == N
    del b
    assert counts().kept == 0


def test_a_block_is_handed_out_again_only_when_nothing_points_into_it():
    with refimpl.arena():
        a = np.ones(N)
        view = a[5:10]
        del a
        b = np.full(N, 2.0)
        assert (view == 1).all()
        assert not np.shares_memory(view, b)
        where = b.__array_interface__["data"][0]
        del b
        assert np.full(N, 3.0).__array_interface__["data"][0] == where


def test_zeros_are_zero_in_memory_that_was_used():
    with refimpl.arena():
        np.ones(N)
        assert not np.zeros(N).any()


@pytest.mark.parametrize("old", [10, 5000, N])
@pytest.mark.parametrize("new", [0, 10, 5000, N, 2 * N])
def test_resizing_keeps_the_contents(old, new):
    with refimpl.arena():
        a = np.arange(float(old))
        a.resize(new, refcheck=False)
        least = min(old, new)
        assert np.array_equal(a[:least], np.arange(float(least)))
        assert not a[least:].any()


@pytest.mark.parametrize("n", [1, 100, 5000, N])
def test_data_are_aligned_to_a_cache_line(n):
    with refimpl.arena():
        assert all(np.empty(n, np.float32).__array_interface__["data"][0] % 64 == 0 for _ in range(10))


def test_too_much_is_a_memory_error():
    with refimpl.arena(), pytest.raises(MemoryError):
        np.empty(1 << 60, np.uint8)


def test_arenas_nest_and_an_error_closes_them():
    with pytest.raises(KeyError), refimpl.arena(), refimpl.arena():
        np.ones(N)
        raise KeyError
    assert counts().kept == 0
    before = counts()
    np.ones(N)
    assert counts() == before


def test_the_numpy_backend_runs_without_it():
    before = counts()
    with refimpl.backend("numpy"), refimpl.arena():
        np.ones(N)
    assert counts() == before


def test_it_holds_for_the_thread_that_opened_it_and_memory_may_die_in_another():
    with refimpl.arena():
        held = [np.ones(N) for _ in range(4)]
        before = counts()

        def work():
            np.ones(N)  # NumPy's own memory
            held.clear()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert counts().fresh == before.fresh and counts().kept >= 4 * 8 * N


def test_many_threads_take_and_give_at_once():
    wrong = []

    def work(k):
        with refimpl.arena():
            for i in range(200):
                a = np.full(10_000 + 100 * (i % 7), float(k))
                b = ops.relu(a)
                if (b != k).any():
                    wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 9)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong and counts().kept == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_goes_on_with_it():
    with refimpl.arena():
        a = np.ones(N)
        child = os.fork()
        if child == 0:
            a = a + 1
            del a
            os._exit(0 if (np.full(N, 2.0) == 2).all() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert a.sum() == N


def test_a_unit_of_training_runs_in_one():
    rng = np.random.default_rng(0)
    before = counts()
    BackpropClassifier(hidden=(256,), epochs=1).fit(rng.standard_normal((256, 64)), rng.integers(0, 3, 256))
    assert counts().reused > before.reused and counts().kept == 0
