"""Experiment, figure, race and claims of SLTT: that they run, and that verdicts turn at the thresholds."""

import numpy as np
import pytest

from refimpl import data, methods, record
from refimpl.data.sequences import Sequences
from refimpl.methods.spiking.sltt import PAPER, experiment, race, step_costs
from refimpl.methods.spiking.sltt.claims import STEPS
from refimpl.models.snn import spiking_mlp
from refimpl.record import Setting

pytest.importorskip("matplotlib")
from refimpl.viz import style


@pytest.fixture(scope="module")
def few():
    return data.load("digits").subset(200, 60)


@pytest.fixture(scope="module")
def streams():
    """The rows of the digits as frames."""
    d = data.load("digits").subset(200, 60)
    return Sequences(
        "rows", d.x_train[:, 0], d.y_train, d.x_test[:, 0], d.y_test, 10, "rows of digits", d.source, d.licence
    )


def run(made, chosen):
    results = []
    for c in made.contenders:
        c.learner.fit(*chosen.train)
        score = c.learner.score(*chosen.test)
        results.append({"name": c.name, "role": c.role, "learner": c.learner, "score": score})
        results[-1]["history"] = c.learner.history_
    with style.use():
        figure = style.figure()
        made.draw(figure, results)
        figure.canvas.draw()
    assert len(figure.axes) == 4 and all(ax.get_title(loc="left") for ax in figure.axes)
    return figure


@pytest.mark.parametrize("settings", [{}, {"model": "vgg"}, {"model": "resnet", "tau": 2.0}])
def test_the_experiment_trains_and_draws(few, settings):
    made = experiment(few, 0, {"T": 3, "hidden": (96, 96), "epochs": 1, "batch_size": 100, **settings})
    names = [c.name for c in made.contenders]
    assert {"SLTT", "SLTT-2", "BPTT", "BPTT, reset detached", "ReLU network"} <= set(names)
    figure = run(made, few)
    memory = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert max(memory["SLTT"]) <= 1.1 * min(memory["SLTT"]) and memory["BPTT"][-1] > 5 * memory["BPTT"][0]


def test_the_experiment_takes_streams_of_events(streams):
    made = experiment(streams, 0, {"hidden": (8,), "epochs": 1, "batch_size": 100})
    assert all(c.learner.T == 8 and c.learner.coding == "events" for c in made.contenders if c.name != "ReLU network")
    run(made, streams)
    with pytest.raises(ValueError, match="sltt: T is 5, but rows has 8 frames a sample"):
        experiment(streams, 0, {"T": 5})


def test_an_unknown_setting_is_a_clear_error(few):
    with pytest.raises(ValueError, match="sltt: no setting 'depth', expected one of model, hidden"):
        experiment(few, 0, {"depth": 3})


def test_a_quick_experiment_is_short(few):
    assert all(c.learner.epochs == 4 for c in experiment(few, 0, {"quick": True}).contenders)


def test_peak_memory_of_sltt_does_not_depend_on_T():
    """Up to the interpreter's own lists of small objects, some 25 kB."""
    rng = np.random.default_rng(0)
    x, y = rng.random((128, 30), np.float32), rng.integers(0, 4, 128)
    net = spiking_mlp((30,), 4, hidden=(160, 160))
    peak = {rule: [step_costs(net, x, y, T, rule, 1)["peak_bytes"] for T in (4, 32)] for rule in ("SLTT", "BPTT")}
    assert peak["SLTT"][1] <= 1.03 * peak["SLTT"][0] and peak["BPTT"][1] > 5 * peak["BPTT"][0]


@pytest.mark.parametrize("entry", race(), ids=lambda entry: entry.name)
def test_the_race_takes_steps_that_lower_the_loss(entry):
    step = entry.make()
    losses = [step() for _ in range(12)]
    assert losses[-1] < losses[0] and entry.flops > 1e8


def test_the_method_can_be_found_by_its_slug():
    assert methods.module("sltt").PAPER is PAPER and PAPER.slug == "sltt"
    assert methods.data("sltt")[0] == "digits"


CLAIMS = {c.id: c for c in record.claims("sltt")}


def test_all_claims_of_the_card_are_there():
    assert list(CLAIMS) == ["accuracy-parity", "alignment", "memory", "work", "few-steps", "limit"]


@pytest.mark.parametrize("name", CLAIMS)
def test_a_quick_measurement_can_be_judged_and_drawn(name, few):
    claim, told = CLAIMS[name], []
    setting = Setting(few, "digits", 0, quick=True, tell=told.append)
    values = [claim.measure(setting)]
    holds, note = claim.judge(values)
    assert isinstance(holds, bool) and note and told
    if claim.quick_judged:
        assert holds, note
    with style.use():
        figure = style.figure()
        claim.draw(figure, values)
        figure.canvas.draw()
    assert figure.axes[0].get_xlabel()


ALIGNED = {"cosine": [0.999, 0.99, 0.97, 0.9, 0.8], "training": [0.999, 0.99]}
KEPT = {"sltt": [100] * 6, "bptt": [100 * T for T in STEPS]}
WORK = {
    "layers": 3,
    "T": [2, 6],
    "products_sltt": [12, 36],
    "products_sltt_2": [12, 12],
    "seconds_sltt": 1.0,
    "seconds_sltt_2": 0.4,
}
TURNING = [
    # claim, values for which it holds, a change for which it does not
    ("accuracy-parity", {"sltt": 0.9, "bptt": 0.9149, "bptt_detached": 0.9}, {"bptt": 0.9151}),
    ("accuracy-parity", {"sltt": 0.9149, "bptt": 0.9, "bptt_detached": 0.9}, {"sltt": 0.9151}),
    ("alignment", ALIGNED, {"training": [0.999, 0.9899]}),
    ("alignment", ALIGNED, {"training": [0.9899, 0.999]}),
    ("alignment", ALIGNED, {"cosine": [0.999, 0.99, 0.99, 0.9, 0.8]}),
    ("memory", KEPT, {"sltt": [100, 100, 100, 100, 100, 102]}),
    ("memory", KEPT, {"bptt": [100, 200, 400, 800, 1600, 3250]}),
    ("memory", KEPT, {"bptt": [100, 200, 400, 800, 1600, 3150]}),
    ("work", WORK, {"products_sltt": [12, 35]}),
    ("work", WORK, {"products_sltt_2": [12, 13]}),
    ("work", WORK, {"seconds_sltt_2": 0.401}),
    ("few-steps", {"sltt": 0.92, "sltt_2": 0.8901, "sltt_1": 0.89}, {"sltt": 0.9202}),
    ("few-steps", {"sltt": 0.92, "sltt_2": 0.9, "sltt_1": 0.9}, {"sltt_1": 0.9001}),
    ("limit", {"sltt": 0.5, "bptt": 0.7001}, {"bptt": 0.6999}),
]


@pytest.mark.parametrize(("name", "values", "change"), TURNING)
def test_a_verdict_turns_at_the_threshold_of_the_card(name, values, change):
    assert CLAIMS[name].judge([values])[0]
    assert not CLAIMS[name].judge([{**values, **change}])[0]
