"""Variant C: an autoencoder of two networks. One carries the image x up to an output, one the target image down.

    forward    a_0 = x,       a_l = layer l of a_{l-1},           l = 1..L,   a_L the output                       (10)
    feedback   c_L = target,  c_{l-1} = layer l of c_l,           l = L..1,   c_0 a picture of x                  (11)
The forward network shrinks the map L/2 times and then enlarges it again; the feedback network is its mirror: where one
shrinks, the other enlarges. With H_l the height of the map and norm(a) = u / (||u|| + e), u = a - its mean over a map:
    ell_l = H_l ( sC mean (a_l - c_l)^2 + sD mean (norm(a_l) - norm(c_l))^2 ),   l = 1..L-1                       (12)
    ell_l = H_l sC mean (a_l - c_l)^2,                                           l = 0 and L                      (13)
    da_l = 2 H_l / N_l ( sC (a_l - c_l) + sD norm'(norm(a_l) - norm(c_l)) ),     dc_l with a and c exchanged      (14)
    norm'(g) = du - its mean over a map,   du = g / (n + e) - u <u, g> / (n (n + e)^2),   n = ||u||               (15)
N_l is the number of entries; loss and gradients of a level are one operation, `ops.map_agreement`. Gradients end at the
input of a layer: ell_l trains layer l of the forward network and layer l+1 of the feedback network. ell_L is the error
of the output, ell_0 that of the feedback network, which is an autoencoder from the other end.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from refimpl import ops, optim
from refimpl.methods.local.counter_current.losses import _backward, centralise, clip
from refimpl.methods.local.counter_current.networks import Pair
from refimpl.models.autoencoder import ImageAutoencoder, autoencoder
from refimpl.nn import Scope, initialise


def autoencoder_pair(shape: tuple[int, ...], channels: tuple[int, ...]) -> Pair:
    """(10) and (11) for images of `shape`; channels: of the shrinking layers. Raises ValueError for extents that cannot
    be halved so often."""
    up, shapes = autoencoder(shape, channels)
    return Pair(up, up[::-1], shapes)  # layer l down has the form of layer L+1-l up, and weights of its own


def autoencoder_gradients(
    pair: Pair,
    params: Scope,
    feedback: Scope,
    grads: Scope,
    feedback_grads: Scope,
    x: np.ndarray,
    target: np.ndarray,
    sC: float = 1.0,
    sD: float = 1.0,
) -> tuple[float, ...]:
    """ell_0..ell_L of a batch, and the gradient of each for its own level's weights, added into both `grads`. Batch
    norm runs on the batch, and moves its running statistics. The loop has no order."""
    a, up = pair.ascend(params, x, train=True)
    c, down = pair.descend(feedback, target, train=True)
    losses = []
    for level in range(pair.L + 1):
        trains_up, trains_down = level > 0, level < pair.L
        both = sD if trains_up and trains_down else None
        loss, da, dc = ops.map_agreement(a[level], c[level], sC, both, trains_up, trains_down)
        if trains_up:
            _backward(pair, pair.up, level, params, grads, up, da)
        if trains_down:
            _backward(pair, pair.down, level + 1, feedback, feedback_grads, down, dc)
        losses.append(float(loss))
    return tuple(losses)


# ---------------------------------------------------------------- the learner


class CounterCurrentAutoencoder(ImageAutoencoder):
    """Autoencoder by counter-current learning.

    channels: of the shrinking layers (the enlarging ones mirror them); task: what to make of an image, see
    models.autoencoder.task_pair. sC, sD: weights of the two parts of a level's loss. lr of both networks (falls along a
    cosine, an epoch at a time, to 1e-3), momentum, weight_decay; clip (inf for none) and clip_scope "network" or
    "level"; centralise: gradients; warmup: steps over which the loss is faded in; epochs, of at most batches_per_epoch
    batches each; image_shape: (C, H, W) where X comes as rows of pixels. Images, in 0..1, are padded with black to
    extents that can be halved that often. Reproducible for a given random_state, backend and thread count.
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (16, 32, 64),
        task: str = "identity",
        sC: float = 1.0,
        sD: float = 1.0,
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        clip: float = 0.2,
        clip_scope: str = "network",
        centralise: bool = True,
        warmup: int = 100,
        epochs: int = 10,
        batch_size: int = 32,
        batches_per_epoch: int | None = 100,
        image_shape: tuple[int, int, int] | None = None,
        dtype: str = "float32",
        random_state: Any = None,
    ):
        self.channels = channels
        self.task = task
        self.sC = sC
        self.sD = sD
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.clip = clip
        self.clip_scope = clip_scope
        self.centralise = centralise
        self.warmup = warmup
        self.epochs = epochs
        self.batch_size = batch_size
        self.batches_per_epoch = batches_per_epoch
        self.image_shape = image_shape
        self.dtype = dtype
        self.random_state = random_state

    @classmethod
    def paper(cls, **changes: Any) -> CounterCurrentAutoencoder:
        """The paper's values, for colour images of 96 x 96; `changes` replace some."""
        values = {"channels": (128, 256, 1024, 2048), "epochs": 50, "batches_per_epoch": 101}
        return cls(**{**values, **changes})

    def _networks(self, rng, steps):
        if self.clip_scope not in ("network", "level"):
            raise self._bad("clip_scope", "one of 'network', 'level'")
        for name in ("sC", "sD"):
            if not getattr(self, name) >= 0:
                raise self._bad(name, "a number of at least 0")
        self._pair = autoencoder_pair(self._padded, tuple(self.channels))
        nets = {"forward": self._pair.forward_network, "feedback": self._pair.feedback_network}
        self._params = {name: initialise(net, rng, self.dtype) for name, net in nets.items()}
        self._grads = {name: params.zeros_like() for name, params in self._params.items()}
        rate = optim.PerEpoch(optim.Cosine(self.lr, self.epochs, min(self.lr, 1e-3)), steps)
        self._optimizer = optim.SGD(rate, momentum=self.momentum, weight_decay=self.weight_decay)
        self._optimizers = {name: self._optimizer.init(params) for name, params in self._params.items()}

    def _step(self, x: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """One step of both networks."""
        for grads in self._grads.values():
            grads.flat[...] = 0
        networks = self._params["forward"], self._params["feedback"], self._grads["forward"], self._grads["feedback"]
        losses = autoencoder_gradients(self._pair, *networks, x, target, self.sC, self.sD)
        for name, grads in self._grads.items():
            state = self._optimizers[name]
            if state.step < self.warmup:
                ops.scale_inplace(grads.flat, (state.step + 1) / self.warmup)
            if self.centralise:
                centralise(grads)
            if self.clip < math.inf:
                clip(grads, self.clip, self.clip_scope == "level")
            self._optimizer.step(self._params[name], grads, state)
        return {"loss": sum(losses), **{f"level{level}": loss for level, loss in enumerate(losses)}}

    def reconstruct(self, X: Any) -> np.ndarray:
        """What the forward network makes of images, in the shape of X. The feedback network is not needed."""
        self._check_fitted()
        return self._through(self._pair.forward_network, "forward", X)

    def look_back(self, target: Any) -> np.ndarray:
        """c_0: what the feedback network makes of target images, in their shape."""
        self._check_fitted()
        return self._through(self._pair.feedback_network, "feedback", target)
