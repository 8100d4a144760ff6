"""Checkpoints: arrays and the JSON that belongs to them in one safetensors file, so that the two can never disagree.

A SHA-256 over names, dtypes, shapes, bytes and JSON is verified at loading. Before a new checkpoint takes its name, the
one before is kept as `<name>.previous.safetensors`; `load` falls back to it, and says so, when the newer file is
missing or damaged.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refimpl.lab.errors import RunError
from refimpl.lab.files import plain, write

__all__ = ["Loaded", "load", "previous", "save"]

FORMAT = "refimpl checkpoint 1"
_LENGTH = 8  # a safetensors file starts with the length of its header in so many bytes


class Loaded(NamedTuple):
    """A checkpoint's arrays and JSON; `warning` says which file had to be passed over, and why."""

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]
    warning: str | None = None


def previous(path: Path) -> Path:
    """Where the checkpoint before the newest one stands."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save(path: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Store a checkpoint in one step and keep the one before. Raises RunError when it cannot be written."""
    from safetensors.numpy import save as encode

    arrays = {name: np.ascontiguousarray(a).reshape(a.shape) for name, a in arrays.items()}
    text = json.dumps(plain(meta, finite=False))
    labels = {"format": FORMAT, "meta": text, "sha256": _digest(arrays, text)}
    write(path, encode(arrays, metadata=labels), keep=previous(path))


def load(path: Path) -> Loaded | None:
    """The newest good checkpoint; None where there is none at all. Raises RunError where all are damaged."""
    reasons = []
    for file in (path, previous(path)):
        if not file.exists():
            if file == path:
                reasons.append(f"{path} is missing (stopped while a new checkpoint was put in place)")
            continue
        try:
            arrays, meta = _read(file)
        except RunError as error:
            reasons.append(str(error))
            continue
        if file == path:
            return Loaded(arrays, meta)
        return Loaded(arrays, meta, f"{'; '.join(reasons)}. Going on from the checkpoint before it, {file.name}")
    if not path.exists() and not previous(path).exists():
        return None
    raise RunError("; ".join(reasons))


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load as decode

    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        arrays = decode(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: damaged, or not a safetensors file ({error})") from None
    length = int.from_bytes(content[:_LENGTH], "little")
    labels = json.loads(content[_LENGTH : _LENGTH + length]).get("__metadata__") or {}
    if labels.get("format") != FORMAT:
        found = repr(labels["format"]) if "format" in labels else "none"
        raise RunError(f"{path}: not a checkpoint of a run: its format label is {found}, expected {FORMAT!r}")
    text = labels.get("meta", "")
    if labels.get("sha256") != _digest(arrays, text):
        raise RunError(f"{path}: damaged: the content does not match its checksum")
    return arrays, json.loads(text)


def _digest(arrays: dict[str, np.ndarray], text: str) -> str:
    state = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        a = arrays[name]
        state.update(f"\n{name} {a.dtype.str} {a.shape}\n".encode())
        state.update(a.tobytes())
    return state.hexdigest()
