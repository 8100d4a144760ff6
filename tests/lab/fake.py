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

from refimpl import BackpropClassifier, methods, record
from refimpl.data import batches
from refimpl.estimator import Classifier, generator
from refimpl.nn import Params
from refimpl.optim import State
from refimpl.record import Contender, Experiment, Paper, Step

NAME = "refimpl_fake_method"
MODULES = {"fake": NAME}  # for methods.MODULES


class Softmax(Classifier):
    """Softmax regression by gradient descent with momentum; `pause` seconds a unit."""

    def __init__(self, lr=0.1, epochs=6, pause=0.0, random_state=None):
        self.lr = lr
        self.epochs = epochs
        self.pause = pause
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


def _deadly(learner, i):
    """Kill the process when contender i comes to the unit that FAKE_DIE names."""
    die = os.environ.get("FAKE_DIE")
    if die and int(die.split(":")[0]) == i:
        advance = learner._advance

        def _advance(unit):
            if unit == int(die.split(":")[1]):
                os.kill(os.getpid(), signal.SIGKILL)
            return advance(unit)

        learner._advance = _advance


def experiment(data, seed, settings):
    unknown = set(settings) - {"epochs", "pause", "quick", "lr", "real"}
    if unknown:
        raise ValueError(f"fake: no setting {sorted(unknown)[0]!r}, expected one of epochs, lr, pause")
    if settings.get("real"):
        learners = [
            BackpropClassifier(hidden=(32,), epochs=settings["epochs"], random_state=seed + i) for i in range(2)
        ]
        for i, learner in enumerate(learners):
            _deadly(learner, i)
        return Experiment([Contender(n, learner) for n, learner in zip(("one", "two"), learners)], data)
    options = {k: v for k, v in settings.items() if k not in ("quick",)}
    learners = [Softmax(**options, random_state=seed + i) for i in range(2)]
    for i, learner in enumerate(learners):
        _deadly(learner, i)
    return Experiment([Contender("fast", learners[0]), Contender("slow", learners[1], "baseline")], data)


def race():
    def make():
        w, x = np.ones((64, 32), np.float32), np.ones((16, 64), np.float32)
        return lambda: float((x @ w).sum())

    def make_torch(torch):
        w, x = torch.ones(64, 32), torch.ones(16, 64)
        return lambda: (x @ w).sum().item()

    return [Step("fake step", "16x64 @ 64x32", "float32", make, make_torch, 2.0 * 16 * 64 * 32)]


def _install():
    """The method's module, as if it stood in refimpl/methods, and its claims."""
    if NAME in sys.modules:
        return
    module = ModuleType(NAME)
    module.PAPER = Paper("fake", "local", "A method that is made up", ("A. Nobody",), 2020, "0000.00000", "None.")
    module.experiment, module.race = experiment, race
    sys.modules[NAME] = module

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


_install()
if __name__ in ("__main__", "__mp_main__"):  # the command, and its worker processes
    methods.MODULES["fake"] = NAME

if __name__ == "__main__":
    from refimpl.cli import main
    from refimpl.lab import run

    run.CHECKPOINT_SECONDS = float(os.environ.get("FAKE_EVERY", run.CHECKPOINT_SECONDS))
    sys.exit(main())
