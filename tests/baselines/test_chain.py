import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import data, ops
from refimpl.baselines import ChainClassifier, UnrolledFlowClassifier
from refimpl.baselines.chain import chain_stages, flow_stages, unrolled_loss
from refimpl.models.diffusion import chain, cosine_signal, gamma_schedule
from refimpl.models.label_denoiser import ReadOut, denoiser
from refimpl.nn import initialise
from tests.harness import central_differences, relative_error

B, K = 4, 3


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def setup(kind, D, readout, seed):
    rng = np.random.default_rng(seed)
    block = denoiser("mlp", (3,), D or K, K, 3, timed=kind == "flow", activation="tanh", time_width=4)
    out = ReadOut(readout, K, D or K, 0.8)
    if kind == "chain":
        stages = chain_stages(chain(cosine_signal(3, 0.02, 0.9)))
    else:
        stages = flow_stages(gamma_schedule("linear", 0.05, 0.9), {}, 3)
    names = dict.fromkeys(stage.group for stage in stages)
    params = {name: initialise(block, rng, np.float64) for name in names}
    params["readout"] = initialise(out, rng, np.float64)
    for group in params.values():
        group.flat += 0.3 * rng.standard_normal(group.size)
    W = rng.standard_normal((K, D)) if D else None
    start = rng.standard_normal((B, D or K))
    noise = [rng.standard_normal((B, D or K)) if stage.s else None for stage in stages]
    x, y = rng.standard_normal((B, 3)), rng.integers(0, K, B)

    def loss(grads, dW):
        return unrolled_loss(block, stages, out, params, grads, W, dW, x, y, start, noise)

    return params, W, loss


@pytest.mark.parametrize("kind", ["chain", "flow"])
@pytest.mark.parametrize(("D", "readout"), [(None, "linear"), (2, "linear"), (2, "distance"), (2, "nearest")])
@settings(max_examples=4)
@given(seed=st.integers(0, 2**32 - 1))
def test_gradients_through_all_steps_equal_central_differences(kind, D, readout, seed):
    params, W, loss = setup(kind, D, readout, seed)
    grads = {name: group.zeros_like() for name, group in params.items()}
    dW = None if W is None else np.zeros_like(W)
    loss(grads, dW)

    def again():
        return loss(
            {name: group.zeros_like() for name, group in params.items()}, None if W is None else np.zeros_like(W)
        )

    for name, group in params.items():
        if group.size:
            assert relative_error(grads[name].flat, central_differences(again, group.flat)) < 1e-6, name
    if W is not None:
        assert relative_error(dW, central_differences(again, W)) < 1e-6


def test_flow_stages_are_the_euler_steps_that_inference_takes(digits):
    learner = UnrolledFlowClassifier(steps=5, epochs=1, width=8, random_state=0)
    learner.begin(digits.x_train[:50], digits.y_train[:50])
    learner.advance()
    path = learner.denoise(digits.x_test[:6], rng=np.random.default_rng(0), path=True)
    block, params, z = learner._block(), learner._params["net"], path[0]
    g, _ = block.features(params, digits.x_test[:6])
    for stage, expected in zip(learner._stages(), path[1:]):
        uhat, _ = ops.softmax_mixture(block.denoise(params, g, z, np.array([stage.t]))[0])
        z = stage.a * uhat + stage.b * z
        assert np.allclose(z, expected, atol=1e-5)


@pytest.mark.parametrize("learner", [ChainClassifier(epochs=30), UnrolledFlowClassifier(epochs=60)])
def test_learns_more_than_chance_on_the_digits(digits, learner):
    learner.set_params(random_state=0).fit(digits.x_train, digits.y_train)
    assert learner.score(digits.x_test, digits.y_test) > 0.3
    losses = [m["loss"] for m in learner.history_]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("learner", [ChainClassifier, UnrolledFlowClassifier])
@pytest.mark.parametrize("embedding", ["onehot", "learned", "prototype"])
def test_resumed_training_gives_the_same_bits(digits, learner, embedding):
    X, y = digits.x_train[:100], digits.y_train[:100]
    settings = {"embedding": embedding, "width": 8, "epochs": 2, "random_state": 3}
    whole = learner(**settings).fit(X, y)
    first, second = learner(**settings), learner(**{**settings, "random_state": 9})
    first.begin(X, y)
    first.advance()
    second.begin(X, y)
    second.restore(*first.checkpoint())
    second.advance()
    assert np.array_equal(second.predict_proba(X), whole.predict_proba(X))


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (ChainClassifier(T=0), "T is 0"),
        (ChainClassifier(clip=-1.0), "clip is -1.0"),
        (ChainClassifier(epochs=2.5), "epochs is 2.5"),
        (UnrolledFlowClassifier(schedule="learned"), "schedule is 'learned'"),
        (UnrolledFlowClassifier(steps=0), "steps is 0"),
        (UnrolledFlowClassifier(embedding="random"), "embedding is 'random'"),
    ],
)
def test_unusable_settings_are_clear_errors(learner, message):
    with pytest.raises(ValueError, match=message):
        learner.fit(np.eye(4), np.arange(4) % 2)
