"""From text to tokens and back: bytes, and byte-pair encoding that is trained here.

    tokenizer = BPE.train(text, 512)
    tokens = tokenizer.encode(b"Hail, noble Marcius!")       # (n,) int64
    tokenizer.decode(tokens) == b"Hail, noble Marcius!"      # for every text

Files are JSON, so that reading one runs no code.
"""

from __future__ import annotations

import heapq
import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from refimpl._disk import atomic

__all__ = ["BPE", "Bytes", "Tokenizer", "load", "tokenizer"]

# Words with the blank before them, numbers, signs, line ends: merges do not cross from one of these to the next.
_WORDS = re.compile(rb" ?[A-Za-z\x80-\xff']+| ?[0-9]+| ?[^\sA-Za-z0-9\x80-\xff]+|\s")
FORMAT = "refimpl tokenizer 1"


def _bytes(text: Any) -> bytes:
    """Text as bytes: str (UTF-8), bytes, or an array of uint8."""
    if isinstance(text, str):
        return text.encode()
    if isinstance(text, bytes | bytearray):
        return bytes(text)
    if isinstance(text, np.ndarray) and text.dtype == np.uint8 and text.ndim == 1:
        return text.tobytes()
    given = f"{text.dtype}{list(text.shape)}" if isinstance(text, np.ndarray) else type(text).__name__
    raise TypeError(f"tokenizer: text is {given}, expected str, bytes or a vector of uint8")


class Tokenizer:
    """What both share. `pieces[i]` are the bytes of token i."""

    pieces: list[bytes]

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.pieces)

    def encode(self, text: Any) -> np.ndarray:
        """Tokens (n,) int64 of a str, bytes or vector of uint8."""
        raise NotImplementedError

    def decode(self, tokens: Sequence[int] | np.ndarray) -> bytes:
        """The text as bytes. ValueError for a token that does not exist."""
        try:
            found = [self.pieces[t] for t in tokens if t >= 0]
        except IndexError:
            raise ValueError(f"decode: token {max(tokens)} does not exist, expected 0 to {self.size - 1}") from None
        if len(found) < len(tokens):
            raise ValueError(f"decode: token {min(tokens)} does not exist, expected 0 to {self.size - 1}")
        return b"".join(found)

    def lengths(self) -> np.ndarray:
        """Bytes of each token."""
        return np.array([len(piece) for piece in self.pieces])

    def to_json(self) -> dict[str, Any]:
        raise NotImplementedError

    def save(self, file: str | PathLike[str]) -> None:
        with atomic(file) as stream:
            stream.write(json.dumps(self.to_json()).encode())


class Bytes(Tokenizer):
    """One token a byte."""

    def __init__(self) -> None:
        self.pieces = [bytes([b]) for b in range(256)]

    def encode(self, text):
        return np.frombuffer(_bytes(text), np.uint8).astype(np.int64)

    def to_json(self):
        return {"format": FORMAT, "kind": "bytes"}


class BPE(Tokenizer):
    """Byte-pair encoding: tokens 0 to 255 are the bytes, and token 256 + i is the pair `merges[i]`.

    A text is cut into words; in each the pair of neighbours that was merged earliest in training is merged first, until
    no known pair is left. Sennrich, Haddow and Birch, 2016; over bytes as in Radford et al., 2019.
    """

    def __init__(self, merges: Sequence[tuple[int, int]]):
        self.merges = [(int(a), int(b)) for a, b in merges]
        self.pieces = [bytes([b]) for b in range(256)]
        for i, (a, b) in enumerate(self.merges):
            if not (0 <= a < 256 + i and 0 <= b < 256 + i):
                raise ValueError(f"BPE: merge {i} joins tokens {a} and {b}, expected 0 to {255 + i}")
            self.pieces.append(self.pieces[a] + self.pieces[b])
        self._ranks = {pair: 256 + i for i, pair in enumerate(self.merges)}
        if len(self._ranks) < len(self.merges):
            raise ValueError("BPE: a pair is merged twice")
        self._known: dict[bytes, list[int]] = {}

    @classmethod
    def train(cls, text: Any, size: int) -> BPE:
        """At most `size` tokens: the most frequent pair of neighbours becomes a token, again and again, as long as one
        occurs twice (ties: the smaller pair)."""
        if size < 256:
            raise ValueError(f"BPE.train: size is {size}, expected at least 256: every byte is a token")
        counts = Counter(_WORDS.findall(_bytes(text)))
        words = [list(word) for word in counts]
        often = list(counts.values())
        pairs: Counter[tuple[int, int]] = Counter()
        places: defaultdict[tuple[int, int], set[int]] = defaultdict(set)  # the words in which a pair occurs, or did
        for i, word in enumerate(words):
            for pair in pairwise(word):
                pairs[pair] += often[i]
                places[pair].add(i)
        heap = [(-n, pair) for pair, n in pairs.items()]
        heapq.heapify(heap)
        merges: list[tuple[int, int]] = []
        while heap and len(merges) < size - 256:
            n, pair = heapq.heappop(heap)
            if -n != pairs[pair]:  # the count has changed since
                continue
            if -n < 2:
                break
            changed = set()
            for i in places.pop(pair):
                old, new = words[i], _merge(words[i], pair, 256 + len(merges))
                for p in pairwise(old):
                    pairs[p] -= often[i]
                    changed.add(p)
                for p in pairwise(new):
                    pairs[p] += often[i]
                    places[p].add(i)
                    changed.add(p)
                words[i] = new
            merges.append(pair)
            for p in changed:
                if pairs[p] > 0:
                    heapq.heappush(heap, (-pairs[p], p))
        return cls(merges)

    def encode(self, text):
        found: list[int] = []
        for word in _WORDS.findall(_bytes(text)):
            known = self._known.get(word)
            if known is None:
                known = self._known[word] = self._word(word)
            found += known
        return np.array(found, np.int64)

    def _word(self, word: bytes) -> list[int]:
        tokens, never = list(word), 256 + len(self.merges)
        while len(tokens) > 1:
            first = min(pairwise(tokens), key=lambda pair: self._ranks.get(pair, never))
            if first not in self._ranks:
                break
            tokens = _merge(tokens, first, self._ranks[first])
        return tokens

    def to_json(self):
        return {"format": FORMAT, "kind": "bpe", "merges": [list(pair) for pair in self.merges]}


def _merge(tokens: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """The tokens with each occurrence of the pair, from the left, replaced by one token."""
    merged, i = [], 0
    while i < len(tokens):
        if i + 1 < len(tokens) and (tokens[i], tokens[i + 1]) == pair:
            merged.append(new)
            i += 2
        else:
            merged.append(tokens[i])
            i += 1
    return merged


def tokenizer(content: Any) -> Tokenizer:
    """A tokenizer from what `to_json` gave. ValueError for anything else."""
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("kind") not in ("bytes", "bpe"):
        raise ValueError(f"tokenizer: not a tokenizer of format {FORMAT!r}")
    if content["kind"] == "bytes":
        return Bytes()
    try:
        return BPE([(a, b) for a, b in content["merges"]])
    except (KeyError, TypeError) as error:
        raise ValueError(f"tokenizer: the merges are no list of pairs ({error!r})") from None


def load(file: str | PathLike[str]) -> Tokenizer:
    """Read a file that `save` wrote. ValueError, with its name, for any other."""
    try:
        return tokenizer(json.loads(Path(file).read_text(encoding="utf-8")))
    except ValueError as error:  # json.JSONDecodeError is one
        raise ValueError(f"{file}: {error}") from None
