"""Floor 5: one paper, one module. Modules are imported when first asked for."""

from __future__ import annotations

import importlib
from types import ModuleType

from refimpl._names import expected
from refimpl.data import names

MODULES = {  # slug -> module
    "auglocal": "refimpl.methods.local.auglocal",
    "counter_current": "refimpl.methods.local.counter_current",
    "forward_gnn": "refimpl.methods.graph.forward_gnn",
    "momentum_auxiliary": "refimpl.methods.local.momentum_auxiliary",
    "noprop": "refimpl.methods.local.noprop",
    "physical_ff": "refimpl.methods.local.physical_ff",
    "sltt": "refimpl.methods.spiking.sltt",
    "streambp": "refimpl.methods.memory.streambp",
    "tpsgd": "refimpl.methods.local.tpsgd",
}


def slugs() -> list[str]:
    """Slugs of all methods, sorted."""
    return sorted(MODULES)


def data(slug: str) -> tuple[str, ...]:
    """Names of the data sets that the method can use, its default first. Raises ValueError for an unknown slug."""
    return getattr(module(slug), "DATA", None) or tuple(names("images"))


def module(slug: str) -> ModuleType:
    """The method's module. Raises ValueError for an unknown slug."""
    if slug not in MODULES:
        raise ValueError(f"no method named {slug!r}, {expected(slug, slugs())}")
    return importlib.import_module(MODULES[slug])
