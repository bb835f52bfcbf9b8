"""Questions to a running vLLM engine, and its answers as exact scores.

Next tokens are asked for with `logprob_token_ids`, which leaves the prefix cache on. Longer continuations
are read from the prompt's own log-probabilities: vLLM computes them only for tokens that were not in its
cache, so a sequence whose cached part reaches into the continuation is asked for again without the cache.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import count
from typing import Any, TypeVar

from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import MAX_LOGPROB_TOKEN_IDS
from vllm.v1.engine.exceptions import EngineDeadError

from evalkit.backends.base import Capabilities, ModelInfo, Usage
from evalkit.backends.opening import EngineOptions
from evalkit.backends.queries import Answers, NextTokenQuery, Query, SequenceQuery, queries
from evalkit.backends.vllm.engine import Started, start
from evalkit.decoding import Collected, Draft, Growing, drafts
from evalkit.errors import ServerLost, UsageError
from evalkit.tokens import EncodedPrompt, EncodedRequest, Ids, sort_key
from evalkit.types import (
    Completion,
    ContinuationScore,
    Failure,
    FinishReason,
    Response,
    ScoreResponse,
    TokenStats,
)

_IN_FLIGHT = 512
"""Requests the engine holds at once: enough for its scheduler to choose from, few enough for memory."""

_NO_TOKEN_STATS = (
    "vLLM gives the log-probability of a token, but no moments over its vocabulary: use --backend hf"
)

Question = TypeVar("Question")

Output = Any
"""`vllm.RequestOutput`."""


class VllmBackend:
    """Answers requests with a vLLM engine in this process."""

    def __init__(self, started: Started) -> None:
        """Take over a running engine."""
        self._engine = started.engine
        self._info = started.info
        self._end_ids = started.end_ids
        self.tokenizer = started.tokenizer
        self.usage = Usage()
        # Which requests share a step depends on time, and the cache on what was asked before.
        self.capabilities = Capabilities(no_token_stats=_NO_TOKEN_STATS, repeatable=False)
        self._block = int(started.engine.vllm_config.cache_config.block_size)
        self._ids = count()

    @classmethod
    def open(cls, options: EngineOptions) -> VllmBackend:
        """Start an engine (see `evalkit.backends.vllm.engine.start`)."""
        return cls(start(options))

    @property
    def info(self) -> ModelInfo:
        """The loaded model, and how much of its input came from the prefix cache."""
        usage = self.usage
        cache = {
            "requests": usage.requests,
            "prompt_tokens": usage.tokens_asked,
            "cached_tokens": usage.tokens_cached,
            "hit_share": round(usage.tokens_cached / max(1, usage.tokens_asked), 4),
        }
        details = self._info.details | {"scoring_path": "prefix cache", "prefix_cache": cache}
        return dataclasses.replace(self._info, details=details)

    def downgrade(self) -> None:
        """There is only one path."""

    def close(self) -> None:
        """Stop the engine and give its memory back."""
        self._engine.engine_core.shutdown()

    def score(
        self, requests: Sequence[EncodedRequest], done: Collection[int] = ()
    ) -> Iterator[tuple[int, Response]]:
        """Ask one question per distinct context and put the answers together."""
        answers = Answers(requests)
        asked = (
            (query, _params(query, cached=self._may_read_cache(query)))
            for query in queries(requests, done, MAX_LOGPROB_TOKEN_IDS)
        )
        again: list[SequenceQuery] = []
        for query, output in self._run(asked, _query_ids):
            if isinstance(output, str):
                yield from answers.fail(query, output)
            elif isinstance(query, NextTokenQuery):
                yield from _next_token(query, output, answers)
            elif output.num_cached_tokens < query.start:
                yield from _sequence(query, output, answers)
            else:
                again.append(query)
        for query, output in self._run(((q, _params(q, cached=False)) for q in again), _query_ids):
            if isinstance(output, str):
                yield from answers.fail(query, output)
            else:
                yield from _sequence(query, output, answers)

    def _may_read_cache(self, query: Query) -> bool:
        """Whether a whole cached block can lie before what is scored."""
        return isinstance(query, NextTokenQuery) or query.start > self._block

    def score_reference(self, request: EncodedRequest) -> ScoreResponse:
        """One request per continuation that reads nothing from the cache."""
        asked = [SequenceQuery(request.sequence(j), start) for j, start in enumerate(request.starts)]
        scores = []
        for j, query in enumerate(asked):
            ((_, output),) = self._run([(query, _params(query, cached=False))], _query_ids)
            if isinstance(output, str):
                raise RuntimeError(output)
            logprob, is_greedy = _sum(query, output)
            scores.append(ContinuationScore(logprob, request.reported_tokens(j), is_greedy))
        return ScoreResponse(tuple(scores))

    def token_stats(
        self, requests: Sequence[EncodedRequest], done: Collection[int] = ()
    ) -> Iterator[tuple[int, tuple[TokenStats, ...] | Failure]]:
        """Refuse; raises UsageError."""
        raise UsageError(_NO_TOKEN_STATS)

    def generate(
        self, requests: Sequence[EncodedPrompt], done: Collection[int] = ()
    ) -> Iterator[tuple[int, Response]]:
        """Complete every prompt; prompts that begin alike follow each other."""
        wanted = sorted(drafts(requests, done), key=lambda d: (sort_key(d.prompt.ids), d.index, d.k))
        asked = ((draft, self._generation_params(draft)) for draft in wanted)
        collected = Collected()
        for draft, output in self._run(asked, lambda draft: draft.prompt.ids):
            completion = Failure(output) if isinstance(output, str) else self._completion(draft, output)
            yield from collected.add(draft, completion)

    def _run(
        self, asked: Iterable[tuple[Question, SamplingParams]], ids_of: Callable[[Question], Ids]
    ) -> Iterator[tuple[Question, Output | str]]:
        """Keep the engine supplied, and yield each question with its output or why there is none."""
        waiting: dict[str, Question] = {}
        questions = iter(asked)
        try:
            while True:
                while len(waiting) < _IN_FLIGHT and (entry := next(questions, None)) is not None:
                    question, params = entry
                    name = str(next(self._ids))
                    if refusal := self._submit(name, ids_of(question), params):
                        yield question, refusal
                    else:
                        waiting[name] = question
                if not waiting:
                    return
                for output in self._step():
                    if output.finished:
                        self._count(output)
                        yield waiting.pop(output.request_id), output
        finally:
            if waiting:
                self._engine.abort_request(list(waiting))

    def _submit(self, name: str, ids: Ids, params: SamplingParams) -> str | None:
        """Hand over one question; why the engine refuses it, if it does."""
        try:
            self._engine.add_request(name, {"prompt_token_ids": ids.tolist()}, params)
        except (ValueError, VLLMValidationError) as error:  # too long, or not for this model
            return f"vLLM refuses the request: {error}; --max-length makes prompts shorter"
        except EngineDeadError as error:
            raise _lost(error) from error
        return None

    def _step(self) -> list[Output]:
        try:
            return self._engine.step()  # type: ignore[no-any-return]
        except Exception as error:  # whatever ends an engine
            raise _lost(error) from error

    def _count(self, output: Output) -> None:
        prompt, cached = len(output.prompt_token_ids), output.num_cached_tokens or 0
        generated = len(output.outputs[0].token_ids)
        self.usage.requests += 1
        self.usage.tokens_asked += prompt
        self.usage.tokens_cached += cached
        self.usage.tokens_computed += prompt - cached + generated - 1
        self.usage.tokens_generated += generated

    def _generation_params(self, draft: Draft) -> SamplingParams:
        prompt, sampling = draft.prompt, draft.prompt.sampling
        drawn = (
            {}
            if sampling is None
            else {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
                "repetition_penalty": sampling.repetition_penalty,
                "seed": (prompt.seed + draft.k) % (1 << 63),
            }
        )
        return SamplingParams(
            max_tokens=prompt.max_new_tokens,
            min_tokens=prompt.min_new_tokens,
            # The engine would find them in the reasoning as well.
            stop=[] if prompt.reasoning else [text for text in prompt.stop if text],
            stop_token_ids=sorted(self._growing(draft).closing_ids),
            logprobs=0,
            **({"temperature": 0.0} | drawn),
        )

    def _growing(self, draft: Draft) -> Growing:
        return Growing(draft, self._end_ids, self.tokenizer)

    def _completion(self, draft: Draft, output: Output) -> Completion:
        """Read the tokens as every other backend does, so that text and stops are the same everywhere."""
        (generated,) = output.outputs
        tokens = zip(generated.token_ids, generated.logprobs, strict=True)
        ended: FinishReason = "eos" if generated.finish_reason == "stop" else "length"
        return self._growing(draft).replay(((t, logprobs[t].logprob) for t, logprobs in tokens), ended)


def _lost(error: Exception) -> ServerLost:
    reason = str(error).strip() or type(error).__name__
    return ServerLost(f"the vLLM engine died: {reason}; what was answered is kept")


def _query_ids(query: Query) -> Ids:
    return query.context if isinstance(query, NextTokenQuery) else query.ids


def _params(query: Query, *, cached: bool = True) -> SamplingParams:
    if isinstance(query, NextTokenQuery):
        return SamplingParams(
            temperature=0.0, max_tokens=1, logprob_token_ids=list(query.places), detokenize=False
        )
    return SamplingParams(
        temperature=0.0,
        max_tokens=1,
        prompt_logprobs=0,
        skip_reading_prefix_cache=not cached,
        # Rows of cached tokens are uninitialised memory, and decoding the ids in them may fail.
        detokenize=False,
    )


def _next_token(query: NextTokenQuery, output: Output, answers: Answers) -> Iterator[tuple[int, Response]]:
    (generated,) = output.outputs
    (logprobs,) = generated.logprobs
    for token, places in query.places.items():
        for place in places:
            is_greedy = token == generated.token_ids[0]
            yield from answers.add(place, logprobs[token].logprob, is_greedy=is_greedy)


def _sequence(query: SequenceQuery, output: Output, answers: Answers) -> Iterator[tuple[int, Response]]:
    logprob, is_greedy = _sum(query, output)
    for place in query.places:
        yield from answers.add(place, logprob, is_greedy=is_greedy)


def _sum(query: SequenceQuery, output: Output) -> tuple[float, bool]:
    """Summed log-probability from the start on, and whether every token was the likeliest."""
    scored = zip(query.ids[query.start :].tolist(), output.prompt_logprobs[query.start :], strict=True)
    entries = [logprobs[token] for token, logprobs in scored]
    return sum(entry.logprob for entry in entries), all(entry.rank == 1 for entry in entries)
