"""Fixed feedback: the error reaches the hidden layers through random weights that are never trained.

A network of stages h_l = f(h_{l-1} W_l), logits o, p = softmax(o), e = dL/do = (p - onehot(y)) / B. Every layer makes
its weight gradient from what arrives at its output, as in back-propagation; what arrives differs:
    back-propagation                dL/dh_{l-1} = da_l W_l^T
    feedback alignment              dh_{l-1}    = da_l B_l^T           B_l as W_l, random and fixed              (1)
    direct feedback alignment       dh_l        = e B_l                B_l (K, n_l) random and fixed             (2)
    ... by the sign of the error    dh_l        = sign(e) B_l / B                                               (3)
    direct random target projection dh_l        = -onehot(y) B_l / B   the label itself; needs no forward pass  (4)
    shallow                         dh_l        = 0                    random hidden layers stay as they are     (5)
with da_l = dh_l f'(a_l). The last layer learns from e in all of them. (1) still waits for the layers above, (2) to (4)
reach all layers at once. In a convolutional network B_l (K, C H W) ends at the output of a stage, behind its pooling.
There (2) needs a good learning rate and (3), (4) learn
little: signals that do not fade with the error suit layers that saturate.
The sign of (4) is without meaning (B_l is as probable as -B_l); this one makes it (2) with p taken for 0.

Nothing is stored of the B_l but the state of the generator that draws them.

Sources: (1) Lillicrap, Cownden, Tweed and Akerman, "Random synaptic feedback weights support error backpropagation for
deep learning", 2016. (2) Nøkland, "Direct feedback alignment provides learning in deep neural networks", 2016. (3), (4)
Frenkel, Lefebvre and Bol, "Learning without feedback: fixed random learning signals allow for feedforward training of
deep neural networks", 2021, who train networks of one and two hidden layers.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refimpl import ops
from refimpl.baselines.backprop import BackpropClassifier
from refimpl.data import batches
from refimpl.estimator import generator
from refimpl.nn import Conv1d, Conv2d, ConvTranspose2d, Layer, Linear, Params, Scope, Sequential, init, initialise
from refimpl.optim import clip_by_norm

__all__ = [
    "DirectFeedbackAlignmentClassifier",
    "FeedbackAlignmentClassifier",
    "RandomTargetProjectionClassifier",
    "ShallowClassifier",
    "Stage",
    "direct_backward",
    "stages",
]

_WEIGHTED = (Linear, Conv1d, Conv2d, ConvTranspose2d)


@dataclass(frozen=True)
class Stage:
    """The layers from one with weights to the next; `weighted` names the one with weights, the first but for a
    reshaping before it at the bottom of the network."""

    weighted: str
    layers: tuple[str, ...]


def stages(net: Layer) -> list[Stage]:
    """The stages of a network in a row. Raises ValueError for another one, or one without a weighted layer."""
    if not isinstance(net, Sequential):
        raise ValueError(f"stages: the network is {type(net).__name__}, expected layers in a row (Sequential)")
    found: list[Stage] = []
    before: list[str] = []
    for name, layer in net.layers.items():
        if isinstance(layer, _WEIGHTED):
            found.append(Stage(name, (*before, name)))
            before = []
        elif found and not isinstance(layer, Sequential) and not hasattr(layer, "body"):
            found[-1] = Stage(found[-1].weighted, (*found[-1].layers, name))
        elif layer.declare():
            raise ValueError(f"stages: layer {name!r} is {type(layer).__name__}, expected layers in a row")
        else:
            before.append(name)
    if not found:
        raise ValueError("stages: the network has no linear or convolutional layer")
    return found


def stage_shapes(net: Sequential, params: Scope, x: np.ndarray) -> list[tuple[int, ...]]:
    """Shape of one sample at the output of each stage; x is a batch of any size."""
    shapes = []
    for stage in stages(net):
        for name in stage.layers:
            x = net.layers[name].apply(params.scope(name), x)
        shapes.append(x.shape[1:])
    return shapes


def direct_backward(
    net: Sequential, params: Scope, grads: Scope, saved: Sequence[Any], dout: Sequence[np.ndarray]
) -> None:
    """Gradients of every stage from a signal of its own: dout[l] stands for dL/d(output of stage l).

    `saved` is what net.forward returned. Nothing passes from stage to stage; adds into `grads`.
    """
    kept = dict(zip(net.layers, saved))
    for stage, dy in zip(stages(net), dout, strict=True):
        signal: Any = dy
        for name in reversed(stage.layers[stage.layers.index(stage.weighted) :]):  # nothing goes below the weights
            below = name != stage.weighted
            signal = net.layers[name].backward(params.scope(name), grads.scope(name), kept[name], signal, below)


class _FixedFeedback(BackpropClassifier):
    """What the rules share: feedback weights drawn by a generator of their own, and how far updates agree with the
    gradient."""

    def _build(self, X, y, d_out):
        super()._build(X, y, d_out)
        self._rngs["feedback"] = np.random.default_rng(self._rngs["train"].integers(0, 2**32, 4).tolist())
        self._regenerate()

    def _regenerate(self) -> None:
        """Draw the feedback weights: the same ones whenever the generator is in the same state."""
        self._feedback = self._draw(copy.deepcopy(self._rngs["feedback"]))

    def _draw(self, rng: np.random.Generator) -> Any:
        raise NotImplementedError

    def restore(self, arrays, meta):
        super().restore(arrays, meta)
        self._regenerate()

    def _backward(self, grads: Params, saved: Any, dout: np.ndarray, y: np.ndarray) -> None:
        """The rule: adds what stands for the gradient into `grads`."""
        raise NotImplementedError

    def _gradients(self, x, y, rng):
        out, saved = self._net.forward(self._params["net"], x, train=True, rng=rng)
        loss, dout = self._loss(out, y)
        self._backward(self._grads, saved, dout, y)
        return loss

    def alignment(self, X: Any, y: Any) -> dict[str, float]:
        """Cosine between the update of each weight and the true gradient, on X (n, ...) and labels y (n,)."""
        self._check_fitted()
        X = self._check_X(X, self.dtype, reset=False).reshape(-1, *self._shape())
        y = self._check_y(y, len(X))
        numbers = np.minimum(np.searchsorted(self.classes_, y), len(self.classes_) - 1)
        if (self.classes_[numbers] != y).any():
            raise ValueError(f"{type(self).__name__}: y holds classes that were not there in fit")
        params = self._params["net"].copy()  # running statistics stay as they are
        out, saved = self._net.forward(params, X, train=True, rng=np.random.default_rng(0))
        dout = self._loss(out, numbers)[1]
        mine, true = params.zeros_like(), params.zeros_like()
        self._backward(mine, saved, dout, numbers)
        self._net.backward(params, true, saved, dout, need_dx=False)
        pairs = {name: (mine[name].ravel(), true[name].ravel()) for name in params.shapes if name.endswith("weight")}
        lengths = {name: np.linalg.norm(a) * np.linalg.norm(b) for name, (a, b) in pairs.items()}
        return {name: float(a @ b / lengths[name]) if lengths[name] else 0.0 for name, (a, b) in pairs.items()}


class FeedbackAlignmentClassifier(_FixedFeedback):
    """Classification by feedback alignment (1): the error goes back layer by layer through fixed random weights.

    Arguments as in BackpropClassifier; any network of linear and convolutional layers. The feedback weights have the
    distribution of the first forward weights. `alignment` measures how far the updates agree with the gradient.
    """

    def _draw(self, rng):
        return initialise(self._net, rng, self.dtype)

    def _backward(self, grads, saved, dout, y):
        # dx = dy W^T is the only place where a layer's backward pass uses its weights
        self._net.backward(self._feedback, grads, saved, dout, need_dx=False)


class _Direct(_FixedFeedback):
    """A signal of its own for each hidden stage, through one matrix B_l (K, n_l)."""

    def __init__(
        self,
        model: str | Layer = "mlp",
        hidden: tuple[int, ...] = (256,),
        image_shape: tuple[int, int, int] | None = None,
        optimizer: str = "adamw",
        lr: float = 1e-3,
        weight_decay: float = 1e-3,
        schedule: str = "constant",
        clip: float | None = None,
        epochs: int = 20,
        batch_size: int = 128,
        dtype: str = "float32",
        random_state: Any = None,
        activation: str = "tanh",
    ):
        super().__init__(
            model,
            hidden,
            image_shape,
            optimizer,
            lr,
            weight_decay,
            schedule,
            clip,
            epochs,
            batch_size,
            dtype,
            random_state,
            activation,
        )

    def _draw(self, rng):
        shapes = stage_shapes(self._net, self._params["net"], self._X[:1])[:-1]
        return [
            init.kaiming_uniform(int(np.prod(s)), 1.0)(rng, (len(self.classes_), *s)).astype(self.dtype) for s in shapes
        ]

    def _signal(self, dout: np.ndarray, y: np.ndarray) -> np.ndarray:
        """What is projected, (B, K)."""
        raise NotImplementedError

    def _backward(self, grads, saved, dout, y):
        signal = self._signal(dout, y)
        K, B = dout.shape[1], len(dout)
        hidden = [ops.matmul(signal, b.reshape(K, -1)).reshape(B, *b.shape[1:]) for b in self._feedback]
        direct_backward(self._net, self._params["net"], grads, saved, [*hidden, dout])


class DirectFeedbackAlignmentClassifier(_Direct):
    """Classification by direct feedback alignment (2): the output error reaches every hidden layer through a fixed
    random matrix of its own; with `sign`, only the signs of the error do (3).

    Other arguments as in BackpropClassifier, but for the activation of the MLP, which is tanh as in the papers (signals
    that do not fade drive others out of bounds); networks whose layers stand in a row ("mlp", "lenet", "vgg").
    """

    def __init__(
        self,
        model: str | Layer = "mlp",
        hidden: tuple[int, ...] = (256,),
        image_shape: tuple[int, int, int] | None = None,
        optimizer: str = "adamw",
        lr: float = 1e-3,
        weight_decay: float = 1e-3,
        schedule: str = "constant",
        clip: float | None = None,
        epochs: int = 20,
        batch_size: int = 128,
        dtype: str = "float32",
        random_state: Any = None,
        activation: str = "tanh",
        sign: bool = False,
    ):
        super().__init__(
            model,
            hidden,
            image_shape,
            optimizer,
            lr,
            weight_decay,
            schedule,
            clip,
            epochs,
            batch_size,
            dtype,
            random_state,
            activation,
        )
        self.sign = sign

    def _signal(self, dout, y):
        return np.sign(dout) / dout.dtype.type(len(dout)) if self.sign else dout


class RandomTargetProjectionClassifier(_Direct):
    """Classification by direct random target projection (4): a hidden layer is pushed along a fixed random direction of
    the sample's class, whatever the network says; only the last layer learns from the error.

    Arguments as in BackpropClassifier, but for the activation of the MLP, which is tanh as in the paper: the push does
    not fade with the error, saturation ends it. Networks whose layers stand in a row ("mlp", "lenet", "vgg").
    """

    def _signal(self, dout, y):
        signal = np.zeros_like(dout)
        signal[np.arange(len(y)), y] = -1 / len(y)
        return signal


class ShallowClassifier(BackpropClassifier):
    """Only the last layer is trained, on what the random hidden layers make of the input (5).

    Arguments as in BackpropClassifier, whose first weights it has for the same random_state; networks whose layers
    stand in a row ("mlp", "lenet", "vgg").
    """

    def _build(self, X, y, d_out):
        super()._build(X, y, d_out)
        *hidden, last = stages(self._net)
        first, layers = self._params["net"], self._net.layers
        self._hidden = Sequential(**{name: layers[name] for stage in hidden for name in stage.layers})
        self._net = Sequential(**{name: layers[name] for name in last.layers})
        parts = {"hidden": self._hidden, "net": self._net}
        self._params = {part: initialise(net, generator(0), self.dtype) for part, net in parts.items()}
        for params in self._params.values():
            params.load({name: first[name] for name in params})
        self._grads = self._params["net"].zeros_like()
        self._optimizers = {"net": self._optimizer.init(self._params["net"])}

    def _features(self, X: np.ndarray) -> np.ndarray:
        """Output of the frozen layers, in chunks so that memory stays bounded."""
        params = self._params["hidden"]
        return np.concatenate([self._hidden.apply(params, X[i : i + 1024]) for i in range(0, len(X), 1024)])

    def _advance(self, unit):
        params, rng, total = self._params["net"], self._rngs["train"], 0.0
        H = self._features(self._X)  # the same for every batch of the epoch
        for rows in batches(len(H), self.batch_size, rng):
            self._grads.flat[...] = 0
            total += self._gradients(H[rows], self._y[rows], rng) * len(rows)
            if self.clip is not None:
                clip_by_norm(self._grads, self.clip)
            self._optimizer.step(params, self._grads, self._optimizers["net"])
        return {"loss": total / len(H)}

    def _outputs(self, X):
        self._check_fitted()
        X = self._check_X(X, self.dtype, reset=False).reshape(-1, *self._shape())
        return self._net.apply(self._params["net"], self._features(X))
