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
from typing import Any

import numpy as np
import torch

from evalkit.backends.base import Capabilities, ModelInfo, Usage
from evalkit.backends.hf import memory
from evalkit.backends.hf.attention import UnsupportedAttention
from evalkit.backends.hf.generation import PlainGenerator, SlotGenerator
from evalkit.backends.hf.head import Head
from evalkit.backends.hf.loading import LoadedModel, LoadOptions, load
from evalkit.backends.hf.paths import ExpandedPath, Path, PlainPath, TreePath
from evalkit.decoding import Collected, Draft, drafts
from evalkit.planner import Step, Window, plan
from evalkit.tokens import EncodedPrompt, EncodedRequest, Ids
from evalkit.types import Completion, ContinuationScore, Failure, Response, ScoreResponse

_log = logging.getLogger(__name__)

_DEFAULT_BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}


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
        shared = [i for i, request in enumerate(requests) if request.n_inputs <= self._longest_shared]
        planned = [requests[i] for i in shared]
        planned_done = {k for k, i in enumerate(shared) if i in done}
        for window in plan(planned, self._batch_tokens, self._threads if self._workers else 1):
            for k, response in self._score_window(window, planned, planned_done):
                yield shared[k], response
            memory.return_unused()
        for i in sorted(set(range(len(requests))).difference(shared, done)):
            yield i, self._score_alone(requests[i])

    def _score_alone(self, request: EncodedRequest) -> Response:
        try:
            response = self.score_reference(request)
        except RuntimeError as error:
            if not memory.is_out_of_memory(error):
                raise
            return Failure(_out_of_memory(request.n_inputs))
        self.usage.tokens_computed += request.n_logical
        return response

    def _score_window(
        self, window: Window, requests: Sequence[EncodedRequest], done: Collection[int]
    ) -> Iterator[tuple[int, Response]]:
        edges = _EdgeScores(window.n_edges)
        reasons: dict[int, str] = {}
        for step, error in self._run_all(window, edges, done):
            if error:
                reasons.update(dict.fromkeys(step.requests, error))
            for i in step.finishes:
                if i not in done:
                    yield i, edges.response(requests[i], window.sequence_edges[i], reasons.get(i, ""))

    def _run_all(
        self, window: Window, edges: _EdgeScores, done: Collection[int]
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

    def _run_in_parallel(
        self, steps: Sequence[Step], context: Ids, edges: _EdgeScores
    ) -> Iterator[str | None]:
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
    def _run_on_one_core(
        self, step: Step, context: Ids, edges: _EdgeScores
    ) -> str | UnsupportedAttention | None:
        torch.set_num_threads(1)
        try:
            return self._run(step, context, edges)
        except UnsupportedAttention as error:
            return error

    def _run_here(self, step: Step, context: Ids, edges: _EdgeScores) -> str | None:
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

    def _run(self, step: Step, context: Ids, edges: _EdgeScores) -> str | None:
        """Run one step, splitting it as long as it does not fit into memory; return what went wrong."""
        path = self._path
        fits = True
        try:
            hidden = path.run(step, context)
            if len(step.edge_ids):
                targets = torch.from_numpy(step.edge_tokens.astype(np.int64)).to(hidden.device)
                edges.store(step.edge_ids, *self._head.score(hidden, targets))
        except RuntimeError as error:
            if not memory.is_out_of_memory(error):
                raise
            fits = False
        if not fits:  # outside of `except`, where the traceback would still hold the tensors
            return self._run_halves(step, context, edges)
        with self._lock:
            self.usage.tokens_computed += path.tokens(step)
        return None

    def _run_halves(self, step: Step, context: Ids, edges: _EdgeScores) -> str | None:
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
        current = self._model.config._attn_implementation
        self._model.set_attn_implementation(self._native_attention)
        try:
            outputs: dict[bytes, torch.Tensor] = {}
            scores = []
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
                targets = torch.from_numpy(ids[start:].astype(np.int64)).to(logits.device)
                logp = logits.log_softmax(dim=1).gather(1, targets.unsqueeze(1)).double()
                best = bool((logits.argmax(dim=1) == targets).all())
                scores.append(ContinuationScore(float(logp.sum()), request.reported_tokens(j), best))
            return ScoreResponse(tuple(scores))
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


class _EdgeScores:
    """Log-probabilities of a window's edges, filled in step by step."""

    def __init__(self, n_edges: int) -> None:
        self._logprobs = np.full(n_edges, np.nan)
        self._greedy = np.zeros(n_edges, np.bool_)
        self._stored = np.zeros(n_edges, np.bool_)

    def store(self, edges: Ids, logprobs: torch.Tensor, greedy: torch.Tensor) -> None:
        self._logprobs[edges] = logprobs.double().cpu().numpy()
        self._greedy[edges] = greedy.cpu().numpy()
        self._stored[edges] = True

    def response(self, request: EncodedRequest, sequences: tuple[Ids, ...], reason: str) -> Response:
        """The request's scores, or a Failure for `reason` where some of them were never computed."""
        if not all(self._stored[edges].all() for edges in sequences):
            return Failure(reason)
        return ScoreResponse(
            tuple(
                ContinuationScore(
                    float(self._logprobs[edges].sum()),
                    request.reported_tokens(j),
                    bool(self._greedy[edges].all()),
                )
                for j, edges in enumerate(sequences)
            )
        )
