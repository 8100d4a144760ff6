"""Experiment, figure, race and claims of NoProp: that they run, and that verdicts turn at the thresholds."""

import numpy as np
import pytest

from refimpl import data, methods, record
from refimpl.methods.local.noprop import PAPER, experiment, race
from refimpl.record import Setting

pytest.importorskip("matplotlib")
from refimpl.viz import style


@pytest.fixture(scope="module")
def few():
    return data.load("digits").subset(200, 60)


@pytest.mark.parametrize("settings", [{}, {"embedding": "learned"}, {"block": "conv", "embedding": "prototype"}])
def test_the_experiment_trains_and_draws(few, settings):
    made = experiment(few, 0, {"T": 3, "width": 8, "epochs": 1, "batch_size": 100, **settings})
    assert [c.role for c in made.contenders].count("baseline") == 3
    results = []
    for c in made.contenders:
        c.learner.fit(few.x_train, few.y_train)
        accuracy = c.learner.score(few.x_test, few.y_test)
        results.append({"name": c.name, "role": c.role, "learner": c.learner, "score": accuracy})
        results[-1]["history"] = c.learner.history_
    with style.use():
        figure = style.figure()
        made.draw(figure, results)
        figure.canvas.draw()
    assert len(figure.axes) == 4 and all(ax.get_title(loc="left") for ax in figure.axes)


def test_an_unknown_setting_is_a_clear_error(few):
    with pytest.raises(ValueError, match="noprop: no setting 'depth', expected one of T, width"):
        experiment(few, 0, {"depth": 3})


def test_a_quick_experiment_is_short(few):
    learners = [c.learner for c in experiment(few, 0, {"quick": True}).contenders]
    assert learners[0].epochs == 8 and learners[1].epochs == 48


def test_the_race_takes_steps_that_lower_the_loss():
    (entry,) = race()
    step = entry.make()
    losses = [step() for _ in range(30)]
    assert losses[-1] < losses[0] and entry.flops > 1e8


def test_the_method_can_be_found_by_its_slug():
    assert methods.module("noprop").PAPER is PAPER and PAPER.slug == "noprop"


CLAIMS = {c.id: c for c in record.claims("noprop")}


def test_all_claims_of_the_card_are_there():
    assert list(CLAIMS) == [
        "close-to-backprop",
        "refinement",
        "few-steps",
        "memory",
        "trainable-chain",
        "independence",
    ]


@pytest.mark.parametrize("name", CLAIMS)
def test_a_quick_measurement_can_be_judged_and_drawn(name, few):
    claim, told = CLAIMS[name], []
    setting = Setting(few if claim.data != ("",) else None, "digits", 0, quick=True, tell=told.append)
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


REFINED = [0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9]
TURNING = [
    # claim, values for which it holds, a change for which it does not
    ("close-to-backprop", {"dt": 0.925, "dt_zero": 0.9, "bp": 0.95}, {"bp": 0.9501}),
    ("close-to-backprop", {"dt": 0.92, "dt_zero": 0.9, "bp": 0.92}, {"dt": 0.919}),
    ("refinement", {"accuracy": REFINED}, {"accuracy": [0.1, 0.21, *REFINED[2:]]}),
    ("refinement", {"accuracy": REFINED}, {"accuracy": [*REFINED[:5], 0.38, *REFINED[6:]]}),
    ("refinement", {"accuracy": REFINED}, {"accuracy": [0.2, 0.2, *REFINED[2:-1], 0.89]}),
    ("few-steps", {"fm": [0.92, 0.93, 0.93], "ct": [0.88, 0.9, 0.9]}, {"fm": [0.92, 0.93, 0.936]}),
    ("few-steps", {"fm": [0.92, 0.93, 0.93], "ct": [0.88, 0.9, 0.9]}, {"fm": [0.909, 0.92, 0.92]}),
    ("few-steps", {"fm": [0.92, 0.93, 0.93], "ct": [0.88, 0.9, 0.9]}, {"ct": [0.879, 0.9, 0.9]}),
    ("few-steps", {"fm": [0.92, 0.93, 0.93], "ct": [0.88, 0.9, 0.9]}, {"ct": [0.89, 0.92, 0.9]}),
    ("trainable-chain", {"dt": 0.92, "chain_linear": 0.65, "chain_distance": 0.8}, {"chain_distance": 0.88}),
    ("trainable-chain", {"dt": 0.92, "chain_linear": 0.65, "chain_distance": 0.8}, {"chain_linear": 0.9}),
    ("independence", {"bytes": 100, "reverse": 0, "two_processes": 0}, {"reverse": 1}),
    ("independence", {"bytes": 100, "reverse": 0, "two_processes": 0}, {"two_processes": 1}),
]


@pytest.mark.parametrize(("name", "values", "change"), TURNING)
def test_a_verdict_turns_at_the_threshold_of_the_card(name, values, change):
    assert CLAIMS[name].judge([values])[0]
    assert not CLAIMS[name].judge([{**values, **change}])[0]


def test_the_verdict_on_memory_turns_at_its_threshold():
    T = [2, 5, 10, 20]
    growing = [int(1000 * t) for t in T]
    values = {"T": T, "noprop": [100, 100, 101, 102], "chain": growing, "noprop_all": T, "chain_all": growing}
    assert CLAIMS["memory"].judge([values])[0]
    assert not CLAIMS["memory"].judge([{**values, "noprop": [100, 100, 100, 103]}])[0]
    slower = [int(1000 * t ** np.log2(1.79)) for t in T]
    assert not CLAIMS["memory"].judge([{**values, "chain": slower}])[0]
