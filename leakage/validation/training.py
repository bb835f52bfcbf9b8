"""Continued pre-training on a stream of short documents, with stops after whole exposures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from evalkit.tokens import Ids

_PAD_LABEL = -100
"""What transformers' loss leaves out."""

_WINDOW = 5
"""Batches whose documents are sorted by length among themselves."""


def optimizer(model: Any, rate: float) -> Any:
    """AdamW without weight decay over all weights."""
    import torch

    return torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)


def train(
    model: Any,
    optimizer: Any,
    documents: Sequence[Ids],
    generator: np.random.Generator,
    *,
    batch: int,
    autocast: bool,
) -> float:
    """One pass over `documents` in random order; every document is a row of its own.

    Args:
        model: a causal language model of transformers.
        optimizer: over the model's parameters.
        documents: token ids of each document.
        generator: shuffles them.
        batch: documents per step.
        autocast: multiply matrices in bfloat16; weights, their moments and the loss stay in float32.

    Returns:
        mean loss of the steps, in nats per token.
    """
    import torch

    from evalkit.backends.hf import memory

    memory.keep_freed_memory()
    model.train()
    losses = []
    for chosen in _batches([len(document) for document in documents], batch, generator):
        ids, mask = _padded([documents[i] for i in chosen], model.device)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
            labels = ids.masked_fill(~mask, _PAD_LABEL)
            loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    model.eval()
    return float(np.mean(losses))


def _batches(lengths: Sequence[int], size: int, generator: np.random.Generator) -> Iterator[list[int]]:
    """Random batches, of like lengths within every few that follow each other: less padding."""
    order = [int(i) for i in generator.permutation(len(lengths))]
    window = _WINDOW * size
    for begin in range(0, len(order), window):
        near = sorted(order[begin : begin + window], key=lambda i: lengths[i])
        batches = [near[k : k + size] for k in range(0, len(near), size)]
        yield from (batches[k] for k in generator.permutation(len(batches)))


def _padded(rows: Sequence[Ids], device: Any) -> tuple[Any, Any]:
    """Right-padded ids and what of them is text, both of shape (rows, longest)."""
    import torch

    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for k, row in enumerate(rows):
        ids[k, : len(row)] = torch.from_numpy(row.astype(np.int64))
        mask[k, : len(row)] = True
    return ids.to(device), mask.to(device)
