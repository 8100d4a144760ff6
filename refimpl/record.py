"""Floor 4: what a method's module says about itself, in a form that the lab can run without knowing the method.

A method's module holds

    PAPER = Paper(...)                                    where it comes from
    DATA = ("karate", "cora")                             data sets it can use, the default first (none: any image set)
    def experiment(data, seed, settings) -> Experiment    what `refimpl run` trains: the method, its variants, baselines
    @claim(...) def ...(setting) -> dict                  sentences of the paper as measurements
    def race() -> list[Step]                              one training step for the benchmark, also in PyTorch
    def teach() -> list[Step]                             the same, small enough to read, for `refimpl trace`; optional
    def rules(common) -> list[Rule]                       its ways to train one common network, for `refimpl compare`;
                                                          optional
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from refimpl._names import expected
from refimpl.data import Data
from refimpl.estimator import Estimator

MOST = 2**62  # what a whole number of --set may be
HOLDS, FAILS, NOT_HERE, MEASURED = "holds", "does not hold", "not at this scale", "measured"


def given(slug: str, defaults: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What `settings` gives besides "quick", each of the kind of its default: a whole number, a finite number, a word,
    or a tuple of whole numbers. Raises ValueError for a name that `defaults` lacks and for another kind of value."""
    found = {}
    for name, value in settings.items():
        if name == "quick":
            continue
        if name not in defaults:
            raise ValueError(f"{slug}: no setting {name!r}, {expected(name, defaults)}")
        found[name] = _like(f"{slug}: {name}", value, defaults[name], 1 if name == "batch_size" else 0)
    return found


def _like(what: str, value: Any, default: Any, least: int = 0) -> Any:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if isinstance(default, bool):
        fits, kind = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        fits, kind = number and value == value // 1 and least <= value < MOST, f"a whole number of at least {least}"
        value = int(value) if fits else value
    elif isinstance(default, float):
        fits, kind = number and math.isfinite(value), "a number"
    elif isinstance(default, tuple):
        fits, kind = isinstance(value, tuple), f"whole numbers in brackets, as in {default}"
        value = tuple(_like(what, v, 1, 1) for v in value) if fits else value
    else:
        fits, kind = isinstance(value, type(default)), f"a word, as in {default}"
    if not fits:
        raise ValueError(f"{what} is {value!r}, expected {kind}")
    return value


@dataclass(frozen=True)
class Paper:
    """Bibliographic record of a method."""

    slug: str
    family: str
    title: str
    authors: tuple[str, ...]
    year: int
    arxiv: str
    idea: str  # one or two sentences in our own words


@dataclass(frozen=True)
class Contender:
    """One learner of an experiment, under the name that tables and figures show."""

    name: str
    learner: Estimator
    role: str = "method"  # or "baseline"

    def __post_init__(self):
        if self.role not in ("method", "baseline"):
            raise ValueError(f"Contender: role is {self.role!r}, expected 'method' or 'baseline'")


@dataclass(frozen=True)
class Score:
    """What `learner.score(*data.test)` is, for tables and figures: its name, and how to write it.

    A `fraction` is written as a percentage, any other score with so many `decimals` and its `unit`.
    """

    name: str = "test accuracy"
    fraction: bool = True
    unit: str = ""
    higher_is_better: bool = True
    decimals: int = 3

    def text(self, value: float) -> str:
        """The value with its unit: 94.2 %, 1.234 bits a byte."""
        return f"{100 * value:.1f} %" if self.fraction else f"{value:.{self.decimals}f} {self.unit}".rstrip()


@dataclass(frozen=True)
class Experiment:
    """What `refimpl run` does: train every contender on the same data, tabulate, draw.

    `draw(figure, results)` fills a matplotlib figure; results are dicts with name, role, learner (fitted),
    score, seconds, peak_bytes, history.
    """

    contenders: Sequence[Contender]
    data: Data
    draw: Callable[[Any, list[dict[str, Any]]], None] | None = None
    score: Score = field(default_factory=Score)


# What a learning rule's update of a layer's weights may be made from, beyond the layer's own input and output: the
# columns of a comparison.
SIGNALS = {
    "labels": "the labels of the batch",
    "own head": "an auxiliary network or classifier of the layer's own",
    "output error": "the error at the network's output, sent to every layer directly",
    "error from above": "a gradient or target that the layers above hand down, one after the other",
    "weights above": "weights of layers above (weight transport), or a slow copy of them",
    "fixed random": "fixed random weights or codes",
    "second network": "a second network that is trained along",
    "second pass": "a second forward pass, on data with wrong labels",
}


@dataclass(frozen=True)
class Common:
    """What every rule of a comparison gets: the same network, passes over the data, and size of batch."""

    hidden: tuple[int, ...] = (256, 256, 256)
    epochs: int = 10
    batch_size: int = 64


@dataclass(frozen=True)
class Rule:
    """One way to train the common network.

    `make(rate, seed)` is a learner with that learning rate; the rate is chosen among `rates` on data held out from the
    training set, so that each rule gets the same care. `signals` names, from SIGNALS, what an update of a hidden
    layer's weights depends on. `note` says what is not as in the common network.
    """

    name: str
    make: Callable[[float, int], Estimator]
    rates: tuple[float, ...]
    signals: tuple[str, ...]
    role: str = "method"  # or "baseline"
    note: str = ""

    def __post_init__(self):
        unknown = [s for s in self.signals if s not in SIGNALS]
        if unknown:
            raise ValueError(f"Rule: unknown signals {', '.join(unknown)}, expected some of {', '.join(SIGNALS)}")
        if not self.rates:
            raise ValueError(f"Rule: {self.name} has no learning rates to choose from")


@dataclass(frozen=True)
class Setting:
    """What a claim's measurement gets: one data set, one seed, and where to tell how far it is."""

    data: Any  # as the claim's `data` names it; None for a claim that needs none
    data_name: str
    seed: int
    quick: bool = False
    out: Path | None = None
    tell: Callable[[str], None] = field(default=lambda message: None)

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper turned into a measurement.

    `measure(setting)` returns numbers for one seed; `judge(list of them)` returns (holds, note) from all seeds. The
    threshold comes from the paper's card, before the run, and is text here because `judge` is where it is applied.
    Where the card names none, `judge` returns (None, note), and the verdict is "measured": no threshold is made up.
    `data` names the sets it runs on ("" for a claim that needs none); `quick_judged` False marks a claim whose quick
    mode is too small to decide (its verdict is then "not at this scale").
    """

    slug: str
    id: str
    sentence: str
    threshold: str
    data: tuple[str, ...]
    measure: Callable[[Setting], Mapping[str, Any]]
    judge: Callable[[list[Mapping[str, Any]]], tuple[bool | None, str]]
    draw: Callable[[Any, list[Mapping[str, Any]]], None] | None = None
    quick_judged: bool = False


_claims: dict[str, dict[str, Claim]] = {}


def claim(
    slug: str,
    id: str,
    sentence: str,
    threshold: str,
    judge: Callable[[list[Mapping[str, Any]]], tuple[bool | None, str]],
    data: tuple[str, ...] = ("",),
    draw: Callable[[Any, list[Mapping[str, Any]]], None] | None = None,
    quick_judged: bool = False,
) -> Callable[[Callable[[Setting], Mapping[str, Any]]], Claim]:
    """Decorator that registers a measurement as a claim of `slug`; ids are unique within a slug."""

    def register(measure: Callable[[Setting], Mapping[str, Any]]) -> Claim:
        entry = Claim(slug, id, sentence, threshold, data, measure, judge, draw, quick_judged)
        if id in _claims.setdefault(slug, {}):
            raise ValueError(f"claim {slug}/{id} is registered twice")
        _claims[slug][id] = entry
        return entry

    return register


def claims(slug: str) -> list[Claim]:
    """The registered claims of a method, in the order of its module (import the module first)."""
    return list(_claims.get(slug, {}).values())


@dataclass(frozen=True)
class Step:
    """One entry of the race: `make()` prepares data and parameters and returns a function that does one training step.

    `make_torch(torch)` does the same in PyTorch. `flops` is the number of floating-point operations of one step.
    """

    name: str
    shape: str
    dtype: str
    make: Callable[[], Callable[[], Any]]
    make_torch: Callable[[Any], Callable[[], Any]] | None = None
    flops: float | None = None
