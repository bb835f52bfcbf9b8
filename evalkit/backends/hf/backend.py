"""The transformers backend: plans, runs and reads back, with simpler paths to fall back on."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import math
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evalkit.backends.base import Capabilities, ModelInfo, Usage
from evalkit.backends.hf import memory
from evalkit.backends.hf.attention import UnsupportedAttention
from evalkit.backends.hf.generation import PlainGenerator, SlotGenerator
from evalkit.backends.hf.head import Head, target_statistics
from evalkit.backends.hf.loading import LoadedModel, LoadOptions, load
from evalkit.backends.hf.paths import ExpandedPath, Path, PlainPath, TreePath
from evalkit.decoding import Collected, Draft, drafts
from evalkit.planner import Step, Window, plan
from evalkit.tokens import EncodedPrompt, EncodedRequest, Ids
from evalkit.types import Completion, ContinuationScore, Failure, Response, ScoreResponse, TokenStats

_log = logging.getLogger(__name__)

_DEFAULT_BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}

Column = npt.NDArray[np.float64]
"""One statistic of consecutive tokens."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class _Reading(Generic[Answer]):
    """What is read of every scored token, and what that answers."""

    n_columns: int
    columns: Callable[[Tensor, Tensor], tuple[Tensor, ...]]
    """(hidden states, target ids) of tokens to so many statistics of each."""
    answer: Callable[[EncodedRequest, Sequence[list[Column]]], Answer]
    """A request and, per sequence, the columns of its tokens, to the answer."""
    alone: Callable[[EncodedRequest], Answer]
    """The answer to a request that must not share a forward."""


class HfBackend:
    """Answers requests with a transformers model on CPU or CUDA."""

    def __init__(self, loaded: LoadedModel, batch_tokens: int | None = None) -> None:
        """`batch_tokens` is the token budget of one forward; None chooses by device."""
        memory.keep_freed_memory()
        self._model = loaded.model
        self._loaded = loaded
        self.tokenizer = loaded.tokenizer
        self.usage = Usage()
        self.capabilities = Capabilities()
        self._batch_tokens = batch_tokens or _DEFAULT_BATCH_TOKENS.get(loaded.model.device.type, 4096)
        self._head = Head(loaded.model)
        self._longest_shared = _longest_shared(loaded.model.config.get_text_config())
        self._native_attention: str = loaded.model.config._attn_implementation
        self._factories = _supported_paths(loaded.model, self._native_attention)
        self._path: Path = self._factories.pop(0)()
        self._lock = threading.Lock()
        self._threads = torch.get_num_threads()
        on_cpu = loaded.model.device.type == "cpu"
        self._workers = ThreadPoolExecutor(self._threads) if on_cpu and self._threads > 1 else None

    @classmethod
    def from_name(cls, name: str, *, batch_tokens: int | None = None, **options: Any) -> HfBackend:
        """Load a preset, folder, GGUF file or hub id; `options` are those of `LoadOptions`."""
        return cls(load(name, LoadOptions(**options)), batch_tokens)

    @property
    def info(self) -> ModelInfo:
        """The loaded model and the scoring path in use."""
        info = self._loaded.info
        extra = {"scoring_path": self._path.name, "batch_tokens": self._batch_tokens}
        return dataclasses.replace(info, details={**info.details, **extra})

    def downgrade(self) -> str | None:
        """Take the next simpler scoring path."""
        if not self._factories:
            return None
        self._path = self._factories.pop(0)()
        return self._path.name

    @torch.inference_mode()
    def score(
        self, requests: Sequence[EncodedRequest], done: Collection[int] = ()
    ) -> Iterator[tuple[int, Response]]:
        """Score everything not in `done`, window by window of the plan."""
        reading = _Reading(2, self._head.score, _scores, self.score_reference)
        yield from self._answers(requests, done, reading)

    @torch.inference_mode()
    def token_stats(
        self, requests: Sequence[EncodedRequest], done: Collection[int] = ()
    ) -> Iterator[tuple[int, tuple[TokenStats, ...] | Failure]]:
        """Score everything not in `done` by the forwards of `score`, and read more off the same logits."""
        reading = _Reading(4, self._head.statistics, _token_stats, self._token_stats_alone)
        yield from self._answers(requests, done, reading)

    def _answers(
        self, requests: Sequence[EncodedRequest], done: Collection[int], reading: _Reading[Answer]
    ) -> Iterator[tuple[int, Answer | Failure]]:
        shared = [i for i, request in enumerate(requests) if request.n_inputs <= self._longest_shared]
        planned = [requests[i] for i in shared]
        planned_done = {k for k, i in enumerate(shared) if i in done}
        for window in plan(planned, self._batch_tokens, self._threads if self._workers else 1):
            for k, answer in self._window_answers(window, planned, planned_done, reading):
                yield shared[k], answer
            memory.return_unused()
        for i in sorted(set(range(len(requests))).difference(shared, done)):
            alone = self._answer_alone(requests[i], reading)
            yield i, alone

    def _answer_alone(self, request: EncodedRequest, reading: _Reading[Answer]) -> Answer | Failure:
        try:
            answer = reading.alone(request)
        except RuntimeError as error:
            if not memory.is_out_of_memory(error):
                raise
            return Failure(_out_of_memory(request.n_inputs))
        self.usage.tokens_computed += request.n_logical
        return answer

    def _window_answers(
        self,
        window: Window,
        requests: Sequence[EncodedRequest],
        done: Collection[int],
        reading: _Reading[Answer],
    ) -> Iterator[tuple[int, Answer | Failure]]:
        edges = _Edges(window.n_edges, reading)
        reasons: dict[int, str] = {}
        for step, error in self._run_all(window, edges, done):
            if error:
                reasons.update(dict.fromkeys(step.requests, error))
            for i in step.finishes:
                if i in done:
                    continue
                columns = edges.columns(window.sequence_edges[i])
                yield (
                    i,
                    Failure(reasons.get(i, "")) if columns is None else reading.answer(requests[i], columns),
                )

    def _run_all(
        self, window: Window, edges: _Edges, done: Collection[int]
    ) -> Iterator[tuple[Step, str | None]]:
        """Run what is not done, in order; steps that only read one cached context share the cores.

        On a CPU each core takes a step of its own, so that cores need not wait for each other after
        every one of a layer's many small operations.
        """
        broken: dict[int, str] = {}
        numbered = enumerate(window.steps)
        for (below, keep), group in itertools.groupby(numbered, key=lambda s: (s[1].context, s[1].keep)):
            members = dict(group)
            context = _context_ids(window, next(iter(members.values())))
            # Decided before leaving out what is done: how many threads compute a step can change its
            # last bits, and a resumed run must repeat them.
            in_parallel = len(members) > 1 and not keep
            wanted = {k: step for k, step in members.items() if not all(i in done for i in step.requests)}
            steps = list(wanted.values())
            outcomes: Iterator[str | None]
            if below in broken:  # Without its context a step cannot run.
                outcomes = itertools.repeat(broken[below], len(steps))
            elif in_parallel and self._workers is not None and self._path.independent:
                outcomes = self._run_in_parallel(steps, context, edges)
            else:
                outcomes = (self._run_here(step, context, edges) for step in steps)
            for k, error in zip(wanted, outcomes, strict=True):
                if error:
                    broken[k] = error
                yield window.steps[k], error

    def _run_in_parallel(self, steps: Sequence[Step], context: Ids, edges: _Edges) -> Iterator[str | None]:
        assert self._workers is not None
        run = functools.partial(self._run_on_one_core, context=context, edges=edges)
        # Taking another path changes the model, so that waits until no thread is inside it.
        held: list[tuple[Step, str | UnsupportedAttention | None]] = []
        for step, outcome in zip(steps, self._workers.map(run, steps), strict=True):
            if held or isinstance(outcome, UnsupportedAttention):
                held.append((step, outcome))
            else:
                yield outcome
        torch.set_num_threads(self._threads)
        for step, outcome in held:
            refused = isinstance(outcome, UnsupportedAttention)
            yield self._run_here(step, context, edges) if refused else outcome  # type: ignore[misc]

    @torch.inference_mode()
    def _run_on_one_core(self, step: Step, context: Ids, edges: _Edges) -> str | UnsupportedAttention | None:
        torch.set_num_threads(1)
        try:
            return self._run(step, context, edges)
        except UnsupportedAttention as error:
            return error

    def _run_here(self, step: Step, context: Ids, edges: _Edges) -> str | None:
        """Run one step, changing to a simpler path where this one cannot."""
        while True:
            try:
                return self._run(step, context, edges)
            except UnsupportedAttention as error:
                _log.warning(
                    "the %s path does not support this model's attention: %s", self._path.name, error
                )
                if self.downgrade() is None:
                    raise

    def _run(self, step: Step, context: Ids, edges: _Edges) -> str | None:
        """Run one step, splitting it as long as it does not fit into memory; return what went wrong."""
        path = self._path
        fits = True
        try:
            hidden = path.run(step, context)
            if len(step.edge_ids):
                edges.read(step, hidden)
        except RuntimeError as error:
            if not memory.is_out_of_memory(error):
                raise
            fits = False
        if not fits:  # outside of `except`, where the traceback would still hold the tensors
            return self._run_halves(step, context, edges)
        with self._lock:
            self.usage.tokens_computed += path.tokens(step)
        return None

    def _run_halves(self, step: Step, context: Ids, edges: _Edges) -> str | None:
        memory.release()
        if len(step.families) < 2:
            return _out_of_memory(len(step.tokens))
        _log.warning("out of memory on %d tokens: splitting the batch", len(step.tokens))
        errors = [self._run(half, context, edges) for half in step.halves()]
        return next((error for error in errors if error), None)

    @torch.inference_mode()
    def generate(
        self, requests: Sequence[EncodedPrompt], done: Collection[int] = ()
    ) -> Iterator[tuple[int, Response]]:
        """Complete every prompt not in `done`, in the order they finish."""
        collected = Collected()
        for draft, completion in self._complete(drafts(requests, done)):
            yield from collected.add(draft, completion)

    def _complete(self, wanted: Sequence[Draft]) -> Iterator[tuple[Draft, Completion | Failure]]:
        """Complete drafts in slots, and one by one those whose length or attention slots do not support."""
        left = {(d.index, d.k): d for d in wanted if d.longest <= self._longest_shared}
        rest = [d for d in wanted if d.longest > self._longest_shared]
        while left and isinstance(self._path, TreePath):
            try:
                for draft, completion in self._in_slots(self._path).run(list(left.values())):
                    del left[draft.index, draft.k]
                    yield draft, completion
            except UnsupportedAttention as error:
                _log.warning("slots do not support this model's attention: %s", error)
                self.downgrade()
        one_by_one = PlainGenerator(self._model, self._native_attention, self.tokenizer, self.usage)
        yield from one_by_one.run([*left.values(), *rest])

    def _in_slots(self, path: TreePath) -> SlotGenerator:
        return SlotGenerator(
            self._model, path.body, self._head, self.tokenizer, self.usage, self._batch_tokens
        )

    @torch.inference_mode()
    def score_reference(self, request: EncodedRequest) -> ScoreResponse:
        """One unshared forward of the whole model, its own attention and head, per distinct input."""
        scores = []
        for j, (logits, targets) in enumerate(self._plain_logits(request)):
            logp = logits.log_softmax(dim=1).gather(1, targets.unsqueeze(1)).double()
            best = bool((logits.argmax(dim=1) == targets).all())
            scores.append(ContinuationScore(float(logp.sum()), request.reported_tokens(j), best))
        return ScoreResponse(tuple(scores))

    def _token_stats_alone(self, request: EncodedRequest) -> tuple[TokenStats, ...]:
        read = (target_statistics(logits, targets) for logits, targets in self._plain_logits(request))
        return _token_stats(request, [[_column(c) for c in columns] for columns in read])

    def _plain_logits(self, request: EncodedRequest) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits before each sequence's scored tokens, and those tokens."""
        current = self._model.config._attn_implementation
        self._model.set_attn_implementation(self._native_attention)
        try:
            outputs: dict[bytes, Tensor] = {}
            for j, start in enumerate(request.starts):
                ids = request.sequence(j)
                key = ids[:-1].tobytes()
                if key not in outputs:
                    row = torch.from_numpy(ids[:-1].astype(np.int64)).to(self._model.device)
                    keep = len(ids) - min(request.starts)
                    outputs[key] = self._model(row.unsqueeze(0), use_cache=False, logits_to_keep=keep).logits[
                        0
                    ]
                logits = outputs[key][start - len(ids) :].float()
                yield logits, torch.from_numpy(ids[start:].astype(np.int64)).to(logits.device)
        finally:
            self._model.set_attn_implementation(current)


def _supported_paths(model: Any, native_attention: str) -> list[Callable[[], Path]]:
    """Scoring paths this model can use, best first."""
    config = model.config.get_text_config()
    paths: list[Callable[[], Path]] = [lambda: PlainPath(model, native_attention)]
    if getattr(model, "_is_stateful", False) or not _full_attention(config):
        return paths
    paths.insert(0, lambda: ExpandedPath(model, native_attention))
    if getattr(model, "_supports_attention_backend", False):
        paths.insert(0, lambda: TreePath(model))
    return paths


def _full_attention(config: Any) -> bool:
    """Whether every layer keeps the keys and values of all tokens."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return kinds == {"full_attention"} and not hasattr(config, "attn_layer_indices")


def _longest_shared(config: Any) -> float:
    """Longest input that may share a forward: beyond, rotary frequencies depend on the input's length."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") not in {"dynamic", "longrope"}:
        return math.inf
    return float(rope.get("original_max_position_embeddings") or config.max_position_embeddings)


def _out_of_memory(tokens: int) -> str:
    return (
        f"out of memory on one group of sequences with {tokens} tokens; "
        "use a smaller --batch-tokens or --dtype, or a larger device"
    )


def _context_ids(window: Window, step: Step) -> Ids:
    pieces: list[Ids] = [np.zeros(0, np.int32)]
    while step.context >= 0:
        step = window.steps[step.context]
        pieces.append(step.tokens)
    return np.concatenate(pieces[::-1])


class _Edges:
    """Statistics of a window's edges, filled in step by step."""

    def __init__(self, n_edges: int, reading: _Reading[Any]) -> None:
        self._reading = reading
        self._values = np.full((reading.n_columns, n_edges), np.nan)
        self._stored = np.zeros(n_edges, np.bool_)

    def read(self, step: Step, hidden: Tensor) -> None:
        """Take in the edges of a step from the hidden states before them."""
        targets = torch.from_numpy(step.edge_tokens.astype(np.int64)).to(hidden.device)
        for values, column in zip(self._values, self._reading.columns(hidden, targets), strict=True):
            values[step.edge_ids] = _column(column)
        self._stored[step.edge_ids] = True

    def columns(self, sequences: tuple[Ids, ...]) -> list[list[Column]] | None:
        """Each sequence's statistics, or None where some of them were never computed."""
        if not all(self._stored[edges].all() for edges in sequences):
            return None
        return [[values[edges] for values in self._values] for edges in sequences]


def _column(values: Tensor) -> Column:
    column: Column = values.double().cpu().numpy()
    return column


def _scores(request: EncodedRequest, sequences: Sequence[list[Column]]) -> ScoreResponse:
    return ScoreResponse(
        tuple(
            ContinuationScore(float(logprobs.sum()), request.reported_tokens(j), bool(greedy.all()))
            for j, (logprobs, greedy) in enumerate(sequences)
        )
    )


def _token_stats(_request: EncodedRequest, sequences: Sequence[list[Column]]) -> tuple[TokenStats, ...]:
    return tuple(
        TokenStats(logprobs, mean, variance, greedy.astype(np.bool_))
        for logprobs, greedy, mean, variance in sequences
    )
