"""From hidden states to log-probabilities, without ever holding [batch, length, vocabulary]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_LOGITS_AT_ONCE = 1 << 24
"""float32 logits held at a time (64 MiB)."""


class Head:
    """The output projection, applied only to rows whose next token is scored, in float32.

    Half-precision logits near 20 are 0.125 apart in bfloat16, enough to tie two options; the float32
    product of the same half-precision operands does not add that rounding.
    """

    def __init__(self, model: Any) -> None:
        """Read the projection and the logit transforms of the model's configuration."""
        projection = model.get_output_embeddings()
        self._weight: Tensor = projection.weight.detach().float()
        bias = getattr(projection, "bias", None)
        self._bias: Tensor | None = None if bias is None else bias.detach().float()
        config = model.config.get_text_config()
        self._divide = _setting(config, "logits_scaling")
        self._multiply = _setting(config, "logit_scale", "lm_head_multiplier")
        self._softcap = _setting(config, "final_logit_softcapping", "logits_soft_cap")

    def score(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability (float32) of each row's target, and whether it is the most likely token.

        Args:
            hidden: [rows, width].
            targets: [rows] token ids.
        """
        logprobs, greedy = self._read(target_scores, hidden, targets)
        return logprobs, greedy

    def statistics(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        """What `target_statistics` reads off the logits of these rows; arguments as in `score`."""
        return self._read(target_statistics, hidden, targets)

    def _read(
        self, read: Callable[[Tensor, Tensor], tuple[Tensor, ...]], hidden: Tensor, targets: Tensor
    ) -> tuple[Tensor, ...]:
        """Apply `read` to the logits and targets of as many rows at a time as may be held."""
        size = max(1, _LOGITS_AT_ONCE // self._weight.shape[0])
        rows = [slice(i, i + size) for i in range(0, len(hidden), size)]
        parts = [read(self.logits(hidden[r]), targets[r]) for r in rows]
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [rows, vocabulary] in float32."""
        return self._transform(torch.nn.functional.linear(hidden.float(), self._weight, self._bias))

    def _transform(self, logits: Tensor) -> Tensor:
        if self._divide:
            logits = logits / self._divide
        if self._multiply:
            logits = logits * self._multiply
        if self._softcap:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits


def target_scores(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each row's target, and whether it is the most likely token."""
    chosen = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    return chosen - logits.logsumexp(dim=1), chosen >= logits.amax(dim=1)


def target_statistics(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`target_scores`, then mean and variance of log p over the vocabulary under p (float32)."""
    logprobs, greedy = target_scores(logits, targets)
    every = logits.log_softmax(dim=1)
    p = every.exp()
    mean = (p * every).sum(dim=1)
    variance = (p * (every - mean.unsqueeze(1)).square()).sum(dim=1)
    return logprobs, greedy, mean, variance


def _setting(config: Any, *names: str) -> float | None:
    """The first of these settings that the configuration has: families name the same thing differently."""
    return next((value for name in names if (value := getattr(config, name, None)) is not None), None)
