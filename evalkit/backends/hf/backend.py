"""The transformers backend: plans, runs and reads back, with simpler paths to fall back on."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from evalkit.backends.base import ModelInfo, Usage
from evalkit.backends.hf import memory
from evalkit.backends.hf.attention import UnsupportedAttention
from evalkit.backends.hf.head import Head
from evalkit.backends.hf.loading import LoadedModel, load
from evalkit.backends.hf.paths import ExpandedPath, Path, PlainPath, TreePath
from evalkit.planner import Step, Window, plan
from evalkit.tokens import EncodedRequest, Ids
from evalkit.types import ContinuationScore, Failure, Response, ScoreResponse

_log = logging.getLogger(__name__)

_DEFAULT_BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}


class HfBackend:
    """Scores requests with a transformers model on CPU or CUDA."""

    def __init__(self, loaded: LoadedModel, batch_tokens: int | None = None) -> None:
        """`batch_tokens` is the token budget of one forward; None chooses by device."""
        memory.keep_freed_memory()
        self._model = loaded.model
        self._loaded = loaded
        self.tokenizer = loaded.tokenizer
        self.usage = Usage()
        self._batch_tokens = batch_tokens or _DEFAULT_BATCH_TOKENS.get(loaded.model.device.type, 4096)
        self._head = Head(loaded.model)
        self._native_attention: str = loaded.model.config._attn_implementation
        self._factories = _supported_paths(loaded.model, self._native_attention)
        self._path: Path = self._factories.pop(0)()

    @classmethod
    def from_name(
        cls,
        name: str,
        *,
        dtype: str = "auto",
        device: str = "auto",
        batch_tokens: int | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        offline: bool = False,
    ) -> HfBackend:
        """Load a demo model, a local folder or a hub id (see `evalkit.backends.hf.loading.load`)."""
        loaded = load(
            name,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
            revision=revision,
            offline=offline,
        )
        return cls(loaded, batch_tokens)

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
        for window in plan(requests, self._batch_tokens):
            yield from self._score_window(window, requests, done)

    def _score_window(
        self, window: Window, requests: Sequence[EncodedRequest], done: Collection[int]
    ) -> Iterator[tuple[int, Response]]:
        edges = _EdgeScores(window.n_edges)
        failed: dict[int, str] = {}
        for step in window.steps:
            if all(i in done for i in step.requests):
                continue
            if error := self._run(step, _context_ids(window, step), edges):
                failed.update(dict.fromkeys(step.requests, error))
            for i in step.finishes:
                if i not in done:
                    yield (
                        i,
                        Failure(failed[i])
                        if i in failed
                        else edges.response(requests[i], window.sequence_edges[i]),
                    )

    def _run(self, step: Step, context: Ids, edges: _EdgeScores) -> str | None:
        """Run one step, splitting it as long as it does not fit into memory; return what went wrong."""
        try:
            hidden = self._path.run(step, context)
        except UnsupportedAttention as error:
            _log.warning("the %s path does not support this model's attention: %s", self._path.name, error)
            if self.downgrade() is None:
                raise
            return self._run(step, context, edges)
        except RuntimeError as error:
            if not memory.is_out_of_memory(error):
                raise
            hidden = None
        if hidden is None:  # outside of `except`, where the traceback would still hold the tensors
            return self._run_halves(step, context, edges)
        self.usage.tokens_computed += self._path.tokens(step)
        if len(step.edge_ids):
            targets = torch.from_numpy(step.edge_tokens.astype(np.int64)).to(hidden.device)
            edges.store(step.edge_ids, *self._head.score(hidden, targets))
        return None

    def _run_halves(self, step: Step, context: Ids, edges: _EdgeScores) -> str | None:
        memory.release()
        if len(step.families) < 2:
            return (
                f"out of memory on one group of sequences with {len(step.tokens)} tokens; "
                "use a smaller --batch-tokens or --dtype, or a larger device"
            )
        _log.warning("out of memory on %d tokens: splitting the batch", len(step.tokens))
        errors = [self._run(half, context, edges) for half in step.halves()]
        return next((error for error in errors if error), None)

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
    if not _full_attention(config):
        return paths
    paths.insert(0, lambda: ExpandedPath(model, native_attention))
    if getattr(model, "_supports_attention_backend", False) and not _length_dependent_rope(config):
        paths.insert(0, lambda: TreePath(model))
    return paths


def _full_attention(config: Any) -> bool:
    """Whether every layer keeps the keys and values of all tokens."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return kinds == {"full_attention"} and not hasattr(config, "attn_layer_indices")


def _length_dependent_rope(config: Any) -> bool:
    """Whether rotary frequencies change with the length of the input (then packing changes them)."""
    rope = getattr(config, "rope_parameters", None) or {}
    return rope.get("rope_type") in {"dynamic", "longrope"}


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

    def store(self, edges: Ids, logprobs: torch.Tensor, greedy: torch.Tensor) -> None:
        self._logprobs[edges] = logprobs.double().cpu().numpy()
        self._greedy[edges] = greedy.cpu().numpy()

    def response(self, request: EncodedRequest, sequences: tuple[Ids, ...]) -> ScoreResponse:
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
