"""Experiment, figure, race and claims of MAN: that they run, and that verdicts turn at the thresholds."""

import numpy as np
import pytest

from refimpl import data, methods, record
from refimpl.methods.local.momentum_auxiliary import PAPER, experiment, race, rules, teach
from refimpl.methods.local.momentum_auxiliary.claims import averaged
from refimpl.record import Common, Setting

pytest.importorskip("matplotlib")
from refimpl.viz import style


@pytest.fixture(scope="module")
def few():
    return data.load("digits").subset(200, 60)


@pytest.mark.parametrize("settings", [{}, {"network": "mlp", "blocks": 1}])
def test_the_experiment_trains_and_draws(few, settings):
    made = experiment(few, 0, {"width": 2, "blocks": 1, "epochs": 2, "batch_size": 50, **settings})
    names = [c.name for c in made.contenders]
    assert names[0] == "A + E (MAN)" and {"greedy", "DGL", "PredSim", "InfoPro", "back-propagation"} <= set(names)
    results = []
    for c in made.contenders:
        c.learner.fit(*few.train)
        results.append({"name": c.name, "role": c.role, "learner": c.learner, "score": c.learner.score(*few.test)})
        results[-1]["history"] = c.learner.history_
    with style.use():
        figure = style.figure()
        made.draw(figure, results)
        figure.canvas.draw()
    assert len(figure.axes) == 3


def test_all_contenders_begin_with_the_same_layers(few):
    learners = [c.learner for c in experiment(few, 3, {"width": 2, "blocks": 1}).contenders]
    first = []
    for learner in learners:
        learner.begin(*few.train)
        windows = {n: w for params in learner._all for n, w in params.items() if n.startswith("layer")}
        first.append(windows)
    for other in first[1:]:
        assert other.keys() == first[0].keys()
        assert all(np.array_equal(w, other[n]) for n, w in first[0].items())


def test_unknown_settings_are_clear_errors(few):
    with pytest.raises(ValueError, match="momentum_auxiliary: no setting 'layers', expected one of network, width"):
        experiment(few, 0, {"layers": 3})
    with pytest.raises(ValueError, match="network is 'cnn', expected one of resnet, mlp"):
        experiment(few, 0, {"network": "cnn"})


def test_a_quick_experiment_is_short(few):
    assert experiment(few, 0, {"quick": True}).contenders[0].learner.epochs == 3
    assert experiment(few, 0, {}).contenders[0].learner.epochs == 10


def test_the_race_takes_steps_that_lower_the_loss():
    (entry,) = race()
    step = entry.make()
    losses = [step() for _ in range(12)]
    assert losses[-1] < losses[0] and entry.flops > 1e9


def test_the_same_step_in_pytorch_gives_the_same_losses():
    torch = pytest.importorskip("torch")
    (entry,) = race()
    mine, theirs = entry.make(), entry.make_torch(torch)
    assert np.allclose([mine() for _ in range(4)], [theirs() for _ in range(4)], rtol=1e-4)


def test_the_step_to_read_is_small_and_in_double_precision():
    (entry,) = teach()
    step = entry.make()
    assert entry.dtype == "float64" and np.isfinite([step(), step()]).all()


def test_its_rule_trains_the_common_network(few):
    (rule,) = rules(Common((8, 8), 1, 50))
    learner = rule.make(0.05, 3)
    assert (learner.hidden, learner.lr, learner.random_state) == ((8, 8), 0.05, 3)
    assert learner.fit(*few.train).predict(few.x_test).shape == (60,)


def test_the_method_can_be_found_by_its_slug():
    assert methods.module("momentum_auxiliary").PAPER is PAPER and PAPER.slug == "momentum_auxiliary"


def test_images_are_averaged_over_squares(few):
    small = averaged(few, 4)
    assert small.shape == (1, 4, 4)
    assert np.allclose(small.x_train[:, 0, 1, 2], few.x_train[:, 0, 2:4, 4:6].mean(axis=(1, 2)))
    assert averaged(few, 8) is few


CLAIMS = {c.id: c for c in record.claims("momentum_auxiliary")}


def test_the_claims_are_there():
    assert list(CLAIMS) == ["helps", "average-alone", "ablation", "tracking", "memory"]


@pytest.mark.parametrize("name", CLAIMS)
def test_a_quick_measurement_can_be_judged_and_drawn(name, few):
    claim, told = CLAIMS[name], []
    setting = Setting(few if claim.data != ("",) else None, "digits", 0, quick=True, tell=told.append)
    values = [claim.measure(setting)]
    holds, note = claim.judge(values)
    assert isinstance(holds, bool) and note
    with style.use():
        figure = style.figure()
        claim.draw(figure, values)
        figure.canvas.draw()
    assert figure.axes[0].get_xlabel()


def test_claims_share_their_runs_and_tell_how_far_they_are(few, monkeypatch):
    from refimpl.methods.local.momentum_auxiliary import claims

    monkeypatch.setattr(claims, "_done", {})
    told = []
    setting = Setting(few, "digits", 1, quick=True, tell=told.append)
    first = CLAIMS["average-alone"].measure(setting)
    trained = len(told)
    again = CLAIMS["ablation"].measure(setting)
    assert trained == 3 * 2 and len(told) - trained == 7 * 2  # epochs of models that were not there
    assert all(first[name] == again[name] for name in ("greedy", "average"))


HELPS = {"both": 0.4801, "greedy": 0.455, "bp": 0.5, "dgl": 0.4, "dgl both": 0.4}
AVERAGE = {"average": 0.46, "greedy": 0.45, "average m=1": 0.455}
ABLATION = {"greedy": 0.4, "average": 0.45, "both": 0.4601, "average random": 0.45}
TRACKING = {"m=0.995": [0.1, 0.149], "m=1": [0.251, 0.4], "m=0": [0.0, 0.0]}
MEMORY = {"both": 65, "bp": 100, "greedy": 22, "modules": [65], "greedy modules": [22]}
TURNING = [
    # claim, values for which it holds, a change for which it does not
    ("helps", HELPS, {"both": 0.479}),
    ("average-alone", AVERAGE, {"average": 0.4599}),
    ("average-alone", AVERAGE, {"average m=1": 0.456}),
    ("ablation", ABLATION, {"both": 0.459}),
    ("ablation", ABLATION, {"average random": 0.451}),
    ("tracking", TRACKING, {"m=0.995": [0.1, 0.15]}),
    ("tracking", TRACKING, {"m=1": [0.25, 0.4]}),
    ("memory", MEMORY, {"both": 65.1}),
    ("memory", MEMORY, {"greedy": 21}),
]


@pytest.mark.parametrize(("name", "values", "change"), TURNING)
def test_a_verdict_turns_at_the_threshold_of_the_card(name, values, change):
    assert CLAIMS[name].judge([values])[0]
    assert not CLAIMS[name].judge([{**values, **change}])[0]
