"""Experiment, figure, race and claims of target projection SGD: that they run, and that verdicts turn at the
thresholds."""

import numpy as np
import pytest

from refimpl import BackpropClassifier, data, methods, record
from refimpl.data.evidence import draw_evidence
from refimpl.methods.local.tpsgd import PAPER, experiment, race, teach
from refimpl.record import Setting

pytest.importorskip("matplotlib")
from refimpl.viz import style


@pytest.fixture(scope="module")
def few():
    return data.load("digits").subset(200, 60)


def drawn(made, data_set):
    results = []
    for c in made.contenders:
        c.learner.fit(*data_set.train)
        results.append({"name": c.name, "role": c.role, "learner": c.learner, "score": c.learner.score(*data_set.test)})
        results[-1]["history"] = c.learner.history_
    with style.use():
        figure = style.figure()
        made.draw(figure, results)
        figure.canvas.draw()
    return figure


@pytest.mark.parametrize("settings", [{"width": 16}, {"model": "conv", "depth": 1}])
def test_the_experiment_trains_and_draws(few, settings):
    made = experiment(few, 0, {"steps": 8, **settings})
    assert [c.name for c in made.contenders][:5] == [
        "tpSGD, l2", "tpSGD, l1", "tpSGD, logistic", "tpSGD, greedy", "back-propagation",
    ]  # fmt: skip
    assert len(drawn(made, few).axes) == 4


def test_the_experiment_on_sequences_trains_and_draws():
    evidence = draw_evidence(0, 2.0, 100, 50)
    made = experiment(evidence, 0, {"steps": 4, "width": 8})
    assert {c.name for c in made.contenders} >= {"tpSGD, all steps", "BPTT", "reservoir"}
    assert len(drawn(made, evidence).axes) == 4


def test_all_learners_have_the_same_first_weights(few):
    mine, *others = (c.learner for c in experiment(few, 3, {"steps": 4}).contenders)
    bp = next(learner for learner in others if isinstance(learner, BackpropClassifier))
    mine.begin(*few.train)
    bp.begin(*few.train)
    own = np.concatenate([params.flat for params in mine._params.values()])
    assert np.array_equal(own, bp._params["net"].flat)


def test_unknown_settings_are_clear_errors(few):
    with pytest.raises(ValueError, match="tpsgd: no setting 'layers', expected one of model, width"):
        experiment(few, 0, {"layers": 3})
    with pytest.raises(ValueError, match="model is 'rnn', expected mlp or conv"):
        experiment(few, 0, {"model": "rnn"})


def test_a_quick_experiment_is_short(few):
    quick, full = (experiment(few, 0, s).contenders[0].learner.epochs for s in ({"quick": True}, {}))
    assert quick < full / 20


@pytest.mark.parametrize("entry", [*race(), *teach()], ids=lambda step: f"{step.name} {step.shape}")
def test_the_steps_lower_their_losses(entry):
    step = entry.make()
    losses = [step() for _ in range(20)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("entry", race(), ids=lambda step: f"{step.name} {step.shape}")
def test_the_same_step_in_pytorch_gives_the_same_losses(entry):
    torch = pytest.importorskip("torch")
    mine, theirs = entry.make(), entry.make_torch(torch)
    assert np.allclose([mine() for _ in range(4)], [theirs() for _ in range(4)], rtol=1e-4)


def test_the_method_can_be_found_by_its_slug():
    assert methods.module("tpsgd").PAPER is PAPER and PAPER.slug == "tpsgd"


CLAIMS = {c.id: c for c in record.claims("tpsgd")}


def test_the_claims_are_there():
    assert list(CLAIMS) == ["close-to-backprop", "any-loss", "evidence", "blank-rows", "convolution", "memory"]


@pytest.mark.parametrize("name", CLAIMS)
def test_a_quick_measurement_can_be_judged_and_drawn(name):
    claim, told = CLAIMS[name], []
    few = data.load("digits").subset(120, 60)
    if name == "convolution":  # filters of 5x5 and pooling need some room
        few = data.Dataset(
            "digits", *(np.repeat(np.repeat(x, 2, 2), 2, 3) if x.ndim == 4 else x for x in few.arrays().values()),
            10, (1, 16, 16), "twice as large", "", "",
        )  # fmt: skip
    setting = Setting(few if claim.data != ("",) else None, "digits", 0, quick=True, tell=told.append)
    values = [claim.measure(setting)]
    holds, note = claim.judge(values)
    assert isinstance(holds, bool) and note and told
    if name == "memory":
        assert holds
    with style.use():
        figure = style.figure()
        claim.draw(figure, values)
        figure.canvas.draw()
    assert figure.axes[0].get_xlabel()


def of(names, depths, default, **changes):
    values = {f"{name}_{depth}": default for name in names for depth in depths}
    return {**values, **changes}


RULES = ("bp", "tuned", "l2", "l1", "logistic", "greedy", "linear", "drtp", "dfa", "sdfa", "fa", "frozen")
SEQUENCES = ("bptt", "tpsgd", "fast", "stacked", "lstm", "online", "window", "lstm_bptt", "reservoir")
FC = of(RULES, ("one", "two"), 0.9, bp_one=0.92, bp_two=0.92, frozen_two=0.85)
EVIDENCE = of(SEQUENCES, ("2.5", "4"), 0.9, **{"reservoir_2.5": 0.7, "reservoir_4": 0.7})
LOSSES = {"l2": 0.85, "l1": 0.82, "logistic": 0.86, "huber": 0.84, "cosine": 0.81, "frozen": 0.8}
ROWS = {"bptt": 0.9, "plain": 0.1, "all": 0.2, "ramp": 0.2, "late": 0.3, "last": 0.4, "window": 0.5, "reservoir": 0.6}
CONV = {"bp": 0.94, "tpsgd": 0.9, "fast": 0.9, "pooled": 0.9, "channel": 0.9, "linear": 0.9, "frozen": 0.91}
MEMORY = {
    "depth": [100, 101, 102],
    "depth_bp": [200, 300, 500],
    "time": [100] * 3,
    "parts": [100] * 3,
    "time_bp": [100, 1000, 10000],
}
TURNING = [
    # claim, values for which it holds, a change for which it does not
    ("close-to-backprop", FC, {"l2_one": 0.869}),
    ("close-to-backprop", FC, {"logistic_two": 0.889}),
    ("close-to-backprop", FC, {"frozen_two": 0.861}),
    ("any-loss", LOSSES, {"cosine": 0.799}),
    ("any-loss", LOSSES, {"logistic": 0.849}),
    ("evidence", EVIDENCE, {"bptt_4": 0.931}),
    ("evidence", EVIDENCE, {"reservoir_2.5": 0.801}),
    ("blank-rows", ROWS, {"all": 0.6}),
    ("convolution", CONV, {"tpsgd": 0.879}),
    ("memory", MEMORY, {"depth": [100, 101, 106]}),
    ("memory", MEMORY, {"time": [100, 100, 106]}),
    ("memory", MEMORY, {"parts": [100, 100, 106]}),
    ("memory", MEMORY, {"depth_bp": [200, 300, 400]}),
    ("memory", MEMORY, {"time_bp": [100, 100, 100]}),
]


@pytest.mark.filterwarnings("ignore:invalid value encountered in scalar divide:RuntimeWarning")
@pytest.mark.parametrize(("name", "values", "change"), TURNING)
def test_a_verdict_turns_at_the_threshold_of_the_card(name, values, change):
    assert CLAIMS[name].judge([values])[0]
    assert not CLAIMS[name].judge([{**values, **change}])[0]
