"""Experiment, figure, race and claims of AugLocal: that they run, and that verdicts turn at the thresholds."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from refimpl import data, methods, record
from refimpl.methods.local.auglocal import PAPER, claims, depths, experiment, race, rules, selected, strides, teach
from refimpl.methods.local.auglocal.study import columns_svg
from refimpl.models.column import resnet_column
from refimpl.record import Common, Setting

pytest.importorskip("matplotlib")
from refimpl.viz import style

CLAIMS = {c.id: c for c in record.claims("auglocal")}


@pytest.fixture(scope="module")
def few():
    return data.load("digits").subset(200, 60)


@pytest.mark.parametrize("network", ["resnet", "mlp"])
def test_the_experiment_trains_and_draws(few, network):
    made = experiment(few, 0, {"network": network, "width": 4, "blocks": 1, "d": 1, "epochs": 1})
    names = [c.name for c in made.contenders]
    assert names == ["AugLocal", "greedy", "DGL", "PredSim", "InfoPro", "back-propagation"]
    results = []
    for c in made.contenders:
        c.learner.fit(*few.train)
        results.append({"name": c.name, "role": c.role, "learner": c.learner, "score": c.learner.score(*few.test)})
    with style.use():
        figure = style.figure()
        made.draw(figure, results)
        figure.canvas.draw()
    assert len(figure.axes) == 4


def test_all_contenders_start_from_the_same_layers(few):
    made = experiment(few, 3, {"width": 4, "blocks": 1})
    found = []
    for c in made.contenders:
        c.learner.begin(*few.train)
        found.append({k: v for p in c.learner._all for k, v in p.items() if k.startswith("layer")})
    assert all(np.array_equal(found[0][name], other[name]) for other in found[1:] for name in found[0])


def test_unknown_settings_are_clear_errors(few):
    with pytest.raises(ValueError, match="auglocal: no setting 'depth', expected one of network, d"):
        experiment(few, 0, {"depth": 3})


def test_a_quick_experiment_is_short(few):
    assert experiment(few, 0, {"quick": True}).contenders[0].learner.epochs == 4
    assert experiment(few, 0, {"quick": True, "epochs": 9}).contenders[0].learner.epochs == 9


def test_the_race_takes_steps_that_lower_the_loss():
    (entry,) = race()
    step = entry.make()
    losses = [step() for _ in range(6)]
    assert losses[-1] < losses[0] and entry.flops > 2e9


def test_the_same_step_in_pytorch_gives_the_same_losses():
    torch = pytest.importorskip("torch")
    (entry,) = race()
    mine, theirs = entry.make(), entry.make_torch(torch)
    assert np.allclose([mine() for _ in range(4)], [theirs() for _ in range(4)], rtol=1e-4)


def test_the_step_to_read_lowers_its_loss():
    (entry,) = teach()
    step = entry.make()
    losses = [step() for _ in range(5)]
    assert losses[-1] < losses[0] and entry.dtype == "float64"


def test_the_rule_of_the_comparison_trains_the_common_network(few):
    (rule,) = rules(Common((16, 12, 8), epochs=1))
    learner = rule.make(0.03, 0)
    learner.fit(few.x_train.reshape(len(few.x_train), -1), few.y_train)
    assert [list(m.layers) for m in learner._modules] == [["layer0"], ["layer1", "layer2"]]
    assert learner.lr == 0.03 and learner._column_.widths == (16, 12, 8)


def test_the_method_can_be_found_by_its_slug():
    assert methods.module("auglocal").PAPER is PAPER and PAPER.slug == "auglocal"


# ---------------------------------------------------------------- claims


def images(n=60):
    """Random pictures of 32 x 32 pixels in the form of CIFAR-10."""
    rng = np.random.default_rng(0)
    x, y = rng.random((n, 3, 32, 32), np.float32), np.arange(n) % 10
    return data.Dataset("cifar-10", x, y, x[:10], y[:10], 10, (3, 32, 32), "pictures", "random", "none")


def test_images_are_halved_by_averaging():
    whole = images()
    half = claims.halved(whole)
    assert half.shape == (3, 16, 16)
    assert np.allclose(half.x_train[:, :, 0, 0], whole.x_train[:, :, :2, :2].mean(axis=(2, 3)))
    with pytest.raises(ValueError, match="expected even extents"):
        claims.halved(claims.halved(claims.halved(claims.halved(claims.halved(half)))))


def test_no_image_of_the_pilot_is_in_both_parts():
    parts = claims.pilot_data(images(), 0, 30, 20)
    assert len(parts.x_train) == 30 and len(parts.x_test) == 20
    assert not {a.tobytes() for a in parts.x_train} & {a.tobytes() for a in parts.x_test}


def test_the_claims_are_there():
    expected = ["ordering", "depth", "memory", "representation", "gradient-agreement", "orders", "cost"]
    assert list(CLAIMS) == expected


@pytest.fixture
def small(monkeypatch):
    """Quick measurements need 600 images of CIFAR-10; here 60 random ones and tiny networks do."""
    monkeypatch.setattr(claims, "PILOT", {**claims.PILOT, "widths": (2, 4, 8)})
    monkeypatch.setattr(claims, "MLP", {"network": "mlp", "hidden": (8,) * 5})
    monkeypatch.setattr(claims, "_trained", {})
    monkeypatch.setattr(claims, "_data", {(0, n, True): claims.pilot_data(images(), 0, 40, 20) for n in (8000, 4000)})


@pytest.mark.parametrize("name", CLAIMS)
def test_a_quick_measurement_can_be_judged_and_drawn(name, small):
    claim = CLAIMS[name]
    setting = Setting(images() if claim.data != ("",) else None, "cifar-10", 0, quick=True)
    values = [claim.measure(setting)]
    holds, note = claim.judge(values)
    assert isinstance(holds, bool) and note
    if claim.draw is not None:
        with style.use():
            figure = style.figure()
            claim.draw(figure, values)
            figure.canvas.draw()
        assert figure.axes[0].get_xlabel()


def test_a_network_is_trained_once_in_a_process(small):
    setting = Setting(images(), "cifar-10", 0, quick=True)
    assert claims._auglocal(setting) is claims._auglocal(setting)
    assert claims._auglocal(setting) is not claims._auglocal(setting, d=1)


ORDERING = {name: 0.4 for name in claims._ORDERING} | {
    "bp": 0.5, "auglocal": 0.466, "greedy": 0.435, "long_auglocal": 0.41, "long_greedy": 0.4,
}  # fmt: skip
DEPTH = {"d1": 0.5, "d2": 0.49, "d3": 0.496, "repeated": 0.48, "consecutive": 0.5, "conv": 0.5}
MEMORY = {"d1": [1, 29], "d3": [40, 2], "d5": [60], "greedy": [20], "bp": 100}
GRADIENTS = {"copy": [1.0, 1.0], "difference": [0.0, 9e-7], "full": [0.1] * 2, "d3": [0] * 2, "d2": [0] * 2}
GRADIENTS |= {"d1": [0.2, 0.9]}
COST = {f"{name}{d}": v + d for name, v in (("pyramid", 1), ("flat", 1.1)) for d in range(1, 6)}
COST |= {"bp": 1.0, "accuracy_pyramid": 0.5, "accuracy_flat": 0.509}
TURNING = [
    # claim, values for which it holds, a change for which it does not
    ("ordering", ORDERING, {"greedy": 0.437}),
    ("ordering", ORDERING, {"bp": 0.502}),
    ("ordering", ORDERING, {"long_greedy": 0.41}),
    ("depth", DEPTH, {"d3": 0.494}),
    ("depth", DEPTH, {"repeated": 0.49}),
    ("memory", MEMORY, {"d5": [61]}),
    ("memory", MEMORY, {"d1": [41]}),
    ("representation", {"auglocal": [0.5, 0.7], "greedy": [0.6, 0.59]}, {"greedy": [0.6, 0.6]}),
    ("gradient-agreement", GRADIENTS, {"difference": [0, 1.1e-6]}),
    ("gradient-agreement", GRADIENTS, {"copy": [1.0, 0.9]}),
    ("orders", {"different": 0, "parameters": 9}, {"different": 1}),
    ("cost", COST, {"accuracy_flat": 0.5101}),
    ("cost", COST, {"flat2": COST["pyramid2"]}),
    ("cost", COST, {"pyramid1": 3.5}),
]


@pytest.mark.parametrize(("name", "values", "change"), TURNING)
def test_a_verdict_turns_at_the_threshold_of_the_card(name, values, change):
    assert CLAIMS[name].judge([values])[0]
    assert not CLAIMS[name].judge([{**values, **change}])[0]


def test_one_seed_is_enough_where_each_seed_counts():
    good, bad = {"auglocal": [0.9], "greedy": [0.1]}, {"auglocal": [0.5], "greedy": [0.6]}
    assert not CLAIMS["representation"].judge([good, good, bad])[0]


@pytest.mark.parametrize(("d", "tau"), [(1, 0.0), (3, 0.5), (5, 1.0)])
def test_the_small_picture_shows_every_copied_layer_and_every_halving(d, tau):
    column = resnet_column((3, 32, 32), 10, (16, 32, 64), 5)
    svg = ElementTree.fromstring(columns_svg(column, d, tau))
    picks = [selected(16, l, depth) for l, depth in enumerate(depths(16, d, tau))]
    bars = sum(stride == 2 for l, p in enumerate(picks) for stride in strides(column.widths, l, p))
    assert len(svg.findall("rect")) == 16 + sum(map(len, picks))
    assert sum(path.get("stroke-width") is not None for path in svg.findall("path")) == bars
