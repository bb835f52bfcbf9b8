"""The backend for servers that speak the OpenAI protocol: vLLM, llama.cpp, SGLang, hosted models."""

from __future__ import annotations

import json
import weakref
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from typing import TypeVar

from evalkit import demo_models
from evalkit.backends.base import Capabilities, ModelInfo, Usage
from evalkit.backends.identity import fingerprint
from evalkit.backends.openai.address import find_address
from evalkit.backends.openai.bridge import LoopThread
from evalkit.backends.openai.client import Client, Patience
from evalkit.backends.openai.completions import Completions, Habits
from evalkit.backends.openai.generation import Generator
from evalkit.backends.openai.limit import AdaptiveLimit
from evalkit.backends.openai.probe import Findings, Probe
from evalkit.backends.openai.scoring import Scorer
from evalkit.backends.openai.server import UNKNOWN_LENGTH, Server, meet
from evalkit.backends.openai.tokenizer import PROBE_TEXT, ServerTokenizer, Utf8Tokenizer, find_tokenizer
from evalkit.backends.tokenizer import HfTokenizer, load_tokenizer
from evalkit.errors import UntrustedResultError, UsageError
from evalkit.tokens import EncodedPrompt, EncodedRequest, Tokenizer
from evalkit.types import Failure, Response, ScoreResponse, TokenStats

_MAX_CONCURRENCY = 64
_ONE_AT_A_TIME = ("llama-cpp-python",)
"""Servers that remember only the last prompt: requests of several samples mixed would compute each anew."""
_MOST_CONCURRENCY = 1000
"""Connections the client library opens at most."""

_NO_TOKEN_STATS = "a server keeps the moments of its predictions to itself: use --backend hf"

T = TypeVar("T")


class OpenAiBackend:
    """Answers requests by asking a server, many at a time; see `probe` for what it is believed."""

    def __init__(
        self,
        bridge: LoopThread,
        client: Client,
        server: Server,
        tokenizer: HfTokenizer | ServerTokenizer | None,
        source: str,
    ) -> None:
        """Probe the server; `connect` is the usual way here. `source` says where the tokenizer is from."""
        self.usage = Usage()
        self._bridge, self._client = bridge, client
        self._tokenizer: HfTokenizer | ServerTokenizer | Utf8Tokenizer = tokenizer or Utf8Tokenizer()
        completions, findings = None, Findings(False, no_scores="no tokenizer is known: give --tokenizer")
        if tokenizer is not None:
            completions = Completions(client, server.model, tokenizer, self.usage, Habits())
            findings = Probe(bridge, completions, tokenizer).findings()
        if not findings.completions:
            completions = None
            self._tokenizer = Utf8Tokenizer()
        self._distrust = findings.distrust
        believed = findings.no_scores is None and findings.distrust is None
        self._scorer = Scorer(completions, findings.ways) if completions and believed else None
        self._generator = Generator(
            client,
            server.model,
            server.kind,
            self._tokenizer,
            completions,
            self.usage,
            with_logprobs=believed,
        )
        self.capabilities = Capabilities(
            no_scores=findings.no_scores,
            no_token_stats=_NO_TOKEN_STATS,
            no_completions=None if completions else bridge.run(self._generator.greet()),
            repeatable=False,
        )
        self._info = _info(server, client, self._tokenizer, source, findings)
        weakref.finalize(self, _shut, bridge, client)

    @classmethod
    def connect(
        cls,
        model: str,
        *,
        base_url: str | None = None,
        tokenizer: str | None = None,
        trust_remote_code: bool = False,
        offline: bool = False,
        engine_args: Mapping[str, str] | None = None,
        patience: Patience | None = None,
    ) -> OpenAiBackend:
        """Find the server, check that it serves the model, and find out what it can do.

        Args:
            model: the name the server knows the model by.
            base_url: such as `http://localhost:8000/v1`; None takes it from OPENAI_BASE_URL.
            tokenizer: folder or hub id of the model's tokenizer, where the server does not tokenise.
            trust_remote_code: whether the tokenizer's own Python code may run.
            offline: whether to stay away from the model hub.
            engine_args: `max_concurrency` (requests at a time) and `timeout_s` (seconds per request).
            patience: how often and how long to ask a server in trouble.

        Raises:
            UsageError: no such server or model, a wrong key, a wrong tokenizer, an unknown setting.
            UntrustedResultError: the server's answers make no sense.
        """
        address = find_address(base_url)
        at_once, timeout_s = _settings(engine_args or {})
        patience = patience or Patience(timeout_s=timeout_s)
        bridge = LoopThread()
        client = Client(address, at_once, patience)
        try:
            server = meet(bridge, client, model)
            if server.kind in _ONE_AT_A_TIME and "max_concurrency" not in (engine_args or {}):
                client.limit = AdaptiveLimit(1)
            local = _local_tokenizer(tokenizer, trust_remote_code=trust_remote_code, offline=offline)
            found, source = find_tokenizer(bridge, client, model, local, tokenizer)
            return cls(bridge, client, server, found, source)
        except BaseException:
            _shut(bridge, client)
            raise

    @property
    def tokenizer(self) -> Tokenizer:
        """The served model's tokenizer, or bytes where the server keeps it to itself."""
        return self._tokenizer

    @property
    def info(self) -> ModelInfo:
        """Identity of the served model, and what was found out about the server."""
        return self._info

    def score(
        self, requests: Sequence[EncodedRequest], done: Collection[int] = ()
    ) -> Iterator[tuple[int, Response]]:
        """Ask for scores in order, many at a time.

        Raises:
            UntrustedResultError: the probe has shown that the server's scores are not true.
            ServerLost: the server went away.
        """
        if self._distrust:
            raise UntrustedResultError(f"{self._distrust}; protocols that generate text can be run")
        scorer = self._scorer
        if scorer is None:
            raise UsageError(f"the server cannot score: {self.capabilities.no_scores}")
        return self._answers(scorer.score, requests, done)

    def token_stats(
        self, requests: Sequence[EncodedRequest], done: Collection[int] = ()
    ) -> Iterator[tuple[int, tuple[TokenStats, ...] | Failure]]:
        """Refuse; raises UsageError."""
        raise UsageError(_NO_TOKEN_STATS)

    def generate(
        self, requests: Sequence[EncodedPrompt], done: Collection[int] = ()
    ) -> Iterator[tuple[int, Response]]:
        """Ask for completions in order, many at a time.

        Raises:
            UsageError: a prompt comes with a setting the server does not know.
            ServerLost: the server went away.
        """
        self._generator.prepare([r for i, r in enumerate(requests) if i not in done])
        return self._answers(self._generator.generate, requests, done)

    def score_reference(self, request: EncodedRequest) -> ScoreResponse:
        """Score by the other proven way, or the same request alone.

        Raises:
            UntrustedResultError: the server does not answer.
        """
        if self._scorer is None:
            raise UntrustedResultError(
                f"the server cannot score: {self._distrust or self.capabilities.no_scores}"
            )
        response = self._bridge.run(self._scorer.reference(request))
        if not isinstance(response, ScoreResponse):
            raise UntrustedResultError(f"the server does not answer a single request: {response}")
        return response

    def downgrade(self) -> None:
        """There is no simpler path."""
        return

    def close(self) -> None:
        """Close all connections."""
        _shut(self._bridge, self._client)

    def _answers(
        self, answer: Callable[[T], Awaitable[Response]], requests: Sequence[T], done: Collection[int]
    ) -> Iterator[tuple[int, Response]]:
        async def one(i: int) -> Response:
            return await answer(requests[i])

        todo = (i for i in range(len(requests)) if i not in done)
        return self._bridge.each(one, todo, self._client.limit.maximum)


def _settings(engine_args: Mapping[str, str]) -> tuple[int, float]:
    known = {"max_concurrency": str(_MAX_CONCURRENCY), "timeout_s": str(Patience().timeout_s)}
    if unknown := sorted(set(engine_args) - set(known)):
        raise UsageError(f"--engine-arg {unknown[0]}: the openai backend knows {' and '.join(known)}")
    values = {**known, **engine_args}
    try:
        at_once, timeout_s = int(values["max_concurrency"]), float(values["timeout_s"])
    except ValueError as error:
        raise UsageError(f"--engine-arg: {error}; give numbers") from None
    if not 1 <= at_once <= _MOST_CONCURRENCY:
        raise UsageError(f"--engine-arg max_concurrency={at_once}: give 1 to {_MOST_CONCURRENCY}")
    if not timeout_s > 0:
        raise UsageError(f"--engine-arg timeout_s={timeout_s:g}: give a positive number of seconds")
    return at_once, timeout_s


def _local_tokenizer(source: str | None, *, trust_remote_code: bool, offline: bool) -> HfTokenizer | None:
    if source is None:
        return None
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise UsageError("--tokenizer needs transformers: pip install 'evalkit[hf]'") from error
    folder = str(demo_models.ensure(source)) if source in demo_models.NAMES else source
    return load_tokenizer(folder, trust_remote_code=trust_remote_code, local_files_only=offline)


def _info(server: Server, client: Client, tokenizer: Tokenizer, source: str, findings: Findings) -> ModelInfo:
    ids = [int(i) for i in tokenizer.encode([PROBE_TEXT])[0]]
    details = {
        "base_url": client.address.url,
        "server": server.kind,
        "server_version": server.version,
        "tokenizer": source if findings.completions else "none: the server takes messages, ids are bytes",
        "probe": findings.details | {k: v for k in ("no_scores", "distrust") if (v := getattr(findings, k))},
        "scoring_path": findings.ways.names,
    }
    if findings.ways.names != "none":
        details["reference"] = "the other way" if findings.ways.are_two else "the same way, asked alone"
    return ModelInfo(
        name=server.model,
        backend="openai",
        dtype="server",
        fingerprint=fingerprint(server.model, server.kind, str(server.version), json.dumps(ids)),
        # Where ids are bytes, a window in tokens says nothing of them.
        max_length=server.max_length if findings.completions else UNKNOWN_LENGTH,
        details=details,
    )


def _shut(bridge: LoopThread, client: Client) -> None:
    bridge.stop(client.close)
