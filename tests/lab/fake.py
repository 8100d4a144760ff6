"""A made-up method for the lab's tests: softmax regression in a few lines, with claims and a race.

`python tests/lab/fake.py run fake ...` is the `refimpl` command with this method in it.
"""

import os
import signal
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np

from refimpl import methods, record
from refimpl.data import batches
from refimpl.estimator import Classifier, generator
from refimpl.nn import Params
from refimpl.optim import State
from refimpl.record import Contender, Experiment, Paper, Step


class Softmax(Classifier):
    """Softmax regression by gradient descent with momentum; `pause` seconds a unit, `die` kills at that unit."""

    def __init__(self, lr=0.1, epochs=6, pause=0.0, die=None, random_state=None):
        self.lr = lr
        self.epochs = epochs
        self.pause = pause
        self.die = die
        self.random_state = random_state

    def _begin(self, X, y):
        if self.epochs < 1:
            raise ValueError(f"Softmax: epochs is {self.epochs}, expected at least 1")
        X = self._check_X(X, "float32", reset=True)
        self._X, self._y = X.reshape(len(X), -1), self._check_labels(y, len(X))
        rng = generator(self.random_state)
        w = Params({"weight": (self._X.shape[1], len(self.classes_))})
        w.flat[...] = 0.01 * rng.standard_normal(w.size)
        self._params, self._rngs = {"net": w}, {"train": rng}
        self._optimizers = {"net": State(0, {"velocity": np.zeros_like(w.flat)})}
        self.total_ = self.epochs

    def _advance(self, unit):
        if self.die == unit:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.pause)
        w, state, total = self._params["net"], self._optimizers["net"], 0.0
        for rows in batches(len(self._X), 64, self._rngs["train"]):
            x = self._X[rows] + self._rngs["train"].normal(0, 0.05, self._X[rows].shape).astype("float32")
            p = self._p(x)
            total -= np.log(p[np.arange(len(p)), self._y[rows]]).sum()
            p[np.arange(len(p)), self._y[rows]] -= 1
            state.vectors["velocity"][...] = 0.9 * state.vectors["velocity"] + (x.T @ p / len(p)).ravel()
            w.flat -= self.lr * state.vectors["velocity"]
            state.step += 1
        return {"loss": total / len(self._X)}

    def _p(self, x):
        z = x @ self._params["net"]["weight"]
        z = np.exp(z - z.max(axis=1, keepdims=True))
        return z / z.sum(axis=1, keepdims=True)

    def predict_proba(self, X):
        self._check_fitted()
        X = self._check_X(X, "float32", reset=False)
        return self._p(X.reshape(len(X), -1))


def experiment(data, seed, settings):
    unknown = set(settings) - {"epochs", "pause", "die", "quick", "lr"}
    if unknown:
        raise ValueError(f"fake: no setting {sorted(unknown)[0]!r}, expected one of epochs, lr, pause")
    options = {k: v for k, v in settings.items() if k not in ("quick", "die")}
    die = os.environ.get("FAKE_DIE")  # "contender:unit"
    at = tuple(map(int, die.split(":"))) if die else (None, None)
    learners = [Softmax(**options, random_state=seed + i, die=at[1] if at[0] == i else None) for i in range(2)]
    return Experiment([Contender("fast", learners[0]), Contender("slow", learners[1], "baseline")], data)


def race():
    def make():
        w, x = np.ones((64, 32), np.float32), np.ones((16, 64), np.float32)
        return lambda: float((x @ w).sum())

    def make_torch(torch):
        w, x = torch.ones(64, 32), torch.ones(16, 64)
        return lambda: (x @ w).sum().item()

    return [Step("fake step", "16x64 @ 64x32", "float32", make, make_torch, 2.0 * 16 * 64 * 32)]


def install():
    """Make the method known under the slug "fake"."""
    name = "refimpl_fake_method"
    if name in sys.modules:
        methods.MODULES["fake"] = name
        return
    module = ModuleType(name)
    module.PAPER = Paper("fake", "local", "A method that is made up", ("A. Nobody",), 2020, "0000.00000", "None.")
    module.experiment, module.race = experiment, race
    sys.modules[name] = module
    methods.MODULES["fake"] = name

    @record.claim(
        "fake",
        "learns",
        "It learns.",
        "accuracy >= 0.8",
        lambda ms: (min(m["a"] for m in ms) >= 0.8, "ok"),
        data=("digits", "mnist"),
        draw=lambda figure, ms: figure.subplots().plot([m["a"] for m in ms]),
    )
    def _(setting):
        setting.tell("training")
        with open(Path(setting.out) / "log", "a") as log:
            log.write("measured\n")
        if os.environ.get("FAKE_SLEEP"):
            time.sleep(float(os.environ["FAKE_SLEEP"]))
        learner = Softmax(epochs=2 if setting.quick else 5, random_state=setting.seed)
        data = setting.data
        learner.fit(data.x_train, data.y_train)
        return {"a": np.float64(learner.score(data.x_test, data.y_test)), "nan": float("nan"), "pid": os.getpid()}

    @record.claim("fake", "false", "One is larger than two.", "1 > 2", lambda ms: (False, "no"), quick_judged=True)
    def _(setting):
        if os.environ.get("FAKE_FAIL"):
            raise RuntimeError("no luck")
        return {"values": np.arange(2)}


install()

if __name__ == "__main__":
    from refimpl.cli import main

    sys.exit(main())
