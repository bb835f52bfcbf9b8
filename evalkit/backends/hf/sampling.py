"""Choosing the next token of one sequence from its logits."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from evalkit.types import Sampling


class Sampler:
    """Draws tokens with a generator of its own, so that no other sequence changes what it draws."""

    def __init__(self, sampling: Sampling, prompt: Tensor, seed: int) -> None:
        """`prompt` holds the ids [tokens] that the repetition penalty also counts."""
        self._steps = _processors(sampling)
        self._seen = prompt
        self._generator = torch.Generator().manual_seed(seed & (2**63 - 1))

    def draw(self, logits: Tensor) -> int:
        """Next token, from logits [vocabulary]."""
        scores: Tensor = self._steps(self._seen.unsqueeze(0), logits.unsqueeze(0))
        weights = scores.softmax(dim=1).cpu()
        token = torch.multinomial(weights, 1, generator=self._generator)[0]
        self._seen = torch.cat([self._seen, token.to(self._seen.device)])
        return int(token)


def _processors(sampling: Sampling) -> LogitsProcessorList:
    """The processors in the order transformers' own `generate` applies them."""
    steps = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature != 1:
        steps.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        steps.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        steps.append(TopPLogitsWarper(sampling.top_p))
    return steps
