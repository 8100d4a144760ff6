"""AugLocal as a classifier: local blocks whose objectives are thinned copies of the rest of the network."""

from __future__ import annotations

import contextvars
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from refimpl.backends import threads
from refimpl.baselines import LocalBlocksClassifier
from refimpl.data import batches
from refimpl.methods.local.auglocal.schedule import SELECTIONS, depths, selected
from refimpl.methods.local.auglocal.thinned import UNITS, auxiliary
from refimpl.models.column import Column
from refimpl.models.isolated import CrossEntropy, Target

__all__ = ["AugLocal"]


class AugLocal(LocalBlocksClassifier):
    """Classification by local learning with augmented auxiliary networks.

    d: blocks of the lowest auxiliary network (its classifier not counted); the last d + 1 layers of the network are
    one module, trained by back-propagation with the real classifier, all others are a module each. tau: how fast the
    auxiliary networks get shallower, from d blocks to (1 - tau) d + tau. selection: "uniform", "consecutive" or
    "repeated" (see schedule.selected); unit: "block" or "conv".

    workers: modules that run at the same time, each on an equal share of the threads: while one trains on a batch, the
    one below trains on the next. Each module meets the same batches in the same order and gets the same inputs as
    without (its input was made by weights of exactly as many steps), so the result is the same; a pass over the data
    takes one batch's time more for each module. Needs update "module".

    All other arguments as in LocalBlocksClassifier.
    """

    def __init__(
        self,
        d: int = 2,
        tau: float = 0.5,
        selection: str = "uniform",
        unit: str = "block",
        workers: int = 1,
        network: str = "resnet",
        widths: tuple[int, ...] = (16, 32, 64),
        blocks: int = 5,
        hidden: tuple[int, ...] = (256, 256, 256),
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        schedule: str = "cosine",
        warmup: int = 10,
        augment: tuple[str, ...] = (),
        update: str = "module",
        epochs: int = 10,
        batch_size: int = 128,
        image_shape: tuple[int, int, int] | None = None,
        dtype: str = "float32",
        random_state: Any = None,
    ):
        self.d = d
        self.tau = tau
        self.selection = selection
        self.unit = unit
        self.workers = workers
        self.network = network
        self.widths = widths
        self.blocks = blocks
        self.hidden = hidden
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.warmup = warmup
        self.augment = augment
        self.update = update
        self.epochs = epochs
        self.batch_size = batch_size
        self.image_shape = image_shape
        self.dtype = dtype
        self.random_state = random_state

    @classmethod
    def paper(cls, data: str = "cifar-10", **changes: Any) -> AugLocal:
        """The paper's values for ResNet-32 on "cifar-10" or "stl-10"; `changes` replace some (blocks=18, say). Raises
        ValueError for other data."""
        rates = {"cifar-10": (1024, 0.8), "stl-10": (128, 0.1)}
        if data not in rates:
            raise ValueError(f"AugLocal.paper: data is {data!r}, expected one of {', '.join(rates)}")
        batch_size, lr = rates[data]
        values: dict[str, Any] = {"d": 3, "batch_size": batch_size, "lr": lr, "epochs": 400, "schedule": "warm"}
        return cls(**{**values, "augment": ("reflect", "flip"), **changes})

    def _check_rule(self) -> None:
        for name in ("d", "workers"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
                raise self._bad(name, "a whole number of at least 1")
        if self.workers > 1 and self.update != "module":
            raise self._bad("update", "'module' where several workers run")
        if not 0 <= self.tau <= 1:
            raise self._bad("tau", "a number in [0, 1]")
        for name, allowed in (("selection", SELECTIONS), ("unit", UNITS)):
            if getattr(self, name) not in allowed:
                raise self._bad(name, f"one of {', '.join(map(repr, allowed))}")
        if self.unit == "conv" and self.network == "mlp":
            raise self._bad("unit", "'block' for network 'mlp'")

    def _cuts(self, column: Column) -> tuple[int, ...]:
        if self.d > column.n - 1:
            raise self._bad("d", f"at most {column.n - 1}: the network has {column.n} layers")
        return tuple(range(column.n - self.d - 1))

    def _objective(self, column: Column, cuts: tuple[int, ...], j: int) -> CrossEntropy:
        l = cuts[j]
        return CrossEntropy(auxiliary(column, l, self.picks(column, l), self.unit))

    # ------------------------------------------------------------ modules at the same time

    def _advance(self, unit):
        return super()._advance(unit) if self.workers == 1 else self._pipelined()

    def _pipelined(self) -> dict[str, float]:
        """One pass over the data, tick by tick: in tick t module j trains on batch t - j."""
        n, last = len(self._y), len(self._modules) - 1
        total = np.zeros(last + 1)
        order = batches(n, self.batch_size, self._rngs["order"])
        threads.use_limits()
        share = max(1, threads.get_num_threads() // self.workers)
        waiting: dict[int, Any] = {}  # by module: its input, the target, the batch's part of the data
        with ThreadPoolExecutor(self.workers) as pool:
            while True:
                rows = next(order, None)
                if rows is not None:
                    image, y = self._batch(rows)
                    waiting[0] = self._prepared(image), Target(y, image), len(rows) / n
                if not waiting:
                    return self._metrics(total)
                jobs = {
                    j: pool.submit(contextvars.copy_context().run, self._train_module, j, x, target, share)
                    for j, (x, target, _) in waiting.items()
                }
                above: dict[int, Any] = {}
                for j, job in jobs.items():
                    h, loss = job.result()
                    total[j] += loss * waiting[j][2]
                    if j < last:
                        above[j + 1] = h, *waiting[j][1:]
                waiting = above

    def _train_module(self, j: int, x: np.ndarray, target: Target, share: int) -> tuple[np.ndarray, float]:
        """One step of one module alone; its output and its loss."""
        threads.limit.set(share)
        module, params, grads = self._modules[j], self._all[j], self._grads[j]
        h, loss, saved = module.forward(params, x, target)
        module.backward(params, grads, saved)
        self._update(j)
        return h, loss

    def picks(self, column: Column, l: int) -> tuple[int, ...]:
        """The layers that the auxiliary network of layer l copies."""
        return selected(column.n, l, depths(column.n, self.d, self.tau)[l], self.selection)
