"""Columns, isolated modules and local losses: gradients, locality, counted costs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import models, ops
from refimpl.models.column import spread_cuts
from refimpl.models.isolated import CrossEntropy, Isolated, Target, flops, kept_bytes, local_step
from refimpl.models.local_losses import RULES, objective, similarities
from refimpl.nn import Activation, BatchNorm, Linear, Sequential, initialise
from tests.harness import assert_gradient

K = 3
COLUMNS = {
    "resnet": models.resnet_column((2, 6, 6), K, widths=(2, 4), blocks=1),
    "mlp": models.mlp_column((5,), K, hidden=(6, 5, 4)),
}
each_column = pytest.mark.parametrize("kind", COLUMNS)
each_rule = pytest.mark.parametrize("rule", RULES)
seeds = st.integers(0, 2**32 - 1)


def modules_of(column, rule, cuts=None):
    cuts = tuple(range(column.n - 1)) if cuts is None else cuts
    ends, modules, first = (*cuts, column.n - 1), [], 0
    for last in ends:
        layers = {f"layer{i}": column.layers[i] for i in range(first, last + 1)}
        own = CrossEntropy(column.readout) if last == column.n - 1 else objective(rule, column, column.shapes[last])
        modules.append(Isolated(layers, own))
        first = last + 1
    return modules


class Case:
    """Modules with parameters off their symmetric first values, and a batch, in float64."""

    def __init__(self, kind, rule, seed=0, cuts=None, B=5):
        rng = np.random.default_rng(seed)
        self.column = COLUMNS[kind]
        self.modules = modules_of(self.column, rule, cuts)
        names = [f"layer{i}" for i in range(self.column.n)] + ["objective"]
        rngs = dict(zip(names, rng.spawn(len(names))))
        self.params = [m.initialise(rngs, np.float64) for m in self.modules]
        for p in self.params:
            p.flat += 0.1 * rng.standard_normal(p.size)
        image = rng.random((B, *self.column.shape))
        self.x, self.target = image - 0.4, Target(rng.integers(0, K, B), image)

    def run(self, **more):
        grads = [p.zeros_like() for p in self.params]
        losses = local_step(self.modules, self.params, grads, self.x, self.target, **more)
        return losses, grads


# ---------------------------------------------------------------- columns


def test_resnets_of_the_paper_have_16_and_55_layers():
    c32, c110 = (models.resnet_column((3, 32, 32), 10, blocks=b) for b in (5, 18))
    assert c32.n == 16 and c32.widths == (16,) * 6 + (32,) * 5 + (64,) * 5
    assert c110.n == 55 and c110.widths == (16,) * 19 + (32,) * 18 + (64,) * 18
    assert c32.shapes[5] == (16, 32, 32) and c32.shapes[6] == (32, 16, 16) and c32.shapes[15] == (64, 8, 8)


@each_column
def test_shapes_are_those_of_the_outputs(kind):
    column, rng = COLUMNS[kind], np.random.default_rng(0)
    x = rng.standard_normal((2, *column.shape))
    for layer, shape in zip(column.layers, column.shapes):
        x = layer.apply(initialise(layer, rng, np.float64), x)
        assert x.shape == (2, *shape)
    assert column.readout.apply(initialise(column.readout, rng, np.float64), x).shape == (2, K)


def test_first_weights_of_convolutions_follow_the_fan_out():
    column = models.resnet_column((3, 32, 32), 10, blocks=1)
    params = initialise(column.network(), np.random.default_rng(0), np.float64)
    deviations = {n: w.std() * np.sqrt(len(w) * w[0, 0].size / 2) for n, w in params.items() if w.ndim == 4}
    assert len(deviations) == 9 and all(0.9 < d < 1.1 for d in deviations.values())
    assert np.abs(params["readout.1.weight"]).max() <= 1 / 8


@given(n=st.integers(1, 40), data=st.data())
def test_modules_are_spread_evenly(n, data):
    N = data.draw(st.integers(1, n))
    ends = (-1, *spread_cuts(n, N), n - 1)
    lengths = np.diff(ends)
    assert len(lengths) == N and lengths.sum() == n and lengths.min() >= 1 and np.ptp(lengths) <= 1


# ---------------------------------------------------------------- gradients


@each_rule
@each_column
def test_gradients_equal_central_differences(kind, rule):
    case = Case(kind, rule)
    _, grads = case.run()
    for j, params in enumerate(case.params):

        def loss(j=j):
            return case.run()[0][j]

        assert_gradient(grads[j].flat, loss, params.flat)


@each_rule
@each_column
@given(seed=seeds)
@settings(max_examples=5)
def test_dh_of_every_objective_equals_central_differences(kind, rule, seed):
    column, rng = COLUMNS[kind], np.random.default_rng(seed)
    own = objective(rule, column, column.shapes[1])
    params = Isolated({}, own).initialise({"objective": rng}, np.float64)
    scope = params.scope("objective")
    h = np.abs(rng.standard_normal((4, *column.shapes[1])))
    target = Target(np.array([0, 1, 2, 1]), rng.random((4, *column.shape)))
    _, saved = own.forward(scope, h, target)
    dh = own.backward(scope, params.zeros_like().scope("objective"), saved)
    assert_gradient(dh, lambda: own.forward(scope, h, target)[0], h)


@each_column
def test_one_module_is_back_propagation(kind):
    case = Case(kind, "greedy", cuts=())
    losses, (mine,) = case.run()
    net, params = case.column.network(), case.params[0]
    twin = initialise(net, np.random.default_rng(0), np.float64)
    for name, window in twin.items():
        window[...] = params[name.replace("readout", "objective")]
    logits, saved = net.forward(twin, case.x, train=True)
    loss, p = ops.cross_entropy(logits, case.target.labels)
    grads = twin.zeros_like()
    net.backward(twin, grads, saved, ops.cross_entropy_backward(p, case.target.labels), need_dx=False)
    assert losses == [loss]
    assert all(np.array_equal(mine[n.replace("readout", "objective")], g) for n, g in grads.items())


def test_similarities_by_hand():
    """Rows (1, 0, 0) and (0, 1, 0), centred (2, -1, -1)/3 and (-1, 2, -1)/3: their cosine is -1/2."""
    R, _, norm = similarities(np.eye(3)[:2] * [[1], [5]])
    assert np.allclose(R, [[1, -0.5], [-0.5, 1]]) and np.allclose(norm[:, 0], [np.sqrt(2 / 3), 5 * np.sqrt(2 / 3)])
    same = similarities(np.ones((2, 3)))[0]  # nothing varies: no similarity
    assert np.array_equal(same, np.zeros((2, 2)))


def test_dead_channels_of_predsim_have_no_gradient_and_no_nan():
    column = COLUMNS["resnet"]
    own = objective("predsim", column, column.shapes[0])
    params = Isolated({}, own).initialise({"objective": np.random.default_rng(0)}, np.float64)
    scope, h = params.scope("objective"), np.zeros((4, *column.shapes[0]))
    loss, saved = own.forward(scope, h, Target(np.array([0, 1, 2, 0])))
    grads = params.zeros_like()
    dh = own.backward(scope, grads.scope("objective"), saved)
    assert np.isfinite(loss) and np.isfinite(dh).all() and np.isfinite(grads.flat).all()


# ---------------------------------------------------------------- what a module may see


@each_rule
@each_column
@given(seed=seeds)
@settings(max_examples=5)
def test_no_module_sees_the_parameters_of_another_but_through_its_input(kind, rule, seed):
    """Everything above set to NaN: the same bits below. Objectives below set to NaN: the same bits above."""
    case = Case(kind, rule, seed)
    _, before = case.run()
    for j in range(len(case.modules)):
        changed = Case(kind, rule, seed)
        for i, params in enumerate(changed.params):
            if i > j:
                params.flat[...] = np.nan
            elif i < j:
                for name, window in params.items():
                    if name.startswith("objective"):
                        window[...] = np.nan
        with np.errstate(all="ignore"):
            grads = changed.run()[1]
        assert np.array_equal(grads[j].flat, before[j].flat)


@each_rule
@each_column
def test_labels_of_one_module_reach_no_other(kind, rule):
    """Each module meets labels of its own: another's gradients stay as they were."""
    case = Case(kind, rule)
    _, before = case.run()
    changed = Target((case.target.labels + 1) % K, case.target.image)
    for j, module in enumerate(case.modules):
        x, grads = case.x, [p.zeros_like() for p in case.params]
        for i, (m, p, g) in enumerate(zip(case.modules, case.params, grads)):
            x, _, saved = m.forward(p, x, changed if i == j else case.target)
            m.backward(p, g, saved)
        assert [np.array_equal(a.flat, b.flat) for a, b in zip(grads, before)] == [
            i != j for i in range(len(case.modules))
        ], module


@each_column
def test_early_updates_leave_the_step_as_it_is(kind):
    case = Case(kind, "greedy")
    _, before = case.run()
    order = []

    def spoil(j):
        order.append(j)
        case.params[j].flat[...] = np.nan  # module j is updated, however badly: nobody needs it any more

    _, after = case.run(done=spoil)
    assert order == list(range(len(case.modules)))
    assert all(np.array_equal(a.flat, b.flat) for a, b in zip(after, before))


# ---------------------------------------------------------------- counted costs


def test_kept_bytes_of_a_small_network_by_hand():
    """Linear keeps x (4 x 5), batch norm its input (4 x 3) and two vectors of 3, ReLU its output (4 x 3), which the
    last linear layer shares."""
    net = Sequential(Linear(5, 3), BatchNorm(3), Activation("relu"), Linear(3, 2))
    params = initialise(net, np.random.default_rng(0), np.float64)
    x = np.ones((8, 5))[2:6]
    _, saved = net.forward(params, x, train=True)
    assert kept_bytes(saved) == 8 * (8 * 5 + 12 + 3 + 3 + 12)  # a view keeps its whole array alive
    assert kept_bytes(saved, x, [x[1:]]) == kept_bytes(saved)
    assert kept_bytes(Target(np.arange(3), np.ones(3))) == 24  # labels are no activations


def test_flops_of_a_convolution_and_a_matrix_by_hand():
    column = models.resnet_column((2, 6, 6), 3, widths=(2,), blocks=1)
    (module,) = modules_of(column, "greedy", ())
    params = module.initialise({n: np.random.default_rng(0) for n in ("layer0", "layer1", "objective")})
    x, target, grads = np.ones((4, 2, 6, 6), np.float32), Target(np.arange(4) % 3), [params.zeros_like()]
    counted = flops(lambda: local_step([module], [params], grads, x, target))
    conv, readout = 2 * 4 * 36 * 2 * 2 * 9, 2 * 4 * 2 * 3
    assert counted == 8 * conv + 3 * readout  # three convolutions: 3 forward, 3 for weights, 2 for inputs


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.resnet_column((8, 8), 3), r"expected \(C, H, W\)"),
        (lambda: models.resnet_column((1, 8, 8), 3, widths=()), "expected positive numbers"),
        (lambda: models.mlp_column((8,), 3, hidden=()), "expected at least one layer"),
        (lambda: spread_cuts(4, 5), r"modules is 5, expected 1..4"),
        (lambda: objective("greddy", COLUMNS["mlp"], (4,)), "rule is 'greddy', expected one of greedy"),
        (lambda: objective("dgl", COLUMNS["mlp"], (4,), options={"beta": 1}), "has no option 'beta', expected width"),
        (lambda: objective("predsim", COLUMNS["mlp"], (4,), options={"beta": 2}), "beta is 2"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
