"""Servers in trouble: no sample is lost, counted twice or scored wrong because of it."""

from __future__ import annotations

import gc
import itertools
import math
import shlex
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from fake_server import KEY, FakeServer, Fault, Faults, serving
from helpers import Ran, cli, journal, mock_run, samples

from evalkit.backends.openai import backend as backend_module
from evalkit.backends.openai import bridge as bridge_module
from evalkit.backends.openai.backend import OpenAiBackend
from evalkit.backends.openai.client import Patience
from evalkit.errors import ServerLost, UsageError
from evalkit.tokens import EncodedPrompt, EncodedRequest
from evalkit.types import Failure, GenerateResponse, ScoreResponse

QUICK = Patience(timeout_s=20, first_wait_s=0.01, longest_wait_s=0.05, silent_s=0.5)


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """For runs by the command line, which has no option for it."""
    monkeypatch.setattr(backend_module, "Patience", partial(Patience, first_wait_s=0.01, silent_s=0.5))


CONTENT = ("subset", "sample_id", "prediction", "correct", "choice_logprobs", "error")


def content(output: Path) -> list[tuple[Any, ...]]:
    return [tuple(map(str, (row[name] for name in CONTENT))) for row in samples(output)]


def every(n: int, fault: Fault) -> Faults:
    """From the first completion on, every n-th request goes wrong."""
    numbers = itertools.count(1)
    return lambda _, path: fault if "completions" in path and next(numbers) % n == 0 else None


def openai_run(server: FakeServer, output: Path, patience: Patience = QUICK, **options: Any) -> Any:
    backend = OpenAiBackend.connect("fake", base_url=server.url, patience=patience)
    try:
        return mock_run(output, backend=backend, **options), backend._client.retries  # type: ignore[arg-type]
    finally:
        backend.close()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    output = tmp_path_factory.mktemp("calm") / "run"
    with serving() as server:
        openai_run(server, output)
    return content(output)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("drop"),
        Fault("cut"),
        Fault("garbage"),
        Fault("nonsense"),
        Fault("status", 500),
        Fault("status", 503),
        Fault("status", 429, ("retry-after: 0.1",)),
        Fault("slow", seconds=0.5),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
def test_trouble_changes_no_sample(fault: Fault, tmp_path: Path, expected: list[tuple[Any, ...]]) -> None:
    patience = Patience(timeout_s=0.4, first_wait_s=0.01, longest_wait_s=0.05) if fault.seconds else QUICK
    with serving(every(5, fault)) as server:
        results, retries = openai_run(server, tmp_path / "run", patience)
    (task,) = results["tasks"].values()
    assert task["counters"]["errors"] == 0
    assert retries > 0
    assert content(tmp_path / "run") == expected


def test_what_fails_for_good_is_an_error_and_nothing_else(tmp_path: Path) -> None:
    with serving() as server:
        backend = OpenAiBackend.connect("fake", base_url=server.url, patience=QUICK)
        server.faults = lambda number, path: Fault("status", 500)
        requests = [EncodedRequest(ids("abc"), (ids("A"),), (3,))] * 3
        answers = dict(backend.score(requests))
        assert {type(answer) for answer in answers.values()} == {Failure}
        assert "in 6 attempts" in str(answers[0])
        server.faults = every(2, Fault("status", 400))
        kinds = [type(answer) for _, answer in backend.score(requests * 2)]
        assert kinds.count(Failure) == kinds.count(ScoreResponse) == 3
        backend.close()


@pytest.mark.parametrize(
    "lie",
    [Fault("value", value=value) for value in (math.nan, 0.5, -9999.0, None)] + [Fault("missing")],
    ids=str,
)
def test_a_lie_after_the_probe_is_never_a_score(lie: Fault) -> None:
    requests = [EncodedRequest(ids("abc"), (ids("A"), ids("BC")), (3, 3))]
    for by_ids in (True, False):
        with serving(by_ids=by_ids, bias=by_ids) as server:
            backend = OpenAiBackend.connect("fake", base_url=server.url, patience=QUICK)
            (calm,) = backend.score(requests)
            server.faults = every(2, lie)
            assert list(backend.score(requests)) == [calm]
            server.faults = lambda number, path: lie
            ((_, answer),) = backend.score(requests)
            assert isinstance(answer, Failure)
            backend.close()


def test_a_gateway_without_a_server_behind_it_ends_the_run() -> None:
    with serving() as server:
        backend = OpenAiBackend.connect("fake", base_url=server.url, patience=QUICK)
        server.faults = lambda number, path: Fault("status", 502)
        with pytest.raises(ServerLost, match="20 questions in a row"):
            list(backend.score([EncodedRequest(ids("abc"), (ids("A"),), (3,))] * 100))
        backend.close()


def test_a_used_up_quota_ends_the_run_at_once() -> None:
    with serving() as server:
        backend = OpenAiBackend.connect("fake", base_url=server.url, patience=QUICK)
        server.faults = lambda number, path: Fault("status", 429, code="insufficient_quota")
        before = server.paths.total()
        with pytest.raises(ServerLost, match="quota"):
            list(backend.score([EncodedRequest(ids("abc"), (ids("A"),), (3,))]))
        assert server.paths.total() == before + 1
        backend.close()


def test_a_loop_that_does_not_end_in_time_is_not_waited_for_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_module, "_CANCEL_S", 0.05)
    bridge = bridge_module.LoopThread()

    async def last() -> None:
        bridge.loop.call_soon(time.sleep, 0.5)

    bridge.stop(last)
    began = time.monotonic()
    bridge.stop(last)
    assert time.monotonic() - began < 0.4


def test_an_overloaded_server_is_left_alone_for_as_long_as_it_says() -> None:
    with serving() as server:
        backend = OpenAiBackend.connect("fake", base_url=server.url, patience=QUICK)
        numbers = itertools.count()
        server.faults = lambda _, path: (
            Fault("status", 429, ("retry-after: 1",)) if next(numbers) == 0 else None
        )
        began, allowed = time.monotonic(), backend._client.limit.allowed
        ((_, answer),) = backend.score([EncodedRequest(ids("abc"), (ids("A"),), (3,))])
        assert isinstance(answer, ScoreResponse)
        assert time.monotonic() - began >= 1
        assert backend._client.limit.allowed < allowed
        backend.close()


def dying(after: int) -> tuple[Faults, Callable[[FakeServer], None]]:
    """Kills the server at its n-th completion."""
    servers: list[FakeServer] = []
    numbers = itertools.count()

    def fault(_: int, path: str) -> Fault | None:
        if "completions" in path and next(numbers) == after:
            servers[0]._ended.set()
            return Fault("drop")
        return None

    return fault, servers.append


def test_a_server_that_dies_ends_the_run_which_resumes(
    tmp_path: Path, expected: list[tuple[Any, ...]]
) -> None:
    faults, know = dying(after=80)
    with serving(faults) as server:
        know(server)
        began = time.monotonic()
        stopped = command(server, tmp_path / "run")
        assert time.monotonic() - began < 10
        assert stopped.code == 3
        assert f"the server at {server.url} went away" in stopped.err
        scored = journal(tmp_path / "run").read_bytes().count(b"\n")
        assert 0 < scored < len(expected)
        server.start()
        program, *arguments = shlex.split(stopped.err.strip().rpartition("continue with: ")[2])
        assert program == "evalkit"
        assert cli(*arguments).code == 0
    assert content(tmp_path / "run") == expected


def test_a_server_that_comes_back_in_time_ends_nothing(
    tmp_path: Path, expected: list[tuple[Any, ...]]
) -> None:
    faults, know = dying(after=80)
    with serving(faults) as server:
        know(server)
        backend = OpenAiBackend.connect(
            "fake", base_url=server.url, patience=Patience(first_wait_s=0.01, silent_s=20)
        )
        thread = restarting(server)
        mock_run(tmp_path / "run", backend=backend)  # type: ignore[arg-type]
        thread.join(30)
        backend.close()
    assert content(tmp_path / "run") == expected


def restarting(server: FakeServer) -> Any:
    import threading

    def restart(first: threading.Thread) -> None:
        first.join(30)
        time.sleep(0.3)
        server.start()

    thread = threading.Thread(target=restart, args=(server._thread,))
    thread.start()
    return thread


def test_a_dead_server_is_found_at_once(tmp_path: Path) -> None:
    with serving() as server:
        pass
    began = time.monotonic()
    ran = command(server, tmp_path / "run")
    assert ran.code == 2
    assert f"cannot connect to {server.url}" in ran.err
    assert time.monotonic() - began < 8


def test_a_wrong_model_is_told_what_there_is(tmp_path: Path) -> None:
    with serving(model="fake-7b-chat") as server:
        ran = command(server, tmp_path / "run")
    assert ran.code == 2
    assert "serves no model 'fake'; it serves: fake-7b-chat" in ran.err


def test_a_wrong_path_is_no_server(tmp_path: Path) -> None:
    with serving() as server:
        with pytest.raises(UsageError, match="base URLs usually end in /v1"):
            OpenAiBackend.connect("fake", base_url=server.url.removesuffix("/v1"))
        with pytest.raises(UsageError, match="give it like"):
            OpenAiBackend.connect("fake", base_url="localhost:8000")


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(UsageError, match="max_concurrency and timeout_s"):
        OpenAiBackend.connect("fake", base_url="http://localhost:1/v1", engine_args={"workers": "3"})


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "EVALKIT_API_KEY"])
def test_the_key_comes_from_the_environment_and_shows_nowhere(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(every(5, Fault("status", 500)), key=KEY) as server:
        monkeypatch.setenv(variable, "sk-some-other-key")
        refused = command(server, tmp_path / "none")
        assert refused.code == 2
        assert "does not accept the key" in refused.err
        assert "sk-some-other-key" not in refused.err
        monkeypatch.setenv(variable, KEY)
        address = server.url.replace("127.0.0.1", "user:pass-word@127.0.0.1") + "?token=query-secret"
        ran = cli("-v", *arguments(address, tmp_path / "run"))
    assert ran.code == 0
    written = b"".join(p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file())
    for secret in (KEY, "pass-word", "query-secret"):
        assert secret not in ran.err + ran.out
        assert secret.encode() not in written
    assert server.url.encode() in written


def test_a_key_that_expires_ends_the_run(tmp_path: Path) -> None:
    with serving() as server:
        backend = OpenAiBackend.connect("fake", base_url=server.url, patience=QUICK)
        server.can = type(server.can)(key="another")
        with pytest.raises(ServerLost, match="does not accept the key any more"):
            list(backend.score([EncodedRequest(ids("abc"), (ids("A"),), (3,))]))
        backend.close()


def test_closing_cancels_what_is_under_way() -> None:
    with serving(delay_s=0.02) as server:
        backend = OpenAiBackend.connect("fake", base_url=server.url, patience=QUICK)
        answers = backend.generate([EncodedPrompt(ids(f"prompt {n}"), 4) for n in range(2000)])
        list(itertools.islice(answers, 5))
        answers.close()  # type: ignore[attr-defined]
        time.sleep(0.1)
        sent = server.paths.total()
        time.sleep(0.2)
        assert server.paths.total() == sent < 500
        backend.close()


def test_a_thousand_requests_at_a_time_need_no_more_memory() -> None:
    n, process = 2000, psutil.Process()
    with serving(delay_s=1.5, completions=False, tokenizer=False) as server:
        backend = OpenAiBackend.connect(
            "fake", base_url=server.url, engine_args={"max_concurrency": "1000", "timeout_s": "200"}
        )
        backend._client.limit.allowed = 1000.0  # without the time it takes to get there
        server.crowd = 900
        prompts = [EncodedPrompt(ids(f"prompt {i} " * 20), 4) for i in range(n)]
        seen: dict[int, object] = {}
        full_bytes = 0
        for i, answer in backend.generate(prompts):
            assert i not in seen
            seen[i] = type(answer)
            if len(seen) == 1000:
                gc.collect()
                full_bytes = process.memory_info().rss
        grown = process.memory_info().rss - full_bytes
        backend.close()
    assert sorted(seen) == list(range(n))
    assert set(seen.values()) == {GenerateResponse}
    assert server.most_at_once >= server.crowd
    assert grown < 50e6, f"{grown / 1e6:.0f} MB more for the last thousand"


def ids(text: str) -> Any:
    return np.asarray([ord(c) for c in text], np.int32)


def arguments(url: str, output: Path) -> list[str | Path]:
    return [
        "run", "--backend", "openai", "--base-url", url, "--model", "fake", "--tasks", "cmmlu",
        "--data", "sample", "--output", output, "--quiet",
    ]  # fmt: skip


def command(server: FakeServer, output: Path) -> Ran:
    return cli(*arguments(server.url, output))
