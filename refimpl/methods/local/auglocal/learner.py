"""AugLocal as a classifier: local blocks whose objectives are thinned copies of the rest of the network."""

from __future__ import annotations

from typing import Any

from refimpl.baselines import LocalBlocksClassifier
from refimpl.methods.local.auglocal.auxiliary import UNITS, auxiliary
from refimpl.methods.local.auglocal.schedule import SELECTIONS, depths, selected
from refimpl.models.column import Column
from refimpl.models.isolated import CrossEntropy

__all__ = ["AugLocal"]


class AugLocal(LocalBlocksClassifier):
    """Classification by local learning with augmented auxiliary networks.

    d: blocks of the lowest auxiliary network (its classifier not counted); the last d + 1 layers of the network are
    one module, trained by back-propagation with the real classifier, all others are a module each. tau: how fast the
    auxiliary networks get shallower, from d blocks to (1 - tau) d + tau. selection: "uniform", "consecutive" or
    "repeated" (see schedule.selected); unit: "block" or "conv".

    All other arguments as in LocalBlocksClassifier.
    """

    def __init__(
        self,
        d: int = 2,
        tau: float = 0.5,
        selection: str = "uniform",
        unit: str = "block",
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
        """The paper's values for ResNet-32 on "cifar-10" or "stl-10"; `changes` replace some (blocks=18, say)."""
        rates = {"cifar-10": (1024, 0.8), "stl-10": (128, 0.1)}
        if data not in rates:
            raise ValueError(f"AugLocal.paper: data is {data!r}, expected one of {', '.join(rates)}")
        batch_size, lr = rates[data]
        values: dict[str, Any] = {"d": 3, "batch_size": batch_size, "lr": lr, "epochs": 400, "schedule": "warm"}
        return cls(**{**values, "augment": ("reflect", "flip"), **changes})

    def _check_rule(self) -> None:
        if not isinstance(self.d, int) or isinstance(self.d, bool) or self.d < 1:
            raise self._bad("d", "a whole number of at least 1")
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

    def picks(self, column: Column, l: int) -> tuple[int, ...]:
        """The layers that the auxiliary network of layer l copies."""
        return selected(column.n, l, depths(column.n, self.d, self.tau)[l], self.selection)
