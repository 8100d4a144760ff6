"""Experiment, figure, race and claims of physical forward-forward: that they run, verdicts that turn at thresholds."""

import numpy as np
import pytest

from refimpl import data, methods, record
from refimpl.methods.local.physical_ff import DATA, PAPER, experiment, race, teach
from refimpl.methods.local.physical_ff.study import small_images
from refimpl.record import Setting

pytest.importorskip("matplotlib")
from refimpl.viz import style


@pytest.fixture(scope="module")
def vowels():
    return data.load("surrogate-vowels")


@pytest.fixture(scope="module")
def images():
    return data.load("digits").subset(120, 60)


@pytest.mark.parametrize("kind", ["vowels", "images"])
def test_the_experiment_trains_and_draws(kind, vowels, images):
    made = experiment(vowels if kind == "vowels" else images, 0, {"epochs": 2, "quick": True})
    assert [c.role for c in made.contenders].count("baseline") >= 4
    results = []
    for c in made.contenders:
        c.learner.fit(*made.data.train)
        accuracy = c.learner.score(*made.data.test)
        results.append({"name": c.name, "role": c.role, "learner": c.learner, "score": accuracy})
        results[-1]["history"] = c.learner.history_
    with style.use():
        figure = style.figure()
        made.draw(figure, results)
        figure.canvas.draw()
    assert len(figure.axes) == 4 and all(ax.get_title(loc="left") for ax in figure.axes)


def test_an_unknown_setting_is_a_clear_error(vowels):
    with pytest.raises(ValueError, match="physical_ff: no setting 'depth', expected one of theta"):
        experiment(vowels, 0, {"depth": 3})


def test_noise_reaches_the_systems_and_nothing_else(vowels):
    learners = {c.name: c.learner for c in experiment(vowels, 0, {"noise": 0.1, "theta": 3.0}).contenders}
    assert learners["acoustic"].noise == 0.1 and learners["no physics"].noise == 0 and learners["acoustic"].theta == 3


def test_images_are_averaged_and_colours_refused(images):
    from dataclasses import replace

    x = np.random.default_rng(0).random((20, 1, 28, 28)).astype(np.float32)
    y = np.arange(20) % 10
    large = replace(images, x_train=x, y_train=y, x_test=x, y_test=y, shape=(1, 28, 28))
    small = small_images(large, 0)
    assert small.shape == (1, 14, 14)
    assert np.isclose(small.x_train.mean(), x.mean(), atol=1e-6)
    colours = replace(
        images, x_train=np.repeat(x, 3, 1), y_train=y, x_test=np.repeat(x, 3, 1), y_test=y, shape=(3, 28, 28)
    )
    with pytest.raises(ValueError, match="has 3 colours, expected grey images"):
        small_images(colours, 0)


@pytest.mark.parametrize("entry", [*race(), *teach()], ids=lambda s: s.name)
def test_race_and_teach_take_steps_that_lower_the_loss(entry):
    step = entry.make()
    losses = [step() for _ in range(8)]
    assert losses[-1] < losses[0] < np.log(2) * 1.5


@pytest.mark.parametrize("entry", race(), ids=lambda s: s.name)
def test_a_training_step_is_the_same_in_pytorch(entry):
    torch = pytest.importorskip("torch")
    mine, theirs = entry.make(), entry.make_torch(torch)
    # two steps, 20 to 40 of Adam: its first ones are nearly signs of the gradient, and roundings grow from step to step
    assert [mine() for _ in range(2)] == pytest.approx([theirs() for _ in range(2)], rel=2e-3)


def test_the_method_can_be_found_by_its_slug():
    assert methods.module("physical_ff").PAPER is PAPER and set(DATA) <= set(data.names())
    assert methods.data("physical_ff") == DATA


CLAIMS = {c.id: c for c in record.claims("physical_ff")}


def test_all_claims_of_the_card_are_there():
    names = ["opaque-physics", "no-derivative", "model-mismatch", "noise-and-drift", "images", "cost"]
    assert list(CLAIMS) == names


@pytest.mark.parametrize("name", CLAIMS)
def test_a_quick_measurement_can_be_judged_and_drawn(name, vowels, images):
    claim, told = CLAIMS[name], []
    given = {("mnist",): images, ("hillenbrand-vowels",): vowels}.get(claim.data)
    values = [claim.measure(Setting(given, "", 0, quick=True, tell=told.append))]
    holds, note = claim.judge(values)
    assert isinstance(holds, bool) and note and told
    if claim.quick_judged:
        assert holds, note
    with style.use():
        figure = style.figure()
        claim.draw(figure, values)
        figure.canvas.draw()
    assert figure.axes[0].get_xlabel()


OPAQUE = {"acoustic": 0.93, "ridge": 0.88, "acoustic_alone": 0.9, "optical": 0.9, "ridge_acoustic": 0.9}
OPAQUE |= {"ridge_optical": 0.9, "nothing": 0.9}
STAIRCASE = {"microwave": 0.83, "ridge_microwave": 0.7, "microwave_alone": 0.6, "nothing": 0.9}
MISMATCH = {
    f"{n}_{k}": 0.5 for n in ("ideal", "twin_02", "twin_05", "aware_02", "aware_05") for k in ("standard", "centred")
}
NOISE = {"clean": 0.98, "noisy": 0.95, "drifting": 0.9, "before": 0.98, "fallen": 0.7, "after": 0.95}
NOISE |= {"before_alone": 0.9, "fallen_alone": 0.3, "after_alone": 0.9, "noisy_alone": 0.4}
IMAGES = {"optical_1": 0.9, "optical_2": 0.9, "nothing": 0.8, "ridge": 0.85, "ridge_optical": 0.89}
TURNING = [
    # claim, values for which it holds, a change for which it does not
    ("opaque-physics", OPAQUE, {"acoustic": 0.929}),
    ("opaque-physics", OPAQUE, {"ridge": 0.89}),
    ("no-derivative", STAIRCASE, {"microwave": 0.829}),
    ("no-derivative", STAIRCASE, {"ridge_microwave": 0.72}),
    ("model-mismatch", {**MISMATCH, "phyll": 0.75}, {"phyll": 0.69}),
    ("model-mismatch", {**MISMATCH, "phyll": 0.75}, {"twin_05_centred": 0.56}),
    ("model-mismatch", {**MISMATCH, "phyll": 0.75}, {"ideal_standard": 0.84}),
    ("noise-and-drift", NOISE, {"noisy": 0.93}),
    ("noise-and-drift", NOISE, {"fallen": 0.8}),
    ("noise-and-drift", NOISE, {"after": 0.93}),
    ("images", IMAGES, {"optical_2": 0.879}),
    ("images", IMAGES, {"ridge": 0.875}),
    ("cost", {"measured": [(2, 10, 4.0)], "flops": 1.0}, {"measured": [(2, 10, 4.01)]}),
]


@pytest.mark.parametrize(("name", "values", "change"), TURNING)
def test_a_verdict_turns_at_the_threshold_of_the_card(name, values, change):
    assert CLAIMS[name].judge([values])[0]
    assert not CLAIMS[name].judge([{**values, **change}])[0]
