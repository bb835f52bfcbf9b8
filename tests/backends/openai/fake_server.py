"""A small server of the OpenAI protocol over a made-up model, which can fail and lie in every known way."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from fake_model import BOS, LETTERS, greedy, label, logprob, next_state, states, text_of

KEY = "sk-a-key-that-nobody-may-see"


@dataclass(frozen=True)
class Abilities:
    """What a server can do."""

    kind: str = "vllm"
    model: str = "fake"
    key: str | None = None
    completions: bool = True
    chat: bool = True
    tokenizer: bool = True
    takes_ids: bool = True
    names_ids: bool = True
    logprobs: bool = True
    by_ids: bool = True
    floor_by_ids: float | None = None
    """One number for all tokens asked for by id, except the most likely."""
    bias: bool = True
    adds_bos: bool = False
    echo: str = "true"
    """Or how it lies: ignored, constant, zeros, shifted, or refused."""
    max_length: int | None = 4096
    counts: bool = True
    """Whether it says how many tokens it read."""
    ends_after: str = ""
    """A text after which it generates an end mark, of which nothing shows."""
    lossy: bool = False
    """Whether its tokenizer forgets capital letters."""
    template_error: str = "no chat template"
    thinks_aloud: bool = False
    """Whether a chat answer comes with its reasoning in it rather than beside it."""
    prefix: str = ""
    """What it generates before it follows its model."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request."""

    kind: str
    """drop, cut, garbage, nonsense, status or slow; or a lie: missing, or a number for every token."""
    status: int = 500
    headers: tuple[str, ...] = ()
    seconds: float = 0.0
    value: float | None = None
    code: str | None = None


Faults = Callable[[int, str], Fault | None]
"""From the number of the request and its path to what goes wrong, if anything."""


@dataclass
class FakeServer:
    """Listens on a free port of the loopback device, in a thread."""

    can: Abilities = field(default_factory=Abilities)
    faults: Faults = lambda number, path: None
    delay_s: float = 0.0
    crowd: int = 0
    """So many requests must have come at a time before any is answered."""
    paths: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    most_at_once: int = 0
    _at_once: int = 0
    _port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def start(self) -> FakeServer:
        """Listen, on the same port as before if there was one."""
        self._loop = asyncio.new_event_loop()
        listening = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(listening,), daemon=True)
        self._thread.start()
        assert listening.wait(10)
        return self

    def stop(self) -> None:
        """Close the port and every connection at once, as a killed process would."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join(10)

    def _serve(self, listening: threading.Event) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._listen(listening))

    async def _listen(self, listening: threading.Event) -> None:
        self._ended = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        server = await asyncio.start_server(
            self._connection, "127.0.0.1", self._port, backlog=2048, reuse_address=True
        )
        self._port = server.sockets[0].getsockname()[1]
        listening.set()
        await self._ended.wait()
        server.close()
        for writer in self._writers:
            writer.transport.abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, _ = head[0].split()
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        path = target.partition("?")[0]
        self.paths[path] += 1
        fault = self.faults(sum(self.paths.values()), path)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            while self.most_at_once < self.crowd:
                await asyncio.sleep(0.2)
            await asyncio.sleep(fault.seconds if fault else self.delay_s)
            return await self._respond(method, path, headers, raw, fault, writer)
        finally:
            self._at_once -= 1

    async def _respond(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        raw: bytes,
        fault: Fault | None,
        writer: asyncio.StreamWriter,
    ) -> bool:
        if fault and fault.kind == "drop":
            writer.transport.abort()
            return False
        status, answer = 200, None
        if self.can.key and headers.get("authorization") != f"Bearer {self.can.key}":
            status, answer = 401, error(f"wrong key: {headers.get('authorization')}")
        elif fault and fault.kind == "status":
            status, answer = fault.status, error("out of order", fault.code)
        else:
            try:
                answer = self._answer(method, path, json.loads(raw) if raw else {})
            except NotDone as refusal:
                status, answer = refusal.status, error(str(refusal))
        if fault and fault.kind in ("value", "missing"):
            spoil(answer, fault)
        content = json.dumps(answer).encode()
        if fault and fault.kind == "garbage":
            content = content[:-7] + b"!!"
        if fault and fault.kind == "nonsense":
            content = b'{"choices": [], "tokens": "none"}'
        extra = "".join(f"{line}\r\n" for line in (fault.headers if fault else ()))
        start = f"HTTP/1.1 {status} x\r\ncontent-type: application/json\r\n{extra}"
        writer.write(f"{start}content-length: {len(content)}\r\n\r\n".encode())
        if fault and fault.kind == "cut":
            writer.write(content[: len(content) // 2])
            await writer.drain()
            return False
        writer.write(content)
        await writer.drain()
        return True

    def _answer(self, method: str, path: str, body: dict[str, Any]) -> Any:
        can = self.can
        if path == "/v1/models":
            owner = {"vllm": "vllm", "llama": "me", "llama.cpp": "llamacpp"}.get(can.kind, "somebody")
            return {"data": [{"id": can.model, "owned_by": owner, "max_model_len": can.max_length}]}
        if path == "/version" and can.kind == "vllm":
            return {"version": "0.1"}
        if can.tokenizer and can.kind == "vllm" and path == "/tokenize" and "prompt" in body:
            return {"tokens": self._read(body["prompt"], special=body["add_special_tokens"])}
        if can.tokenizer and can.kind == "vllm" and path == "/tokenize":
            raise NotDone(400, can.template_error)
        if can.tokenizer and can.kind == "vllm" and path == "/detokenize":
            text = text_of(body["tokens"])
            return {"prompt": text.lower() if can.lossy else text}
        if can.tokenizer and can.kind == "llama.cpp" and path == "/tokenize":
            return {"tokens": self._read(body.get("content", ""), special=body.get("add_special", False))}
        if can.tokenizer and can.kind == "llama.cpp" and path == "/detokenize":
            return {"content": text_of(body["tokens"])}
        if can.tokenizer and can.kind == "llama" and path == "/extras/tokenize":
            return {"tokens": self._read(body["input"], special=True)}
        if can.tokenizer and can.kind == "llama" and path == "/extras/detokenize":
            return {"text": text_of(body["tokens"])}
        if can.completions and path == "/v1/completions":
            self.bodies.append(body)
            return self._complete(body)
        if can.chat and path == "/v1/chat/completions":
            self.bodies.append(body)
            return self._chat(body)
        raise NotDone(404, f"no {path} here")

    def _read(self, prompt: Any, *, special: bool = True) -> list[int]:
        if isinstance(prompt, str):
            return [BOS] * (special and self.can.adds_bos) + [ord(c) for c in prompt]
        if not self.can.takes_ids:
            raise NotDone(422, "prompt must be a string")
        return list(prompt)

    def _complete(self, body: dict[str, Any]) -> Any:
        prompt = self._read(body["prompt"])
        if self.can.max_length and len(prompt) + body["max_tokens"] > self.can.max_length:
            raise NotDone(400, f"maximum context length is {self.can.max_length} tokens")
        if "logprobs" in body and not self.can.logprobs:
            raise NotDone(500, "logprobs is not supported")
        if body.get("echo") and self.can.echo == "refused":
            raise NotDone(400, "echo is not supported")
        new, reason, stopped_by = self._generate(prompt, body)
        choice: dict[str, Any] = {
            "text": text_of(new), "finish_reason": reason, "stop_reason": stopped_by, "index": 0,
        }  # fmt: skip
        if "logprobs" in body:
            choice["logprobs"] = self._logprobs(prompt, new, body)
        if isinstance(stopped_by, int):
            choice["text"] = text_of(new[:-1])
        elif stopped_by:
            choice["text"] = choice["text"].removesuffix(stopped_by)
        if body.get("return_token_ids") and self.can.names_ids:
            choice["token_ids"] = new
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(new)}
        return {"choices": [choice]} | ({"usage": usage} if self.can.counts else {})

    def _generate(self, prompt: list[int], body: dict[str, Any]) -> tuple[list[int], str, str | int | None]:
        new: list[int] = []
        bias = body.get("logit_bias") if self.can.bias else None
        state = states([*([body["seed"]] if body.get("temperature") else []), *prompt])[-1]
        if self.can.ends_after and text_of(prompt).endswith(self.can.ends_after):
            return new, "stop", None
        while len(new) < body["max_tokens"]:
            planned = [*self.can.prefix.encode(), 0]
            token = planned[min(len(new), len(planned) - 1)] or greedy(state)
            new.append(int(next(iter(bias))) if bias else token)
            state = next_state(state, new[-1])
            if new[-1] in body.get("stop_token_ids", ()):
                return new, "stop", new[-1]
            for stop in body.get("stop", ()):
                if stop in text_of(new)[body.get("min_tokens", 0) :]:
                    return new, "stop", stop
        return new, "length", None

    def _logprobs(self, prompt: list[int], new: list[int], body: dict[str, Any]) -> dict[str, Any]:
        whole, begin = prompt + new, len(prompt)
        if body.get("echo") and self.can.echo != "ignored":
            begin = int(self.can.kind == "llama" and self.can.adds_bos)
        at = states(whole)
        values: list[float | None] = [logprob(at[i], whole[i]) for i in range(begin, len(whole))]
        if body.get("echo"):
            values[0] = None if self.can.echo != "ignored" else values[0]
            lies = {"constant": -1.0, "zeros": 0.0}
            if self.can.echo in lies:
                values = [None] + [lies[self.can.echo]] * (len(values) - 1)
            if self.can.echo == "shifted":
                values = [None, *(logprob(at[i], whole[i - 1]) for i in range(1, len(values)))]
        named = bool(self.can.names_ids and body.get("return_tokens_as_token_ids"))
        tops = []
        for i in range(begin, len(whole)):
            tokens = {greedy(at[i]), whole[i], *(map(ord, LETTERS[: body["logprobs"]]))}
            if self.can.by_ids:
                tokens |= set(body.get("logprob_token_ids", ()))
            found = {t: logprob(at[i], t) for t in tokens}
            if self.can.floor_by_ids is not None:
                asked = set(body.get("logprob_token_ids", ())) - {greedy(at[i])}
                found |= dict.fromkeys(asked, self.can.floor_by_ids)
            tops.append({label(t, named): value for t, value in found.items()})
        return {
            "tokens": [label(t, named) for t in whole[begin:]],
            "token_logprobs": values,
            "top_logprobs": tops,
        }

    def _chat(self, body: dict[str, Any]) -> Any:
        prompt = [ord(c) for m in body["messages"] for c in m["content"]]
        new, reason, _ = self._generate(prompt, body)
        message = {"role": "assistant", "content": text_of(new)}
        if not self.can.thinks_aloud:
            message["reasoning_content"] = "let me think"
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(new)}
        return {"choices": [{"message": message, "finish_reason": reason}], "usage": usage}


class NotDone(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def error(message: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "code": code}}


def spoil(answer: Any, fault: Fault) -> None:
    """Lie about every log-probability, or leave all of them out."""
    for choice in answer.get("choices", ()):
        if logprobs := choice.get("logprobs"):
            n = len(logprobs["tokens"])
            logprobs["token_logprobs"] = [fault.value] * n if fault.kind == "value" else []
            tops = [dict.fromkeys(top, fault.value) for top in logprobs["top_logprobs"]]
            logprobs["top_logprobs"] = tops if fault.kind == "value" else [{}] * n


@contextmanager
def serving(faults: Faults | None = None, *, delay_s: float = 0.0, **abilities: Any) -> Iterator[FakeServer]:
    server = FakeServer(replace(Abilities(), **abilities), faults or (lambda number, path: None), delay_s)
    server.start()
    try:
        yield server
    finally:
        server.stop()
