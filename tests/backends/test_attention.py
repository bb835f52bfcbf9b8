"""Attention with its log-sum-exp against the definition, and the cache that feeds it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from evalkit.backends.hf.attention import (
    KVCache,
    UnsupportedAttention,
    attention_with_lse,
    cascade_attention,
    plain_attention_with_lse,
    running,
)
from evalkit.planner import Family, Step

SCALE = 0.3
EXACT = {"atol": 1e-5, "rtol": 1e-5}
HALF = {"atol": 2e-2, "rtol": 2e-2}


def random_tensor(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def by_definition(query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Attention in float64, row by row; `seen` [queries, keys] says who sees whom."""
    group = query.shape[1] // key.shape[1]
    out = torch.zeros(*query.shape[:3], value.shape[3], dtype=torch.float64)
    lse = torch.zeros(query.shape[:3], dtype=torch.float64)
    for b, h, row in np.ndindex(*query.shape[:3]):
        keys = key[b, h // group][seen[row]].double()
        scores = keys @ query[b, h, row].double() * SCALE
        lse[b, h, row] = scores.logsumexp(0)
        out[b, h, row] = scores.softmax(0) @ value[b, h // group][seen[row]].double()
    return out, lse


def additive(seen: Tensor) -> Tensor:
    return torch.zeros(seen.shape).masked_fill(~seen, -math.inf)


everyone = torch.ones(6, 6, dtype=torch.bool)
tree = torch.eye(6, dtype=torch.bool) | torch.tensor([[0, 1, 1, 0, 0, 0]] * 6, dtype=torch.bool).tril(-1)


@pytest.mark.parametrize("attend", [attention_with_lse, plain_attention_with_lse], ids=["fused", "plain"])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("value_dim", [8, 5])
@pytest.mark.parametrize("shape", ["full", "causal", "tree"])
def test_attention_and_lse_are_what_the_definition_says(
    attend: object, kv_heads: int, value_dim: int, shape: str
) -> None:
    query, key = random_tensor(3, 4, 6, 8), random_tensor(3, kv_heads, 6, 8, seed=1)
    value = random_tensor(3, kv_heads, 6, value_dim, seed=2)
    seen = {"full": everyone, "causal": everyone.tril(), "tree": tree}[shape]
    mask = additive(tree).expand(3, 1, 6, 6) if shape == "tree" else None
    out, lse = attend(query, key, value, SCALE, causal=shape == "causal", mask=mask)  # type: ignore[operator]
    expected, expected_lse = by_definition(query, key, value, seen)
    torch.testing.assert_close(out.double(), expected, **EXACT)
    torch.testing.assert_close(lse.double(), expected_lse, **EXACT)


@pytest.mark.parametrize("shape", ["full", "causal", "tree"])
def test_bfloat16_keeps_its_log_sum_exp_in_float32(shape: str) -> None:
    query, key, value = (random_tensor(2, 4, 6, 8, dtype=torch.bfloat16, seed=s) for s in range(3))
    mask = additive(tree).to(torch.bfloat16).expand(2, 1, 6, 6) if shape == "tree" else None
    seen = {"full": everyone, "causal": everyone.tril(), "tree": tree}[shape]
    out, lse = attention_with_lse(query, key, value, SCALE, causal=shape == "causal", mask=mask)
    expected, expected_lse = by_definition(query, key, value, seen)
    assert (out.dtype, lse.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(out.double(), expected, **HALF)
    torch.testing.assert_close(lse.double(), expected_lse, **HALF)


def test_more_keys_than_queries_are_all_seen() -> None:
    query, key, value = (random_tensor(1, 4, n, 8, seed=n) for n in (3, 11, 11))
    out, lse = attention_with_lse(query, key, value, SCALE)
    expected, expected_lse = by_definition(query, key, value, torch.ones(3, 11, dtype=torch.bool))
    torch.testing.assert_close(out.double(), expected, **EXACT)
    torch.testing.assert_close(lse.double(), expected_lse, **EXACT)


# -- a whole step -----------------------------------------------------------------------------------


class Layer(torch.nn.Module):
    layer_idx = 0


def step(families: tuple[Family, ...], positions: list[int], context_len: int, *, keep: bool) -> Step:
    ids = np.asarray(positions, np.int32)
    return Step(-1, context_len, keep, ids, ids, families, ())


def attended(one: Step, cache: KVCache, *qkv: Tensor, **kwargs: object) -> Tensor:
    with running(one, cache, torch.device("cpu"), torch.float32):
        out, _ = cascade_attention(Layer(), *qkv, None, scaling=SCALE, **kwargs)
    return out.transpose(1, 2)


def test_families_see_the_context_and_their_own_ancestors_only() -> None:
    cache, context = KVCache(), 5
    keys, values = random_tensor(1, 2, 16, 8, seed=1), random_tensor(1, 2, 16, 8, seed=2)
    query = random_tensor(1, 4, 16, 8)
    prefill = step((Family(0, context, None),), list(range(context)), 0, keep=True)
    attended(prefill, cache, *(x[:, :, :context] for x in (query, keys, values)))

    branches = np.asarray([-1, 0, 1, 0, -1], np.int32)
    families = (Family(0, 4, None), Family(4, 9, branches), Family(9, 11, None))
    packed = step(families, [5, 6, 7, 8, 5, 6, 7, 6, 5, 5, 6], context, keep=False)
    out = attended(packed, cache, *(x[:, :, context:] for x in (query, keys, values)))

    seen = torch.zeros(16, 16, dtype=torch.bool)
    seen[:, :context] = True
    for family in families:
        parents = range(-1, len(family) - 1) if family.parents is None else family.parents.tolist()
        for local, parent in enumerate(parents):
            row, above = context + family.begin + local, context + family.begin + parent
            if parent >= 0:
                seen[row, context:] = seen[above, context:]
            seen[row, row] = True
    expected, _ = by_definition(query, keys, values, seen)
    torch.testing.assert_close(out.double(), expected[:, :, context:], **EXACT)


def test_a_window_is_refused_only_where_it_would_hide_something() -> None:
    qkv = [random_tensor(1, 2, 4, 8, seed=s) for s in range(3)]
    one = step((Family(0, 4, None),), [0, 1, 2, 3], 0, keep=False)
    whole = attended(one, KVCache(), *qkv)
    assert torch.equal(attended(one, KVCache(), *qkv, sliding_window=4), whole)
    with pytest.raises(UnsupportedAttention, match="sliding window of 3"):
        attended(one, KVCache(), *qkv, sliding_window=3)


@pytest.mark.parametrize("extra", ["softcap", "s_aux", "position_bias", "head_mask"])
def test_other_kinds_of_attention_are_refused(extra: str) -> None:
    qkv = [random_tensor(1, 2, 4, 8, seed=s) for s in range(3)]
    one = step((Family(0, 4, None),), [0, 1, 2, 3], 0, keep=False)
    with pytest.raises(UnsupportedAttention, match=extra):
        attended(one, KVCache(), *qkv, **{extra: 1.0})


def test_attention_outside_of_a_step_is_refused() -> None:
    qkv = [random_tensor(1, 2, 4, 8)] * 3
    with pytest.raises(UnsupportedAttention, match="outside"):
        cascade_attention(Layer(), *qkv, None)


# -- cache ------------------------------------------------------------------------------------------


class TestKVCache:
    def test_extends_a_path_piece_by_piece(self) -> None:
        cache, keys, values = KVCache(), random_tensor(1, 2, 50, 4), random_tensor(1, 2, 50, 4, seed=1)
        for begin, end in [(0, 3), (3, 4), (4, 30), (30, 50)]:
            cache.write(0, begin, keys[:, :, begin:end], values[:, :, begin:end])
        stored_keys, stored_values = cache.read(0, 50)
        assert torch.equal(stored_keys, keys)
        assert torch.equal(stored_values, values)

    def test_cuts_back_to_where_another_path_branches_off(self) -> None:
        cache, first, second = KVCache(), random_tensor(1, 2, 20, 4), random_tensor(1, 2, 40, 4, seed=1)
        cache.write(0, 0, first, first)
        cache.write(0, 5, second, second)
        stored, _ = cache.read(0, 45)
        assert torch.equal(stored, torch.cat([first[:, :, :5], second], dim=2))
        assert torch.equal(cache.read(0, 5)[0], first[:, :, :5])

    def test_keeps_layers_apart(self) -> None:
        cache, first, second = KVCache(), random_tensor(1, 2, 3, 4), random_tensor(1, 2, 3, 4, seed=1)
        cache.write(0, 0, first, first)
        cache.write(1, 0, second, second)
        assert torch.equal(cache.read(0, 3)[0], first)
        assert torch.equal(cache.read(1, 3)[0], second)

    def test_has_room_for_values_of_another_width_than_keys(self) -> None:
        cache, keys, values = KVCache(), random_tensor(1, 2, 3, 8), random_tensor(1, 2, 3, 5)
        cache.write(0, 0, keys, values)
        assert [x.shape[3] for x in cache.read(0, 3)] == [8, 5]
