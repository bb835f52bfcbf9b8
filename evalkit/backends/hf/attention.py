"""Attention of packed rows, for every model that computes it through `transformers.AttentionInterface`.

*Cascade attention*: a packed row of families attends to one cached context and to itself. Every packed
token sees the whole cached context, so that part is one unmasked attention; the family's own part is a
small causal one, in which a branching family attends path by path. The two are merged by their
log-sum-exps (shared-prefix attention, Hydragen, arXiv 2402.05099).

*Decoding*: every packed row is the newest token of a sequence of its own, which it attends to.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from evalkit.planner import Family, Step

NAME = "evalkit_tree"


class UnsupportedAttention(Exception):
    """The model asks its attention for something cascade attention does not compute."""


class KVCache:
    """Keys and values of one token path for every layer, extended in place and cut back freely."""

    def __init__(self) -> None:
        """Hold nothing; memory grows with the longest path stored."""
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def layers(self) -> list[int]:
        """Layers that have stored something."""
        return list(self._layers)

    def read(self, layer: int, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first `length` tokens, each [1, kv heads, length, head dim]."""
        keys, values = self._layers[layer]
        return keys[:, :, :length], values[:, :, :length]

    def write(self, layer: int, begin: int, keys: Tensor, values: Tensor) -> None:
        """Store tokens from position `begin` on; what was stored before it stays."""
        end = begin + keys.shape[2]
        old_keys, old_values = self._layers.get(layer, (None, None))
        if old_keys is None or old_keys.shape[2] < end:
            self._layers[layer] = _grown(old_keys, keys, begin, end), _grown(old_values, values, begin, end)
        stored_keys, stored_values = self._layers[layer]
        stored_keys[:, :, begin:end] = keys
        stored_values[:, :, begin:end] = values


def _grown(old: Tensor | None, new: Tensor, kept: int, needed: int) -> Tensor:
    """Room for `needed` tokens or half as many again, with the first `kept` copied over."""
    room = new.new_empty((*new.shape[:2], needed + needed // 2, new.shape[3]))
    if old is not None:
        room[:, :, :kept] = old[:, :, :kept]
    return room


class SlotCache:
    """Keys and values of several growing sequences, one slot each, for every layer."""

    def __init__(self, slots: int, capacity: int) -> None:
        """Room for `slots` sequences of `capacity` tokens; taken when the first keys arrive."""
        self.slots = slots
        self.capacity = capacity
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def write(self, layer: int, slots: Tensor, positions: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store keys and values [1, kv heads, tokens, head dim], token t at (slots[t], positions[t])."""
        for stored, new in zip(self._layer(layer, keys, values), (keys, values), strict=True):
            stored[slots, :, positions] = new[0].transpose(0, 1)

    def fill(self, slots: Sequence[int], context: KVCache, length: int) -> None:
        """Copy the first `length` tokens of a cached context into each slot."""
        for layer in context.layers:
            keys, values = context.read(layer, length)
            for stored, new in zip(self._layer(layer, keys, values), (keys, values), strict=True):
                for slot in slots:
                    stored[slot, :, :length] = new[0]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one slot over another."""
        for pair in self._layers.values():
            for stored in pair:
                stored[target, :, :length] = stored[source, :, :length]

    def read(self, layer: int, slots: int, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first slots, each [slots, kv heads, length, head dim]."""
        keys, values = self._layers[layer]
        return keys[:slots, :, :length], values[:slots, :, :length]

    def _layer(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if layer not in self._layers:
            # Zeros, since what is masked out is still multiplied, and NaN times zero is NaN.
            self._layers[layer] = (
                keys.new_zeros((self.slots, keys.shape[1], self.capacity, keys.shape[3])),
                values.new_zeros((self.slots, values.shape[1], self.capacity, values.shape[3])),
            )
        return self._layers[layer]


@dataclass(frozen=True, slots=True)
class _Run:
    """Packed rows [begin, end), each the child of the one before it, and what is above the first."""

    begin: int
    end: int
    above: npt.NDArray[np.int64]
    """Packed rows of the ancestors in the family, from its top down."""

    def __len__(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Runs of similar length, laid out as a right-padded batch."""

    gather: Tensor
    """[runs × length] packed row of each padded place (0 where there is none)."""
    runs: int
    seen: Tensor | None = None
    """[runs × keys] packed rows that the runs attend to, ancestors first; None: each to itself alone."""
    mask: Tensor | None = None
    """Additive [runs, 1, length, keys], where `seen` is given; without it runs are plain causal paths."""


Store = Callable[[int, Tensor, Tensor], None]
"""Takes the keys and values of (layer, …) as they are computed, each [1, kv heads, tokens, head dim]."""


@dataclass(frozen=True, slots=True)
class ForwardPlan:
    """What the attention function needs to know of the step that is running."""

    cache: KVCache
    context_len: int
    store: Store | None
    buckets: tuple[_Bucket, ...]
    places: Tensor
    """[tokens] each packed row's place in the concatenated, flattened buckets."""
    max_position: int


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """One new token for each of the first slots."""

    cache: SlotCache
    slots: Tensor
    """[rows] slot of every row: 0, 1, …"""
    positions: Tensor
    """[rows] position of the new token in its sequence."""
    mask: Tensor
    """Additive [rows, 1, 1, longest], over the tokens each row has."""
    max_position: int


_active: ContextVar[ForwardPlan | DecodePlan | None] = ContextVar("evalkit_forward_plan", default=None)
"""A context variable, since steps may run in several threads at once."""


@contextmanager
def running(
    step: Step, cache: KVCache, device: torch.device, dtype: torch.dtype, store: Store | None = None
) -> Iterator[None]:
    """Make `step` the one that attention calls belong to.

    Keys and values go to `store`; without one, those of a prefill step extend `cache`.
    """
    if store is None and step.keep:
        store = functools.partial(_append, cache, step.context_len)
    runs = [run for family in step.families for run in _runs(family)]
    groups = [*_similar([r for r in runs if not len(r.above)]), *_similar([r for r in runs if len(r.above)])]
    plan = ForwardPlan(
        cache,
        step.context_len,
        store,
        tuple(_bucket(group, device, dtype) for group in groups),
        _places(groups).to(device),
        int(step.positions.max()),
    )
    with _activated(plan):
        yield


@contextmanager
def decoding(
    cache: SlotCache, positions: Sequence[int], device: torch.device, dtype: torch.dtype
) -> Iterator[None]:
    """Make attention calls belong to one new token, at `positions[i]`, of each slot i."""
    at = torch.tensor(positions, device=device)
    longest = max(positions) + 1
    unseen = torch.arange(longest, device=device) > at.unsqueeze(1)
    mask = torch.zeros(unseen.shape, dtype=dtype, device=device).masked_fill_(unseen, -math.inf)
    slots = torch.arange(len(positions), device=device)
    with _activated(DecodePlan(cache, slots, at, mask[:, None, None], longest - 1)):
        yield


@contextmanager
def _activated(plan: ForwardPlan | DecodePlan) -> Iterator[None]:
    token = _active.set(plan)
    try:
        yield
    finally:
        _active.reset(token)


def _append(cache: KVCache, begin: int, layer: int, keys: Tensor, values: Tensor) -> None:
    cache.write(layer, begin, keys, values)


def register() -> None:
    """Make the attention known to transformers; it builds its own masks, so transformers must not."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, cascade_attention)
    AttentionMaskInterface.register(NAME, _no_mask)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


def cascade_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of the running step; query [1, heads, tokens, dim] to output [1, tokens, heads, dim]."""
    plan = _active.get()
    if plan is None:
        raise UnsupportedAttention("called outside a planned step")
    _refuse_extras(plan, kwargs)
    scale = scaling if scaling is not None else 1 / math.sqrt(query.shape[-1])
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    if isinstance(plan, DecodePlan):
        return _decode(plan, layer, query, key, value, scale), None
    out, lse = _own_part(plan, query, key, value, scale)
    if plan.context_len:
        context, context_lse = attention_with_lse(query, *plan.cache.read(layer, plan.context_len), scale)
        weight = torch.sigmoid(context_lse[0].T - lse).unsqueeze(-1)
        out = torch.lerp(out.float(), context[0].transpose(0, 1).float(), weight).to(query.dtype)
    if plan.store is not None:
        plan.store(layer, key, value)
    return out.unsqueeze(0), None


def _decode(plan: DecodePlan, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Every row to its own sequence: output [1, rows, heads, dim]."""
    plan.cache.write(layer, plan.slots, plan.positions, key, value)
    rows, heads = query.shape[2], query.shape[1]
    keys, values = plan.cache.read(layer, rows, plan.mask.shape[-1])
    # Query heads that share keys are rows of one product, so that the cache is read once.
    grouped = query[0].transpose(0, 1).reshape(rows, keys.shape[1], heads // keys.shape[1], -1)
    out = nn.functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=plan.mask, scale=scale)
    return out.reshape(1, rows, heads, -1)


def _refuse_extras(plan: ForwardPlan | DecodePlan, kwargs: dict[str, Any]) -> None:
    """Anything that changes attention beyond a plain causal softmax must go another way."""
    window = kwargs.get("sliding_window")
    if window is not None and window <= plan.max_position:
        raise UnsupportedAttention(f"a sliding window of {window} tokens")
    for extra in ("softcap", "s_aux", "position_bias", "head_mask"):
        if kwargs.get(extra) is not None:
            raise UnsupportedAttention(extra)


def _own_part(
    plan: ForwardPlan, query: Tensor, key: Tensor, value: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Every token to its ancestors in its own family: output [tokens, heads, dim] and log-sum-exp."""
    outs, lses = [], []
    for bucket in plan.buckets:
        q = _padded(query, bucket.gather, bucket.runs)
        seen = bucket.gather if bucket.seen is None else bucket.seen
        k, v = (_padded(x, seen, bucket.runs) for x in (key, value))
        out, lse = attention_with_lse(q, k, v, scale, causal=bucket.mask is None, mask=bucket.mask)
        outs.append(out.transpose(1, 2).flatten(0, 1))
        lses.append(lse.transpose(1, 2).flatten(0, 1))
    return torch.cat(outs).index_select(0, plan.places), torch.cat(lses).index_select(0, plan.places)


def _padded(x: Tensor, gather: Tensor, runs: int) -> Tensor:
    """[1, heads, tokens, dim] to [runs, heads, length, dim], moving whole rows of all heads."""
    rows = x[0].transpose(0, 1).index_select(0, gather)
    return rows.view(runs, -1, *rows.shape[1:]).transpose(1, 2)


def attention_with_lse(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Softmax attention and its log-sum-exp [batch, heads, queries] in float32.

    `mask` is additive; keys and values may have fewer heads (grouped queries). Fused kernels are used
    where torch has one that returns the log-sum-exp.
    """
    if query.device.type == "cpu" and query.shape[-1] == value.shape[-1]:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=mask, scale=scale
        )
        return out, lse.float()
    key, value = (_all_heads(x, query.shape[1]) for x in (key, value))
    if query.device.type == "cuda" and mask is None and query.shape[-1] == value.shape[-1]:
        out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, 0.0, causal, scale=scale
        )
        # The kernel pads the log-sum-exp to a multiple of its tile.
        return out, lse[..., : query.shape[2]].float()
    return plain_attention_with_lse(query, key, value, scale, causal=causal, mask=mask)


def plain_attention_with_lse(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same by matrix products: the oracle of the fused kernels and their stand-in elsewhere."""
    key, value = (_all_heads(x, query.shape[1]) for x in (key, value))
    scores = (query @ key.transpose(-1, -2)).float() * scale
    if causal:
        n, m = scores.shape[-2:]
        scores = scores.masked_fill(
            ~torch.ones(n, m, dtype=torch.bool, device=scores.device).tril(), -math.inf
        )
    if mask is not None:
        scores = scores + mask
    lse = torch.logsumexp(scores, dim=-1)
    return (scores - lse.unsqueeze(-1)).exp().to(value.dtype) @ value, lse


def _all_heads(x: Tensor, heads: int) -> Tensor:
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def _runs(family: Family) -> list[_Run]:
    """Cut a family where it branches: what a run attends to is one path, however bushy the tree."""
    if family.parents is None:
        return [_Run(family.begin, family.end, np.zeros(0, np.int64))]
    parents = family.parents
    starts = np.flatnonzero(parents != np.arange(-1, len(parents) - 1)).tolist()
    starts = sorted({0, *starts})
    runs: list[_Run] = []
    for start, end in zip(starts, [*starts[1:], len(parents)], strict=True):
        parent = int(parents[start])
        above = np.zeros(0, np.int64)
        if parent >= 0:
            upper = runs[bisect.bisect_right(starts, parent) - 1]
            above = np.concatenate([upper.above, np.arange(upper.begin, family.begin + parent + 1)])
        runs.append(_Run(family.begin + start, family.begin + end, above))
    return runs


def _similar(runs: Sequence[_Run]) -> list[list[_Run]]:
    """Group runs so that they pad to less than twice their size."""
    buckets: list[list[_Run]] = []
    for run in sorted(runs, key=len, reverse=True):
        if buckets and 2 * len(run) > len(buckets[-1][0]):
            buckets[-1].append(run)
        else:
            buckets.append([run])
    return buckets


def _bucket(runs: list[_Run], device: torch.device, dtype: torch.dtype) -> _Bucket:
    length = len(runs[0])
    gather = np.zeros((len(runs), length), np.int64)
    for row, run in zip(gather, runs, strict=True):
        row[: len(run)] = np.arange(run.begin, run.end)
    places = torch.from_numpy(gather).flatten().to(device)
    if not any(len(run.above) for run in runs):
        return _Bucket(places, len(runs))
    n_keys = max(len(run.above) + len(run) for run in runs)
    seen = np.zeros((len(runs), n_keys), np.int64)
    hidden = np.ones((len(runs), length, n_keys), np.bool_)
    # A padded row attends to anything, lest it attend to nothing; nobody reads it.
    hidden[:, :, 0] = False
    later = ~np.tri(length, dtype=np.bool_)
    for b, run in enumerate(runs):
        n_above, n = len(run.above), len(run)
        seen[b, : n_above + n] = np.concatenate([run.above, np.arange(run.begin, run.end)])
        hidden[b, :n, :n_above] = False
        hidden[b, :n, n_above : n_above + n] = later[:n, :n]
    mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(torch.from_numpy(hidden), -math.inf)
    return _Bucket(
        places, len(runs), torch.from_numpy(seen).flatten().to(device), mask.unsqueeze(1).to(device)
    )


def _places(buckets: list[list[_Run]]) -> Tensor:
    """[tokens] place of every packed row in the concatenation of the flattened buckets."""
    places = torch.empty(sum(len(run) for bucket in buckets for run in bucket), dtype=torch.long)
    offset = 0
    for bucket in buckets:
        length = len(bucket[0])
        for run in bucket:
            places[run.begin : run.end] = offset + torch.arange(len(run))
            offset += length
    return places
