"""Text generation: continuous batching over slots, and a plain loop for models that cannot.

Prompts that begin alike have that beginning computed once. Every sequence decodes in a slot of its own;
a finished one leaves at once and a waiting one takes its place, so that no batch waits for its slowest
member.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import StoppingCriteria

from evalkit.backends.base import Usage
from evalkit.backends.hf import attention, memory
from evalkit.backends.hf.head import Head
from evalkit.backends.hf.sampling import Sampler
from evalkit.backends.tokenizer import end_ids
from evalkit.decoding import Draft, Growing, PromptGroup, buckets, prompt_groups
from evalkit.planner import Family, Step
from evalkit.tokens import Ids, Tokenizer
from evalkit.types import Completion, Failure, Sampling

_log = logging.getLogger(__name__)

_MOST_SLOTS = {"cpu": 32, "cuda": 256}
_CACHE_SHARE = {"cpu": 0.15, "cuda": 0.6}
"""Share of the memory now free that cached keys and values may take."""

Result = tuple[Draft, Completion | Failure]


class SlotGenerator:
    """Continuous batching, for models that compute their attention through transformers' interface."""

    name = "slots"

    def __init__(
        self,
        model: Any,
        body: Callable[..., Any],
        head: Head,
        tokenizer: Tokenizer,
        usage: Usage,
        batch_tokens: int,
    ) -> None:
        """The model must already use evalkit's attention."""
        self._body, self._head, self._tokenizer, self._usage = body, head, tokenizer, usage
        self._device: torch.device = model.device
        self._dtype: torch.dtype = model.dtype
        self._batch_tokens = batch_tokens
        self._end_ids = end_ids(getattr(model.generation_config, "eos_token_id", None), tokenizer)
        self._bytes_per_token = _bytes_per_token(model)
        self._context = attention.KVCache()

    def run(self, drafts: Sequence[Draft]) -> Iterator[Result]:
        """Complete drafts in buckets of similar length."""
        for bucket in buckets(drafts):
            yield from self._run_bucket(bucket, self._most_slots(bucket[0].longest))

    def _most_slots(self, capacity: int) -> int:
        kind = self._device.type
        budget = memory.free_bytes(self._device) * _CACHE_SHARE.get(kind, 0.15)
        fitting = int(budget // (capacity * self._bytes_per_token))
        return max(1, min(_MOST_SLOTS.get(kind, 16), fitting))

    def _run_bucket(self, bucket: Sequence[Draft], most_slots: int) -> Iterator[Result]:
        """Complete a bucket; what a memory shortage interrupts starts again with half the slots."""
        unfinished = {(d.index, d.k): d for d in bucket}
        while unfinished:
            slots = min(most_slots, len(unfinished))
            batch = _Batch(self, list(unfinished.values()), slots)
            try:
                for draft, completion in batch.run():
                    del unfinished[draft.index, draft.k]
                    yield draft, completion
                continue
            except RuntimeError as error:
                if not memory.is_out_of_memory(error):
                    raise
            failed = batch.latest
            del batch  # outside of `except`, where the traceback would still hold its tensors
            memory.release()
            self._context = attention.KVCache()
            if slots == 1:
                del unfinished[failed.index, failed.k]
                yield (
                    failed,
                    Failure(
                        f"out of memory on one sequence of {failed.longest} tokens; use a smaller "
                        "--max-length, --batch-tokens or --dtype, or a larger device"
                    ),
                )
            most_slots = max(1, slots // 2)
            _log.warning("out of memory: decoding %d sequences at a time", most_slots)

    # -- forwards -------------------------------------------------------------------------------

    def prefill_context(self, ids: Ids) -> None:
        """Cache the keys and values of `ids`, piece by piece."""
        for begin in range(0, len(ids), self._batch_tokens):
            piece = ids[begin : begin + self._batch_tokens]
            step = _step(begin, [piece], keep=True)
            with attention.running(step, self._context, self._device, self._dtype):
                self._forward(step.tokens, step.positions)

    def prefill(
        self, cache: attention.SlotCache, slots: Sequence[int], shared: int, tails: Sequence[Ids]
    ) -> Tensor:
        """Run the prompts' own parts after the cached context; logits [prompts, vocabulary]."""
        step = _step(shared, tails, keep=False)
        if shared:
            cache.fill(slots, self._context, shared)
        rows = torch.repeat_interleave(torch.tensor(slots), torch.tensor([len(t) for t in tails])).to(
            self._device
        )
        positions = torch.from_numpy(step.positions.astype(np.int64)).to(self._device)

        def store(layer: int, keys: Tensor, values: Tensor) -> None:
            cache.write(layer, rows, positions, keys, values)

        with attention.running(step, self._context, self._device, self._dtype, store):
            hidden = self._forward(step.tokens, step.positions)
        return self._head.logits(hidden[[family.end - 1 for family in step.families]])

    def decode(self, cache: attention.SlotCache, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Feed one token to each of the first slots; logits [slots, vocabulary]."""
        with attention.decoding(cache, positions, self._device, self._dtype):
            hidden = self._forward(np.asarray(tokens), np.asarray(positions))
        return self._head.logits(hidden)

    def _forward(self, tokens: Any, positions: Any) -> Tensor:
        ids, at = (torch.from_numpy(np.asarray(x, np.int64)).to(self._device) for x in (tokens, positions))
        out = self._body(input_ids=ids.unsqueeze(0), position_ids=at.unsqueeze(0), use_cache=False)
        self._usage.tokens_computed += len(tokens)
        hidden: Tensor = out.last_hidden_state[0]
        return hidden

    # -- bookkeeping ----------------------------------------------------------------------------

    def sequence(self, draft: Draft) -> _Slot:
        """What one slot knows of its sequence."""
        sampler = None
        if draft.prompt.sampling is not None:
            prompt = torch.from_numpy(draft.prompt.ids.astype(np.int64)).to(self._device)
            sampler = Sampler(draft.prompt.sampling, prompt, draft.prompt.seed + draft.k)
        return _Slot(Growing(draft, self._end_ids, self._tokenizer), sampler)

    def advance(self, sequences: Sequence[_Slot], logits: Tensor) -> list[Completion | None]:
        """Choose the next token of every sequence."""
        total = logits.logsumexp(dim=1)  # of the model as it is, before anything is forbidden
        for row, one in enumerate(sequences):
            if forbidden := one.growing.forbidden:
                logits[row, torch.tensor(sorted(forbidden), device=logits.device)] = -torch.inf
        greedy = logits.argmax(dim=1).tolist()
        tokens = [
            best if one.sampler is None else one.sampler.draw(logits[row])
            for row, (one, best) in enumerate(zip(sequences, greedy, strict=True))
        ]
        chosen = logits.gather(1, torch.tensor(tokens, device=logits.device).unsqueeze(1)).squeeze(1)
        logprobs = (chosen - total).tolist()
        self._usage.tokens_generated += len(tokens)
        return [one.growing.add(t, lp) for one, t, lp in zip(sequences, tokens, logprobs, strict=True)]

    @property
    def batch_tokens(self) -> int:
        """Token budget of one prefill."""
        return self._batch_tokens


class _Slot:
    """A sequence being decoded."""

    def __init__(self, growing: Growing, sampler: Sampler | None) -> None:
        self.growing = growing
        self.sampler = sampler

    @property
    def position(self) -> int:
        """Of the newest token, which is to be fed next."""
        return self.growing.draft.prompt.n_inputs + len(self.growing.ids) - 1


class _Batch:
    """Slots over one cache: the first `len(active)` are in use."""

    def __init__(self, engine: SlotGenerator, drafts: Sequence[Draft], slots: int) -> None:
        self._engine = engine
        self._slots = slots
        self._cache = attention.SlotCache(slots, max(d.longest for d in drafts))
        self._groups = deque(prompt_groups(drafts, engine.batch_tokens))
        self._waiting: deque[Draft] = deque()
        self._group: PromptGroup | None = None
        self._active: list[_Slot] = []
        self.latest = drafts[0]
        """The draft that was begun last: with a single slot, the one that is running."""

    def run(self) -> Iterator[Result]:
        while self._active or self._waiting or self._groups:
            yield from self._admit()
            if self._active:
                tokens = [one.growing.ids[-1] for one in self._active]
                logits = self._engine.decode(self._cache, tokens, [one.position for one in self._active])
                yield from self._retire(self._engine.advance(self._active, logits))

    def _admit(self) -> Iterator[Result]:
        """Fill free slots, a prefill's worth at a time; a few free ones wait for company."""
        while len(self._active) < self._slots and (self._waiting or self._groups):
            if self._active and self._slots - len(self._active) < max(1, self._slots // 8):
                return
            if not self._waiting:
                self._open_group()
            assert self._group is not None
            shared, begin = self._group.shared, len(self._active)
            admitted: list[Draft] = []
            room = self._engine.batch_tokens
            while self._waiting and begin + len(admitted) < self._slots:
                size = self._waiting[0].prompt.n_inputs - shared
                if admitted and size > room:
                    break
                room -= size
                admitted.append(self._waiting.popleft())
            self.latest = admitted[0]
            slots = range(begin, begin + len(admitted))
            logits = self._engine.prefill(
                self._cache, slots, shared, [d.prompt.ids[shared:] for d in admitted]
            )
            joined = [self._engine.sequence(d) for d in admitted]
            self._active += joined
            done = self._engine.advance(joined, logits)
            yield from self._retire([*[None] * begin, *done])

    def _open_group(self) -> None:
        self._group = self._groups.popleft()
        self._waiting.extend(self._group.drafts)
        self.latest = self._group.drafts[0]
        if self._group.shared:
            self._engine.prefill_context(self._group.drafts[0].prompt.ids[: self._group.shared])

    def _retire(self, completions: Sequence[Completion | None]) -> Iterator[Result]:
        """Hand out what is finished and close the gaps with the last slots."""
        for slot in reversed(range(len(completions))):
            completion = completions[slot]
            if completion is None:
                continue
            yield self._active[slot].growing.draft, completion
            last = self._active.pop()
            if slot < len(self._active):
                self._cache.move(len(self._active), slot, last.position + 1)
                self._active[slot] = last


class PlainGenerator:
    """One sequence at a time through transformers' own `generate`: right for every model."""

    name = "generate"

    def __init__(self, model: Any, attn_implementation: str, tokenizer: Tokenizer, usage: Usage) -> None:
        """`attn_implementation` is the one the model was loaded with."""
        self._model, self._attention = model, attn_implementation
        self._tokenizer, self._usage = tokenizer, usage
        self._end_ids = end_ids(getattr(model.generation_config, "eos_token_id", None), tokenizer)

    def run(self, drafts: Sequence[Draft]) -> Iterator[Result]:
        """Complete one draft after the other."""
        current = self._model.config._attn_implementation
        self._model.set_attn_implementation(self._attention)
        try:
            yield from map(self._attempt, drafts)
        finally:
            self._model.set_attn_implementation(current)

    def _attempt(self, draft: Draft) -> Result:
        try:
            return draft, self._complete(draft)
        except RuntimeError as error:
            if not memory.is_out_of_memory(error):
                raise
        memory.release()
        return draft, Failure(f"out of memory on one sequence of up to {draft.longest} tokens")

    def _complete(self, draft: Draft) -> Completion:
        prompt, growing = draft.prompt, Growing(draft, self._end_ids, self._tokenizer)
        watcher = _Watcher(growing)
        ids = torch.from_numpy(prompt.ids.astype(np.int64)).to(self._model.device).unsqueeze(0)
        with torch.random.fork_rng():
            torch.manual_seed((prompt.seed + draft.k) & (2**63 - 1))
            out = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=prompt.max_new_tokens,
                min_new_tokens=prompt.min_new_tokens or None,
                eos_token_id=sorted(growing.closing_ids),
                pad_token_id=min(self._end_ids, default=0),
                stopping_criteria=[watcher],
                return_dict_in_generate=True,
                output_logits=True,
                **_settings(prompt.sampling),
            )
        assert watcher.completion is not None
        new = watcher.completion.n_tokens
        self._usage.tokens_computed += prompt.n_inputs + new - 1
        self._usage.tokens_generated += new
        return dataclasses.replace(watcher.completion, logprob=_logprob(out.logits, watcher.completion))


class _Watcher(StoppingCriteria):  # type: ignore[misc]
    """Ends `generate` where the completion is done."""

    def __init__(self, growing: Growing) -> None:
        self._growing = growing
        self.completion: Completion | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.completion = self._growing.add(int(input_ids[0, -1]), 0.0)
        return torch.tensor([self.completion is not None], device=input_ids.device)


def _settings(sampling: Sampling | None) -> dict[str, Any]:
    if sampling is None:
        # Said in full, since a model's own generation settings would fill what is left open.
        return {
            "do_sample": False,
            "temperature": None,
            "top_p": None,
            "top_k": None,
            "repetition_penalty": 1.0,
        }
    return {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "repetition_penalty": sampling.repetition_penalty,
    }


def _logprob(logits: Sequence[Tensor], completion: Completion) -> float:
    rows = [
        step[0].float().log_softmax(dim=0)[token]
        for step, token in zip(logits, completion.token_ids, strict=False)
    ]
    return float(torch.stack(rows).double().sum())


def _bytes_per_token(model: Any) -> int:
    """Bytes of keys and values that one token takes over all layers."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(2 * config.num_hidden_layers * kv_heads * dim * model.dtype.itemsize)


def _step(begin: int, parts: Sequence[Ids], *, keep: bool) -> Step:
    """Independent paths behind one context of `begin` tokens."""
    ends = np.cumsum([len(p) for p in parts]).tolist()
    families = tuple(Family(e - len(p), e, None) for e, p in zip(ends, parts, strict=True))
    positions = np.concatenate([np.arange(begin, begin + len(p), dtype=np.int32) for p in parts])
    return Step(-1, begin, keep, np.concatenate(parts), positions, families, ())
