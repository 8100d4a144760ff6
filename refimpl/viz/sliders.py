"""Pictures to turn through with sliders, in a notebook and on the site.

    Sliders({"d": (1, 2, 3), "tau": (0.0, 0.5)}, lambda d, tau: f"<svg>...</svg>", start={"d": 2})

All pictures are in the page, one of them is shown; moving a slider shows another. Nothing is computed when that happens
and nothing is loaded, so it needs no kernel. Where scripts do not run, the first choice stays.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["Sliders"]

_MOVED = """
const box = this.closest('.sliders');
const at = [...box.querySelectorAll('input')].map(slider => {
  slider.nextElementSibling.value = slider.dataset.values.split('|')[slider.value];
  return slider.value;
}).join(',');
for (const picture of box.querySelectorAll('[data-at]')) picture.hidden = picture.dataset.at !== at;
"""


class Sliders:
    """knobs: names and the values that each can take; picture(**values): a piece of HTML; start: the values that are
    shown at first, by default the first of each. Raises ValueError for a knob without values or an unknown start."""

    def __init__(
        self,
        knobs: Mapping[str, Sequence[Any]],
        picture: Callable[..., str],
        start: Mapping[str, Any] | None = None,
    ):
        self.knobs = {name: list(values) for name, values in knobs.items()}
        for name, values in self.knobs.items():
            if not values:
                raise ValueError(f"Sliders: {name} has no values, expected at least one")
        self.start = {name: values[0] for name, values in self.knobs.items()} | dict(start or {})
        for name, value in self.start.items():
            if name not in self.knobs or value not in self.knobs[name]:
                raise ValueError(f"Sliders: start {name} = {value!r} is none of the knobs' values")
        every = itertools.product(*(range(len(values)) for values in self.knobs.values()))
        self.pictures = {
            at: picture(**{name: values[i] for (name, values), i in zip(self.knobs.items(), at)}) for at in every
        }

    def _repr_html_(self) -> str:
        first = tuple(values.index(self.start[name]) for name, values in self.knobs.items())
        parts = ['<div class="sliders">', "<p>"]
        for (name, values), i in zip(self.knobs.items(), first):
            told = escape("|".join(map(str, values)))
            parts.append(
                f'<label style="white-space: nowrap">{escape(name)} '
                f'<input type="range" min="0" max="{len(values) - 1}" value="{i}" '
                f'autocomplete="off" data-values="{told}" oninput="{escape(_MOVED)}"> '
                f"<output>{escape(str(values[i]))}</output></label> &emsp;"
            )
        parts.append("</p>")
        for at, html in self.pictures.items():
            hidden = "" if at == first else " hidden"
            parts.append(f'<div data-at="{",".join(map(str, at))}"{hidden}>{html}</div>')
        return "\n".join([*parts, "</div>"])
