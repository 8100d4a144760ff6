"""A language model that learns a text, by any of the strategies."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from refimpl import ops
from refimpl.estimator import Estimator, generator
from refimpl.methods.memory.streambp.objectives import SFT
from refimpl.methods.memory.streambp.strategies import Strategy, strategy
from refimpl.models.gpt import GPT, generate
from refimpl.models.tokenizer import BPE, Bytes, Tokenizer, tokenizer
from refimpl.nn import Params, initialise
from refimpl.optim import AdamW, Cosine, Warmup, clip_by_norm

__all__ = ["LanguageModel"]

STEPS = 10  # of training in a unit


class LanguageModel(Estimator):
    """A decoder-only transformer trained to predict a text.

    `tokenizer` is "bytes", or "bpe" with up to `vocabulary` tokens, trained on the text. Each of `steps` steps takes
    `batch_size` stretches of `T` tokens drawn at random, and AdamW with a warm-up of a tenth of the steps, then a
    cosine down to a tenth of `lr`; gradients are clipped at norm `clip`. `strategy` is "stream", "plain", "checkpoint"
    or "mini-sequence": the gradient is the same, time and memory are not; `chunk` and `head_chunk` are the positions
    that are worked on at a time. The other settings are those of refimpl.models.GPT.

    `fit` takes a text: a vector of uint8, bytes or str. `score` is the cost of a text in bits a byte (lower is better).
    """

    def __init__(
        self,
        strategy: str = "stream",
        chunk: int = 128,
        head_chunk: int = 100,
        tokenizer: str = "bytes",
        vocabulary: int = 512,
        layers: int = 4,
        d: int = 64,
        heads: int = 4,
        kv_heads: int = 2,
        hidden: int | None = 172,
        positions: str = "rotary",
        norm: str = "rms",
        mlp: str = "swiglu",
        dropout: float = 0.0,
        T: int = 256,
        batch_size: int = 8,
        steps: int = 200,
        lr: float = 3e-3,
        weight_decay: float = 0.01,
        clip: float = 1.0,
        random_state: Any = None,
    ):
        self.strategy = strategy
        self.chunk = chunk
        self.head_chunk = head_chunk
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.layers = layers
        self.d = d
        self.heads = heads
        self.kv_heads = kv_heads
        self.hidden = hidden
        self.positions = positions
        self.norm = norm
        self.mlp = mlp
        self.dropout = dropout
        self.T = T
        self.batch_size = batch_size
        self.steps = steps
        self.lr = lr
        self.weight_decay = weight_decay
        self.clip = clip
        self.random_state = random_state

    # ------------------------------------------------------------ training

    def begin(self, X: Any, y: Any = None) -> None:
        """As every learner's; a text has no labels."""
        super().begin(X, y)

    def fit(self, X: Any, y: Any = None):
        """Train on a text. Raises ValueError or TypeError for unusable data."""
        return super().fit(X, y)

    def _begin(self, X: Any, y: Any = None) -> None:
        for name in ("T", "batch_size", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"LanguageModel: {name} is {getattr(self, name)}, expected at least 1")
        if not self.lr > 0 or not self.clip > 0:
            raise ValueError(f"LanguageModel: lr is {self.lr} and clip {self.clip}, expected positive numbers")
        self._how: Strategy = strategy(self.strategy, self.chunk, self.head_chunk)
        if self.tokenizer not in ("bytes", "bpe"):
            raise ValueError(f"LanguageModel: tokenizer is {self.tokenizer!r}, expected 'bytes' or 'bpe'")
        self.tokenizer_: Tokenizer = Bytes() if self.tokenizer == "bytes" else BPE.train(X, self.vocabulary)
        self._X = self.tokenizer_.encode(X)
        if len(self._X) <= self.T:
            raise ValueError(f"LanguageModel: the text has {len(self._X)} tokens, expected more than T = {self.T}")
        self.model_ = GPT(
            self.tokenizer_.size,
            self.layers,
            self.d,
            self.heads,
            self.kv_heads,
            self.hidden,
            self.T,
            self.positions,
            self.norm,
            self.mlp,
            dropout=self.dropout,
        )
        rng = generator(self.random_state)
        first, batches, masks = rng.spawn(3)
        self._params = {"model": initialise(self.model_, first)}
        warmup = max(1, self.steps // 10)
        schedule = Warmup(Cosine(self.lr, max(1, self.steps - warmup), self.lr / 10), warmup)
        self._optimizer = AdamW(schedule, weight_decay=self.weight_decay)
        self._optimizers = {"model": self._optimizer.init(self._params["model"])}
        self._rngs = {"batches": batches, "masks": masks}
        self._grads = self._params["model"].zeros_like()
        self.total_ = math.ceil(self.steps / STEPS)

    def batch(self) -> tuple[np.ndarray, SFT]:
        """Stretches drawn at random, and each token's successor as its target."""
        starts = self._rngs["batches"].integers(0, len(self._X) - self.T, self.batch_size)
        rows = self._X[starts[:, None] + np.arange(self.T + 1)]
        target = np.ascontiguousarray(rows[:, 1:])
        return np.ascontiguousarray(rows[:, :-1]), SFT(target, np.ones(target.shape, np.float32))

    def _advance(self, unit: int) -> dict[str, float]:
        params, grads, losses = self._params["model"], self._grads, []
        for _ in range(unit * STEPS, min(self.steps, (unit + 1) * STEPS)):
            tokens, objective = self.batch()
            masks = self.model_.masks(self.T, self._rngs["masks"])
            grads.flat[...] = 0
            losses.append(self._how.gradient(self.model_, params, grads, tokens, objective, masks=masks))
            clip_by_norm(grads, self.clip)
            self._optimizer.step(params, grads, self._optimizers["model"])
        if not np.isfinite(losses).all():
            raise ValueError(f"LanguageModel: the loss is {losses[-1]} after {(unit + 1) * STEPS} steps; lower lr")
        return {"loss": float(np.mean(losses))}

    # ------------------------------------------------------------ using

    def score(self, X: Any, y: Any = None) -> float:
        """Bits a byte that the text costs, predicted in stretches of at most T tokens, each from its own beginning."""
        self._check_fitted()
        tokens = self.tokenizer_.encode(X)
        if len(tokens) < 2:
            raise ValueError(f"LanguageModel: the text has {len(tokens)} tokens, expected at least 2")
        model, params, bits = self.model_, self._params["model"], 0.0
        lengths, n_bytes = self.tokenizer_.lengths(), 0
        for start in range(0, len(tokens) - 1, self.T):
            rows = tokens[start : start + self.T + 1]
            h, _ = model.trunk(params, np.ascontiguousarray(rows[None, :-1]))
            lp, _ = ops.log_prob(model.logits(params, h[0]), rows[1:])
            bits -= float(lp.sum(dtype=np.float64)) / math.log(2)
            n_bytes += int(lengths[rows[1:]].sum())
        return bits / n_bytes

    def generate(
        self, prompt: Any, n: int, random_state: Any = None, temperature: float = 1.0, top_k: int | None = None
    ) -> Iterator[bytes]:
        """Yields the pieces of n tokens that continue `prompt` (str or bytes, not empty)."""
        self._check_fitted()
        tokens = self.tokenizer_.encode(prompt)
        if not len(tokens):
            raise ValueError("LanguageModel: the prompt is empty, expected at least one character")
        rng = generator(random_state)
        for token in generate(self.model_, self._params["model"], tokens[None], n, rng, temperature, top_k):
            yield self.tokenizer_.pieces[int(token[0])]

    # ------------------------------------------------------------ storing

    def checkpoint(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """As every learner's; the JSON also says what the model and its tokens are."""
        arrays, meta = super().checkpoint()
        settings = {name: value for name, value in self.get_params().items() if name != "random_state"}
        return arrays, {**meta, "settings": settings, "tokens": self.tokenizer_.to_json()}

    @classmethod
    def from_checkpoint(cls, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> LanguageModel:
        """A model that can score and generate, without the text that it was trained on. ValueError where the checkpoint
        is not one of a language model."""
        if meta.get("learner") != cls.__name__ or "settings" not in meta:
            raise ValueError(f"{cls.__name__}: the checkpoint is one of {meta.get('learner')!r}")
        new = cls(**meta["settings"])
        new.tokenizer_ = tokenizer(meta["tokens"])
        shape = (new.layers, new.d, new.heads, new.kv_heads, new.hidden, new.T, new.positions, new.norm, new.mlp)
        new.model_ = GPT(new.tokenizer_.size, *shape, dropout=new.dropout)
        params: Params = initialise(new.model_, np.random.default_rng(0))
        params.load({n.removeprefix("params/model/"): a for n, a in arrays.items() if n.startswith("params/model/")})
        new._params = {"model": params}
        new.progress_, new.total_, new.history_ = meta["progress"], meta["total"], meta["history"]
        return new
