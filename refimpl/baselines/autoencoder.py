"""The convolutional autoencoder trained end to end: back-propagation of the pixels' mean squared error."""

from __future__ import annotations

from typing import Any

import numpy as np

from refimpl import ops, optim
from refimpl.models.autoencoder import ImageAutoencoder, autoencoder, network
from refimpl.nn import initialise


class AutoencoderBackprop(ImageAutoencoder):
    """Autoencoder by end-to-end back-propagation of the mean squared error.

    channels: of the encoder, layer by layer (the decoder mirrors them); task: see models.autoencoder.task_pair; lr
    (falls along a cosine, an epoch at a time, to 1e-3), momentum, weight_decay; clip: largest gradient norm; warmup:
    steps over which the loss is faded in; epochs, at most batches_per_epoch batches each; image_shape: (C, H, W) where
    X comes as rows of pixels. Images, in 0..1, are padded with black to extents that can be halved that often.
    Reproducible for a given random_state, backend and thread count.
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (16, 32, 64),
        task: str = "identity",
        lr: float = 0.03,
        momentum: float = 0.5,
        weight_decay: float = 1e-5,
        clip: float = 0.2,
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
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.clip = clip
        self.warmup = warmup
        self.epochs = epochs
        self.batch_size = batch_size
        self.batches_per_epoch = batches_per_epoch
        self.image_shape = image_shape
        self.dtype = dtype
        self.random_state = random_state

    def _networks(self, rng, steps):
        layers, _ = autoencoder(self._padded, tuple(self.channels))
        self._net = network(dict(enumerate(layers, 1)))
        self._params = {"forward": initialise(self._net, rng, self.dtype)}
        self._grads = self._params["forward"].zeros_like()
        rate = optim.PerEpoch(optim.Cosine(self.lr, self.epochs, min(self.lr, 1e-3)), steps)
        self._optimizer = optim.SGD(rate, momentum=self.momentum, weight_decay=self.weight_decay)
        self._optimizers = {"forward": self._optimizer.init(self._params["forward"])}

    def _step(self, x: np.ndarray, target: np.ndarray) -> dict[str, float]:
        params, grads, state = self._params["forward"], self._grads, self._optimizers["forward"]
        grads.flat[...] = 0
        out, saved = self._net.forward(params, x, train=True)
        self._net.backward(params, grads, saved, ops.mse_backward(out, target), need_dx=False)
        if state.step < self.warmup:
            ops.scale_inplace(grads.flat, (state.step + 1) / self.warmup)
        optim.clip_by_norm(grads, self.clip)
        self._optimizer.step(params, grads, state)
        return {"loss": float(ops.mse(out, target))}

    def reconstruct(self, X: Any) -> np.ndarray:
        """What the network makes of images, in the shape of X."""
        self._check_fitted()
        return self._through(self._net, "forward", X)
