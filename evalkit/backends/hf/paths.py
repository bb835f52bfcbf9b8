"""Three ways to obtain the hidden states a planned step asks for, from fastest to most general.

1. `tree`: packed families over one cached context through cascade attention.
2. `expanded`: the context's transformers cache, expanded over a right-padded batch of paths.
3. `plain`: right-padded batches of whole sequences, nothing shared between steps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from evalkit.backends.hf import attention
from evalkit.planner import Step
from evalkit.tokens import Ids


class Path(Protocol):
    """A way to run steps in planned order."""

    name: str
    independent: bool
    """Whether steps that keep nothing and share one context may run at the same time."""

    def run(self, step: Step, context: Ids) -> Tensor:
        """Hidden states [edges, width] at `step.edge_rows`; `context` holds the ids before the step."""
        ...

    def tokens(self, step: Step) -> int:
        """Tokens `run` puts through the model for this step."""
        ...


Body = Callable[..., Any]
"""The model without its head."""


def _body(model: Any) -> Body:
    base: Any = model.base_model
    # Some text models keep the prefix of the multi-modal model they belong to, which names nothing here.
    body: Body = model.model if base is model else base
    return body


class TreePath:
    """Everything shared is computed once."""

    name = "tree"
    independent = True

    def __init__(self, model: Any) -> None:
        """Switch the model to cascade attention."""
        attention.register()
        model.set_attn_implementation(attention.NAME)
        self.body = _body(model)
        self._device: torch.device = model.device
        self._dtype: torch.dtype = model.dtype
        self._cache = attention.KVCache()

    def run(self, step: Step, context: Ids) -> Tensor:
        """One forward over the packed row."""
        with attention.running(step, self._cache, self._device, self._dtype):
            out = self.body(
                input_ids=_tensor(step.tokens, self._device).unsqueeze(0),
                position_ids=_tensor(step.positions, self._device).unsqueeze(0),
                use_cache=False,
            )
        hidden: Tensor = out.last_hidden_state[0]
        return hidden[_tensor(step.edge_rows, self._device)]

    def tokens(self, step: Step) -> int:
        """Each row once."""
        return len(step.tokens)


class ExpandedPath:
    """The cached context is copied to every row of a padded batch."""

    name = "expanded"
    independent = False

    def __init__(self, model: Any, attn_implementation: str) -> None:
        """`attn_implementation` is the one the model was loaded with."""
        from transformers import DynamicCache

        model.set_attn_implementation(attn_implementation)
        self._body = _body(model)
        self._device: torch.device = model.device
        self._new_cache: Callable[[], Any] = lambda: DynamicCache(config=model.config)
        self._cache = self._new_cache()

    def run(self, step: Step, context: Ids) -> Tensor:
        """Extend the cache for a prefill, else one padded batch over copies of it."""
        try:
            return self._run(step, context)
        except RuntimeError:
            # A forward that broke off has extended the cache of some layers and not of others.
            self._cache = self._new_cache()
            raise

    def _run(self, step: Step, context: Ids) -> Tensor:
        self._crop(step.context_len)
        self._refill(context)
        if step.keep:
            return self._forward(self._cache, [np.arange(len(step.tokens), dtype=np.int32)], step)
        paths = leaf_paths(step)
        if step.context_len == 0:
            return self._forward(self._new_cache(), paths, step)
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(len(paths))
        return self._forward(cache, paths, step)

    def _crop(self, length: int) -> None:
        surplus = self._cache.get_seq_length() - length
        # A sliding window has thrown away what a shorter path would need again.
        if surplus > 0 and (length == 0 or any(self._cache.is_sliding)):
            self._cache = self._new_cache()
        elif surplus > 0:
            self._cache.crop(-surplus)

    def _refill(self, context: Ids) -> None:
        """Recompute what is not in the cache: another path computed it, or it was thrown away."""
        missing = context[self._cache.get_seq_length() :]
        if len(missing):
            ids = _tensor(missing, self._device).unsqueeze(0)
            self._body(input_ids=ids, past_key_values=self._cache, use_cache=True)

    def _forward(self, cache: Any, paths: Sequence[Ids], step: Step) -> Tensor:
        ids, real = _right_padded([step.tokens[p] for p in paths], self._device)
        context = torch.ones((len(paths), step.context_len), dtype=torch.long, device=self._device)
        positions = step.context_len + torch.arange(ids.shape[1], device=self._device)
        out = self._body(
            input_ids=ids,
            attention_mask=torch.cat([context, real], dim=1),
            position_ids=positions.expand(len(paths), -1),
            past_key_values=cache,
            use_cache=True,
        )
        batch, column = _edge_places(paths, step)
        hidden: Tensor = out.last_hidden_state
        return hidden[_tensor(batch, self._device), _tensor(column, self._device)]

    def tokens(self, step: Step) -> int:
        """Rows of the padded batch, padding included."""
        return len(step.tokens) if step.keep else _padded_size(step, 0)


class PlainPath:
    """Whole sequences, padded on the right; correct for any causal model."""

    name = "plain"
    independent = False

    def __init__(self, model: Any, attn_implementation: str) -> None:
        """`attn_implementation` is the one the model was loaded with."""
        model.set_attn_implementation(attn_implementation)
        self._body = _body(model)
        self._device: torch.device = model.device

    def run(self, step: Step, context: Ids) -> Tensor:
        """One padded batch of context + path rows; a prefill that scores nothing is of no use here."""
        if not len(step.edge_rows):
            return torch.empty(0, device=self._device)
        paths = [np.arange(len(step.tokens), dtype=np.int32)] if step.keep else leaf_paths(step)
        ids, real = _right_padded([np.concatenate([context, step.tokens[p]]) for p in paths], self._device)
        out = self._body(input_ids=ids, attention_mask=real, use_cache=False)
        batch, column = _edge_places(paths, step)
        hidden: Tensor = out.last_hidden_state
        return hidden[_tensor(batch, self._device), _tensor(column + len(context), self._device)]

    def tokens(self, step: Step) -> int:
        """Rows of the padded batch, context and padding included."""
        if not len(step.edge_rows):
            return 0
        return step.context_len + len(step.tokens) if step.keep else _padded_size(step, step.context_len)


def leaf_paths(step: Step) -> list[Ids]:
    """Rows of `step` along each root-to-leaf path of its families."""
    paths: list[Ids] = []
    for family in step.families:
        if family.parents is None:
            paths.append(np.arange(family.begin, family.end, dtype=np.int32))
            continue
        for leaf in sorted(set(range(len(family))) - set(family.parents.tolist())):
            rows, row = [], leaf
            while row >= 0:
                rows.append(row)
                row = int(family.parents[row])
            paths.append(np.asarray(rows[::-1], np.int32) + family.begin)
    return paths


def _padded_size(step: Step, context_len: int) -> int:
    paths = leaf_paths(step)
    return len(paths) * (context_len + max(map(len, paths)))


def _edge_places(paths: Sequence[Ids], step: Step) -> tuple[Ids, Ids]:
    """(path, column) of every edge's row; a row on several paths is read from the first."""
    place = {}
    for b, path in reversed(list(enumerate(paths))):
        place.update({int(row): (b, column) for column, row in enumerate(path)})
    found = np.asarray([place[int(row)] for row in step.edge_rows]).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _right_padded(rows: Sequence[Ids], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, both [rows, longest]."""
    width = max(map(len, rows))
    ids = np.zeros((len(rows), width), np.int64)
    real = np.zeros((len(rows), width), np.int64)
    for b, row in enumerate(rows):
        ids[b, : len(row)] = row
        real[b, : len(row)] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(real).to(device)


def _tensor(ids: Ids, device: torch.device) -> Tensor:
    return torch.from_numpy(np.asarray(ids, np.int64)).to(device)
