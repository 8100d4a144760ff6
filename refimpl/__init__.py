"""refimpl: deep-learning papers you can read, step through, import and race.

Importing this package needs NumPy and cffi alone; methods, figures and data are loaded when they are first used:

    from refimpl import NoProp
    NoProp(variant="dt", random_state=0).fit(X, y).score(X_test, y_test)
"""

from __future__ import annotations

import importlib
from typing import Any

from refimpl import (
    _waiting,  # noqa: F401  (first: before NumPy is loaded)
    ops,
)
from refimpl._version import __version__
from refimpl.backends import (
    arena,
    available_backends,
    backend,
    get_backend,
    get_num_threads,
    set_backend,
    set_num_threads,
)

# Loaded on first use (PEP 562): name -> module
_LAZY = {
    "AutoencoderBackprop": "refimpl.baselines",
    "BPTTClassifier": "refimpl.baselines",
    "OTTTClassifier": "refimpl.baselines",
    "SLTT": "refimpl.methods.spiking.sltt",
    "BackpropClassifier": "refimpl.baselines",
    "BackpropGNN": "refimpl.baselines",
    "BackpropLinks": "refimpl.baselines",
    "BackpropRegressor": "refimpl.baselines",
    "ChainClassifier": "refimpl.baselines",
    "DifferenceTargetPropagationClassifier": "refimpl.baselines",
    "DirectFeedbackAlignmentClassifier": "refimpl.baselines",
    "FeedbackAlignmentClassifier": "refimpl.baselines",
    "ForwardForwardClassifier": "refimpl.baselines",
    "LocalBlocksClassifier": "refimpl.baselines",
    "RandomTargetProjectionClassifier": "refimpl.baselines",
    "ShallowClassifier": "refimpl.baselines",
    "PhysicalBackpropClassifier": "refimpl.baselines",
    "RidgeClassifier": "refimpl.baselines",
    "UnrolledFlowClassifier": "refimpl.baselines",
    "ForwardGNN": "refimpl.methods.graph.forward_gnn",
    "ForwardGNNLinks": "refimpl.methods.graph.forward_gnn",
    "LanguageModel": "refimpl.methods.memory.streambp",
    "AugLocal": "refimpl.methods.local.auglocal",
    "CounterCurrent": "refimpl.methods.local.counter_current",
    "CounterCurrentAutoencoder": "refimpl.methods.local.counter_current",
    "MomentumAuxiliary": "refimpl.methods.local.momentum_auxiliary",
    "NoProp": "refimpl.methods.local.noprop",
    "PhysicalForwardForward": "refimpl.methods.local.physical_ff",
    "RecurrentClassifier": "refimpl.baselines",
    "TPSGD": "refimpl.methods.local.tpsgd",
    "TPSGDRecurrent": "refimpl.methods.local.tpsgd",
    "trace": "refimpl.lab.trace",
}

__all__ = [
    "SLTT",
    "TPSGD",
    "AugLocal",
    "AutoencoderBackprop",
    "BPTTClassifier",
    "BackpropClassifier",
    "BackpropGNN",
    "BackpropLinks",
    "BackpropRegressor",
    "ChainClassifier",
    "CounterCurrent",
    "CounterCurrentAutoencoder",
    "DifferenceTargetPropagationClassifier",
    "DirectFeedbackAlignmentClassifier",
    "FeedbackAlignmentClassifier",
    "ForwardForwardClassifier",
    "ForwardGNN",
    "ForwardGNNLinks",
    "LanguageModel",
    "LocalBlocksClassifier",
    "MomentumAuxiliary",
    "NoProp",
    "OTTTClassifier",
    "PhysicalBackpropClassifier",
    "PhysicalForwardForward",
    "RandomTargetProjectionClassifier",
    "RecurrentClassifier",
    "RidgeClassifier",
    "ShallowClassifier",
    "TPSGDRecurrent",
    "UnrolledFlowClassifier",
    "__version__",
    "arena",
    "available_backends",
    "backend",
    "get_backend",
    "get_num_threads",
    "ops",
    "set_backend",
    "set_num_threads",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'refimpl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
