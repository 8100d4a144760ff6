"""`refimpl generate`: text from a model that a run has trained.

Any method can have one: its module offers `writer(arrays, meta)`, which makes a learner from what a checkpoint stores,
and the learner offers `generate(prompt, n, random_state, temperature, top_k)`, an iterator of bytes.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from refimpl import methods
from refimpl._names import expected
from refimpl.lab import checkpoint, files
from refimpl.lab.errors import RunError, UsageError
from refimpl.lab.machine import need

__all__ = ["learner", "text"]


def learner(folder: Path, name: str | None = None) -> Any:
    """The learner `name` of the run in `folder` (the first one where no name is given), as it was last stored.

    Raises RunError where the folder holds no such run, UsageError for a name that the run does not have or a method
    that writes no text.
    """
    need("safetensors")
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder, expected the folder of a run")
    stored = files.read_json(folder / "config.json", "the configuration of a run")
    slug = stored.get("slug", "") if isinstance(stored, dict) else ""
    try:
        module = methods.module(str(slug))
    except ValueError as error:
        raise RunError(f"{folder / 'config.json'}: {error}") from None
    if not hasattr(module, "writer"):
        raise UsageError(f"{folder} holds a run of {slug}, whose learners write no text")
    known = []
    for path in sorted((folder / "checkpoints").glob("*.safetensors")):
        if path.stem.endswith(".previous"):
            continue
        loaded = checkpoint.load(path)
        assert loaded is not None
        known.append(loaded.meta["name"])
        if name in (None, loaded.meta["name"]):
            try:
                return module.writer(loaded.arrays, loaded.meta["learner"])
            except (ValueError, KeyError, TypeError) as error:
                raise RunError(f"{path}: {error}") from None
    if not known:
        raise RunError(f"{folder}: no checkpoint is stored yet")
    raise UsageError(f"the run has no learner {name!r}, {expected(name, known)}")


def text(
    writer: Any, prompt: str, n: int, seed: int, temperature: float = 1.0, top_k: int | None = None
) -> Iterator[str]:
    """The text that continues the prompt, piece by piece; bytes that are no UTF-8 become the replacement sign."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    try:
        for piece in writer.generate(prompt, n, seed, temperature, top_k):
            yield decoder.decode(piece)
    except ValueError as error:
        raise UsageError(str(error)) from None
    yield decoder.decode(b"", True)
