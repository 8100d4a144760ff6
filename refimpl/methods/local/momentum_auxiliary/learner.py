"""MAN as a classifier: local modules with auxiliary blocks that follow the next module; fit, predict, score.

One step, for each module j from the bottom (refimpl/models/isolated.py has the loop):
    h_j = f_j(x);  u_j = A_j(h_j) + E_j(h_j);  L_j = loss(head_j(u_j), y)
    gradients of the head, of A_j (not of E_j) and of f_j;  their update
    e_j <- m e_j + (1 - m) theta^1_{j+1}                      module j+1 has not been updated yet
    x = h_j, a constant from here on
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from refimpl import ops
from refimpl.baselines.local_blocks import LocalBlocksClassifier
from refimpl.methods.local.momentum_auxiliary.blocks import PATHS, VARIANTS, Following, stretch, trained_names
from refimpl.methods.local.momentum_auxiliary.objectives import Momentum, checked_options, head_objective
from refimpl.models.column import Column
from refimpl.models.isolated import Objective

CUTS = {"layers": (0, 1), "blocks": (1, 1), "pairs": (1, 2)}  # first cut, and from one to the next


class MomentumAuxiliary(LocalBlocksClassifier):
    """Classification by local modules with momentum auxiliary networks (MAN).

    Auxiliary blocks: variant "released", "paper" or "scaled" (see blocks.py), or "none" for the base method; paths
    "both", or for ablations "average" (E alone) or "companion" (A alone); m: momentum of the average, 1 freezes it, 0
    copies; start "copy" (E begins as the layer that it follows) or "random" (as released: 3 / (1 - m) steps until that
    is forgotten). head "greedy", "dgl", "predsim" or "infopro" with its `options` (objectives.py).

    Network: network "resnet" (widths, blocks a stage) or "mlp" (hidden); image_shape: (C, H, W) where images come as
    rows of pixels; inputs are standardised. cuts: "layers" (a module for every layer, the stem too), "blocks" (for
    every residual block, the stem goes with the first: the paper's K = 16 for ResNet-32 and 55 for ResNet-110), "pairs"
    (every second block: K = 8), or the last layer of each module but the last.

    Training as in LocalBlocksClassifier: lr, momentum (Nesterov), weight_decay, schedule, warmup, augment, update,
    epochs, batch_size. E has no gradient, so neither momentum nor decay act on it. Reproducible for a given
    random_state, backend and thread count.
    """

    def __init__(
        self,
        variant: str = "released",
        paths: str = "both",
        m: float = 0.995,
        start: str = "copy",
        head: str = "greedy",
        options: Mapping[str, Any] | None = None,
        network: str = "resnet",
        widths: tuple[int, ...] = (16, 32, 64),
        blocks: int = 5,
        hidden: tuple[int, ...] = (256, 256, 256),
        cuts: str | tuple[int, ...] = "layers",
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
        self.variant = variant
        self.paths = paths
        self.m = m
        self.start = start
        self.head = head
        self.options = options
        self.network = network
        self.widths = widths
        self.blocks = blocks
        self.hidden = hidden
        self.cuts = cuts  # type: ignore[assignment]
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
    def paper(cls, network: str = "resnet-32", **changes: Any) -> MomentumAuxiliary:
        """The paper's values for CIFAR-10 and "resnet-32" or "resnet-110" in the finest cut; `changes` replace some.

        With the head of DGL, which it is unless changed, the stem is a module of its own; with others it goes with the
        first block. Raises ValueError for another network.
        """
        blocks = {"resnet-32": 5, "resnet-110": 18}
        if network not in blocks:
            raise ValueError(f"MomentumAuxiliary: network is {network!r}, expected one of {', '.join(blocks)}")
        cuts = "layers" if changes.get("head", "dgl") == "dgl" else "blocks"
        values: dict[str, Any] = {"blocks": blocks[network], "cuts": cuts, "head": "dgl", "start": "random"}
        values |= {"lr": 0.8, "batch_size": 1024, "epochs": 400, "schedule": "warm", "augment": ("reflect", "flip")}
        return cls(**{**values, **changes})

    # ------------------------------------------------------------ what the base class asks

    def _check_rule(self):
        for name, allowed in (
            ("variant", (*VARIANTS, "none")),
            ("paths", PATHS),
            ("start", ("copy", "random")),
        ):
            if getattr(self, name) not in allowed:
                raise self._bad(name, f"one of {', '.join(map(repr, allowed))}")
        if self.variant != "released" and self.paths != "both":
            raise self._bad("paths", f"'both' for variant {self.variant!r}")
        if not 0 <= self.m <= 1:
            raise self._bad("m", "0 <= m <= 1")
        if isinstance(self.cuts, str) and self.cuts not in CUTS:
            raise self._bad("cuts", f"one of {', '.join(map(repr, CUTS))} or layers")
        try:
            checked_options(self.head, self.options)
        except ValueError as error:
            raise ValueError(f"{type(self).__name__}: {error}") from None

    def _cuts(self, column):
        if isinstance(self.cuts, str):
            first, step = CUTS[self.cuts]
            return tuple(range(first, column.n - 1, step))
        return tuple(self.cuts)

    def _objective(self, column, cuts, j):
        behind = cuts[j] if self.variant == "none" else cuts[j] + 1
        shape = column.shapes[behind]
        inner = head_objective(self.head, column, shape, self._place(column, cuts, j), self.options)
        if self.variant == "none":
            return inner
        return Momentum(Following(column.layers[behind], shape[0], self.variant, self.paths), inner)

    def _place(self, column: Column, cuts: tuple[int, ...], j: int) -> float:
        """r of (8)."""
        if (self.options or {}).get("r") == "stage":
            stage = 1 + cuts[j] // self.blocks if column.kind == "resnet" else 1  # of layer cuts[j] + 1
            return stage / len(cuts)
        return j / (len(cuts) - 1) if len(cuts) > 1 else 0.0

    def _started(self):
        self._follow: list[tuple[np.ndarray, np.ndarray] | None] = []
        for j, cut in enumerate(self._cuts_):
            objective: Objective = self._modules[j].objective
            block = objective.following.follower if isinstance(objective, Momentum) else None
            if block is None:
                self._follow.append(None)
                continue
            names = trained_names(objective.following.first)
            average = stretch(self._all[j], f"objective.following.{block}", names)
            self._follow.append((average, stretch(self._all[j + 1], f"layer{cut + 1}", names)))
            if self.start == "copy":
                average[...] = self._follow[j][1]

    def _update(self, j):
        super()._update(j)
        if j < len(self._follow) and self._follow[j] is not None:
            average, followed = self._follow[j]
            ops.ema_update(average, followed, self.m)  # (1): the module above is updated after this one

    def _advance(self, unit):
        metrics = super()._advance(unit)
        return metrics | {f"distance{j}": d for j, d in enumerate(self.distances()) if not math.isnan(d)}

    # ------------------------------------------------------------ what can be looked at

    def distances(self) -> list[float]:
        """||e_j - theta^1_{j+1}|| / ||theta^1_{j+1}|| of each local module; nan where nothing follows."""
        self._check_fitted()
        return [
            math.nan if pair is None else float(np.linalg.norm(pair[0] - pair[1]) / np.linalg.norm(pair[1]))
            for pair in self._follow
        ]
