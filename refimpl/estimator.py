"""Floor 4: the contract of everything that learns from data, methods and baselines alike.

What a scikit-learn user expects (`fit`, `predict`, `score`, `get_params`, `set_params`, `random_state`), without
depending on scikit-learn, and training as a sequence of resumable units:

    learner.begin(X, y)                  # checks the data, draws the first parameters
    while learner.progress_ < learner.total_:
        metrics = learner.advance()      # one unit of training, an epoch say
    learner.finish()

`fit` is exactly that loop. Between two units the whole state of training is in `learner.checkpoint()` (arrays and a
JSON-able dict), and `learner.restore(...)` after `begin` on the same data continues to the same bits.

A subclass keeps what it trains in three dictionaries, and the base class does the rest:
    self._params: dict[str, Params]      self._optimizers: dict[str, optim.State]      self._rngs: dict[str, Generator]
"""

from __future__ import annotations

import inspect
import math
import sys
from typing import Any

import numpy as np

from refimpl.backends import arena
from refimpl.nn import Params
from refimpl.optim import State


class NotFittedError(ValueError, AttributeError):
    """Raised when a learner is asked for something before `fit`."""


def _not_fitted(message: str) -> Exception:
    """scikit-learn's own class where scikit-learn is loaded, so that its users can catch what they know."""
    if "sklearn" in sys.modules:
        from sklearn.exceptions import NotFittedError as Theirs

        return Theirs(message)
    return NotFittedError(message)


def generator(random_state: Any) -> np.random.Generator:
    """A generator from None (fresh entropy), a seed, a Generator (used as it is) or a legacy RandomState."""
    if isinstance(random_state, np.random.Generator):
        return random_state
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(random_state.randint(0, 2**32, 4, dtype=np.uint64).tolist())
    return np.random.default_rng(random_state)


class Estimator:
    """Base of all learners. Hyper-parameters are the arguments of `__init__`, kept under their own names."""

    n_features_in_: int
    progress_: int
    total_: int
    history_: list[dict[str, float]]

    # ------------------------------------------------------------ hyper-parameters

    @classmethod
    def _parameter_names(cls) -> list[str]:
        parameters = inspect.signature(cls.__init__).parameters.values()
        return sorted(p.name for p in parameters if p.name != "self" and p.kind != p.VAR_KEYWORD)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Hyper-parameters by name."""
        return {name: getattr(self, name) for name in self._parameter_names()}

    def set_params(self, **params: Any):
        """Change hyper-parameters. Raises ValueError for a name that does not exist, before any is changed."""
        known = self._parameter_names()
        for name in params:
            if name not in known:
                raise ValueError(f"{type(self).__name__}: no parameter {name!r}, expected one of {', '.join(known)}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = {k: p.default for k, p in inspect.signature(type(self).__init__).parameters.items()}
        changed = {k: v for k, v in self.get_params().items() if repr(v) != repr(defaults.get(k))}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in changed.items())})"

    # ------------------------------------------------------------ training as resumable units

    def begin(self, X: Any, y: Any) -> None:
        """Check data and hyper-parameters, forget earlier training, draw the first parameters; sets `total_`."""
        self._params: dict[str, Params] = {}
        self._optimizers: dict[str, State] = {}
        self._rngs: dict[str, np.random.Generator] = {}
        self.progress_ = 0
        self.history_ = []
        self._begin(X, y)

    def _begin(self, X: Any, y: Any) -> None:
        raise NotImplementedError

    def advance(self) -> dict[str, float]:
        """Train one unit (number `progress_` of `total_`) and return its metrics, which also go into `history_`."""
        if self.progress_ >= self.total_:
            raise ValueError(f"{type(self).__name__}: training is complete ({self.total_} units)")
        with arena():
            metrics = {k: float(v) for k, v in self._advance(self.progress_).items()}
        self.history_.append(metrics)
        self.progress_ += 1
        return metrics

    def _advance(self, unit: int) -> dict[str, float]:
        raise NotImplementedError

    def finish(self) -> None:
        """Let go of the training data and whatever only training needs."""
        for name in ("_X", "_y", "_grads"):
            self.__dict__.pop(name, None)

    def fit(self, X: Any, y: Any):
        """Train on X (n, features) or (n, C, H, W) and y (n,). Raises ValueError or TypeError for unusable data."""
        self.begin(X, y)
        while self.progress_ < self.total_:
            self.advance()
        self.finish()
        return self

    def checkpoint(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The state of training between two units: arrays by name, and a JSON-able dict."""
        arrays: dict[str, np.ndarray] = {}
        for group, params in self._params.items():
            arrays |= {f"params/{group}/{name}": a for name, a in params.arrays().items()}
        for group, state in self._optimizers.items():
            arrays |= {f"optimizer/{group}/{name}": v for name, v in state.vectors.items()}
        meta = {
            "learner": type(self).__name__,
            "progress": self.progress_,
            "total": self.total_,
            "history": self.history_,
            "optimizer_steps": {group: state.step for group, state in self._optimizers.items()},
            "rngs": {name: rng.bit_generator.state for name, rng in self._rngs.items()},
        }
        return arrays, meta

    def restore(self, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        """Continue from a checkpoint; call `begin` with the same data and hyper-parameters first.

        Raises ValueError where the checkpoint does not belong to this learner; nothing is changed then.
        """
        mine, own = self.checkpoint()
        who = type(self).__name__
        for key in ("learner", "total"):
            if meta.get(key) != own[key]:
                raise ValueError(f"{who}: the checkpoint has {key} {meta.get(key)!r}, expected {own[key]!r}")
        if set(mine) != set(arrays):
            different = sorted(set(mine) ^ set(arrays))
            raise ValueError(f"{who}: the checkpoint holds other arrays (first difference: {different[0]})")
        for name, a in mine.items():
            if arrays[name].shape != a.shape or arrays[name].dtype != a.dtype:
                given = f"{arrays[name].dtype}{list(arrays[name].shape)}"
                raise ValueError(f"{who}: {name} is {given} in the checkpoint, expected {a.dtype}{list(a.shape)}")
        if set(meta["rngs"]) != set(self._rngs) or set(meta["optimizer_steps"]) != set(self._optimizers):
            raise ValueError(f"{who}: the checkpoint has other random streams or optimisers than this learner")
        for name, a in mine.items():
            a[...] = arrays[name]
        for group, step in meta["optimizer_steps"].items():
            self._optimizers[group].step = step
        for name, state in meta["rngs"].items():
            self._rngs[name].bit_generator.state = state
        self.progress_ = meta["progress"]
        self.history_ = [dict(m) for m in meta["history"]]

    # ------------------------------------------------------------ checking data

    def _check_X(self, X: Any, dtype: Any, reset: bool) -> np.ndarray:
        """X as a finite, C-contiguous (n, features...) array of `dtype`; with reset, remember its shape."""
        who = type(self).__name__
        if hasattr(X, "toarray") and hasattr(X, "nnz"):
            raise TypeError(f"{who}: X is a sparse matrix, expected a dense array; use X.toarray()")
        X = np.asarray(X)
        if X.dtype.kind == "c":
            raise ValueError(f"{who}: Complex data not supported: X has dtype {X.dtype}")
        if X.dtype.kind not in "fiub":
            X = X.astype(np.float64)  # objects and strings that are numbers; NumPy's error is clear for the rest
        if X.ndim < 2:
            hint = "Reshape your data: one sample is X.reshape(1, -1), one feature is X.reshape(-1, 1)"
            raise ValueError(f"{who}: X has shape {X.shape}, expected (samples, features...). {hint}")
        n, features = len(X), math.prod(X.shape[1:])
        if n < 1:
            raise ValueError(f"{who}: found array with 0 sample(s) (shape={X.shape}) while a minimum of 1 is required.")
        if features < 1:
            raise ValueError(f"{who}: 0 feature(s) (shape={X.shape}) while a minimum of 1 is required.")
        if X.dtype.kind == "f" and not np.isfinite(X).all():
            what = "NaN" if np.isnan(X).any() else "infinity"
            raise ValueError(f"{who}: Input X contains {what}, expected finite numbers")
        if reset:
            self.n_features_in_ = features
            self._input_shape = X.shape[1:]
        elif features != self.n_features_in_:
            given = f"X has {features} features, but {who} is expecting {self.n_features_in_} features as input"
            raise ValueError(f"{who}: {given}")
        with np.errstate(over="ignore"):  # reported below
            converted = np.ascontiguousarray(X, dtype=dtype)
        if not np.isfinite(converted).all():
            raise ValueError(f"{who}: Input X contains infinity or a value too large for {np.dtype(dtype)}")
        return converted

    def _check_y(self, y: Any, n: int) -> np.ndarray:
        """y as a vector of n labels or numbers."""
        who = type(self).__name__
        if y is None:
            raise ValueError(f"{who}: requires y to be passed, but the target y is None")
        y = np.asarray(y)
        if y.ndim == 2 and y.shape[1] == 1:
            _warn_column(who)
            y = y.ravel()
        if y.ndim != 1:
            raise ValueError(f"{who}: y has shape {y.shape}, expected ({n},): y should be a 1d array")
        if len(y) != n:
            raise ValueError(f"{who}: Found input variables with inconsistent numbers of samples: [{n}, {len(y)}]")
        if y.dtype.kind == "c":
            raise ValueError(f"{who}: Complex data not supported: y has dtype {y.dtype}")
        if y.dtype.kind == "f" and not np.isfinite(y).all():
            what = "NaN" if np.isnan(y).any() else "infinity"
            raise ValueError(f"{who}: Input y contains {what}, expected finite values")
        return y

    def _check_fitted(self) -> None:
        if not getattr(self, "_params", None):
            who = type(self).__name__
            raise _not_fitted(f"This {who} instance is not fitted yet: call 'fit' before using it")

    def __sklearn_is_fitted__(self) -> bool:
        return bool(getattr(self, "_params", None))

    # ------------------------------------------------------------ scikit-learn's description of a learner

    _kind = "classifier"

    def __sklearn_tags__(self):
        from sklearn.utils import ClassifierTags, InputTags, RegressorTags, Tags, TargetTags

        classifier = self._kind == "classifier"
        return Tags(
            estimator_type=self._kind,
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags() if classifier else None,
            regressor_tags=None if classifier else RegressorTags(),
            input_tags=InputTags(),
            non_deterministic=False,
        )


def _warn_column(who: str) -> None:
    import warnings

    category: type[Warning] = UserWarning
    if "sklearn" in sys.modules:
        from sklearn.exceptions import DataConversionWarning

        category = DataConversionWarning
    message = f"A column-vector y was passed when a 1d array was expected: {who} takes it as y.ravel()"
    warnings.warn(message, category, stacklevel=4)


class Classifier(Estimator):
    """A learner of classes: labels of any sortable kind become 0..K-1 inside (`classes_` maps back)."""

    classes_: np.ndarray
    _kind = "classifier"

    def _check_labels(self, y: Any, n: int) -> np.ndarray:
        """Class numbers (int64) of y; sets `classes_`. Raises ValueError for fewer than two classes or for numbers
        that are not labels."""
        who = type(self).__name__
        y = self._check_y(y, n)
        if y.dtype.kind == "f" and (y != np.floor(y)).any():
            odd = y[y != np.floor(y)][0]
            raise ValueError(f"{who}: Unknown label type: continuous. y holds {odd}, expected classes")
        self.classes_, numbers = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"{who}: y has only one class ({self.classes_[0]!r}), expected at least 2 classes")
        return numbers.astype(np.int64)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (n, K), columns in the order of `classes_`."""
        raise NotImplementedError

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row of X."""
        p = self.predict_proba(X)
        return self.classes_[p.argmax(axis=1)]

    def score(self, X: Any, y: Any) -> float:
        """Accuracy: the fraction of rows whose prediction equals y."""
        predicted = self.predict(X)
        return float(np.mean(predicted == self._check_y(y, len(predicted))))


class Regressor(Estimator):
    """A learner of one real number a row."""

    _kind = "regressor"

    def _check_target(self, y: Any, n: int) -> np.ndarray:
        y = self._check_y(y, n)
        return y.astype(np.float64)

    def predict(self, X: Any) -> np.ndarray:
        """Predicted values (n,)."""
        raise NotImplementedError

    def score(self, X: Any, y: Any) -> float:
        """Coefficient of determination R^2 = 1 - sum (y - f)^2 / sum (y - mean y)^2."""
        f = self.predict(X)
        y = self._check_target(y, len(f))
        residual, total = float(np.sum((y - f) ** 2)), float(np.sum((y - y.mean()) ** 2))
        return 1.0 - residual / total if total > 0 else float(residual == 0)
