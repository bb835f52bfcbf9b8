"""What the openai backend believes of a server, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from fake_server import FakeServer, Fault, serving
from helpers import cli, samples

from evalkit.backends.mock import WordTokenizer
from evalkit.backends.openai import backend as backend_module
from evalkit.backends.openai.address import find_address
from evalkit.backends.openai.backend import OpenAiBackend
from evalkit.backends.openai.bridge import LoopThread
from evalkit.backends.openai.client import Client, Patience
from evalkit.backends.openai.server import UNKNOWN_LENGTH
from evalkit.backends.openai.tokenizer import find_tokenizer
from evalkit.errors import UntrustedResultError, UsageError
from evalkit.testing import check_backend
from evalkit.tokens import EncodedPrompt, EncodedRequest
from evalkit.types import Failure, GenerateResponse, Message, Sampling, ScoreResponse

QUICK = Patience(timeout_s=20, first_wait_s=0.01, longest_wait_s=0.05, silent_s=0.5)
ECHO_ONLY = {"by_ids": False, "bias": False}
TEXT_ONLY = {"kind": "llama", "takes_ids": False, "names_ids": False, "by_ids": False}


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "Patience", partial(Patience, first_wait_s=0.01))


@contextmanager
def connected(faults: Any = None, **abilities: Any) -> Iterator[tuple[OpenAiBackend, FakeServer]]:
    with serving(faults, **abilities) as server:
        backend = OpenAiBackend.connect("fake", base_url=server.url, patience=QUICK)
        try:
            yield backend, server
        finally:
            backend.close()


def ids(text: str) -> Any:
    return np.asarray([ord(c) for c in text], np.int32)


@pytest.mark.parametrize(
    ("abilities", "path"),
    [
        ({}, "logprob_token_ids + echo"),
        (ECHO_ONLY, "echo"),
        ({"echo": "ignored"}, "logprob_token_ids"),
        ({"echo": "shifted", **TEXT_ONLY}, "logit_bias"),
        (TEXT_ONLY | {"bias": False}, "echo"),
        (TEXT_ONLY | {"adds_bos": True}, "logit_bias + echo"),
        ({"names_ids": False, **ECHO_ONLY}, "echo"),
        ({"kind": "llama.cpp", "names_ids": False, **ECHO_ONLY}, "echo"),
        ({"floor_by_ids": -20.0}, "logit_bias + echo"),
        ({"floor_by_ids": -9999.0}, "logit_bias + echo"),
        ({"ends_after": "France is"}, "logprob_token_ids + echo"),
    ],
)
def test_it_scores_by_whatever_way_is_proven(abilities: dict[str, Any], path: str) -> None:
    with connected(**abilities) as (backend, _):
        assert backend.info.details["scoring_path"] == path
        check_backend(backend)


@pytest.mark.parametrize("lie", ["ignored", "constant", "zeros", "shifted"])
def test_a_server_that_lies_about_scores_is_refused_before_the_first_sample(lie: str, tmp_path: Path) -> None:
    with serving(echo=lie, **ECHO_ONLY) as server:
        ran = run(server, tmp_path / "run", "cmmlu")
        assert ran.code == 3
        assert "must not be believed" in ran.err
        assert not (tmp_path / "run").exists()


def test_what_a_lying_server_generates_can_be_used(tmp_path: Path) -> None:
    with serving(echo="zeros", **ECHO_ONLY) as server:
        assert run(server, tmp_path / "run", "cmmlu@oc-gen").code == 0
    assert {row["error"] for row in samples(tmp_path / "run")} == {None}


@pytest.mark.parametrize(
    ("abilities", "reason"),
    [
        ({"echo": "refused", **ECHO_ONLY}, "cannot score given text"),
        ({"logprobs": False}, "gives no log-probabilities"),
        ({"tokenizer": False}, "give --tokenizer"),
        ({"completions": False}, "no completions endpoint"),
        ({"counts": False, **TEXT_ONLY}, "does not count its tokens"),
    ],
)
def test_a_server_without_scores_names_protocols_that_need_none(
    abilities: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with serving(**abilities) as server:
        ran = run(server, tmp_path / "run", "cmmlu")
        assert ran.code == 2
        assert reason in ran.err
        assert "cmmlu@oc-gen" in ran.err


def test_a_chat_server_answers_messages_and_keeps_its_thoughts_to_itself(tmp_path: Path) -> None:
    with serving(completions=False, tokenizer=False) as server:
        assert run(server, tmp_path / "run", "cmmlu@oc-gen").code == 0
        roles = {m["role"] for body in server.bodies[1:] for m in body["messages"]}
    assert "user" in roles
    rows = samples(tmp_path / "run")
    assert {row["error"] for row in rows} == {None}
    assert not any("let me think" in row["completion"] for row in rows)


def test_a_chat_server_gets_the_turns_as_they_are() -> None:
    turns = (Message("system", "Be brief."), Message("user", "Why?"))
    with connected(completions=False, tokenizer=False) as (backend, server):
        encoded = backend.tokenizer.encode([backend.tokenizer.chat(turns)])[0]
        begun = np.append(encoded, np.int32(65))  # an answer put into its mouth
        answers = dict(
            backend.generate([EncodedPrompt(encoded, 3, turns=turns), EncodedPrompt(begun, 3, turns=turns)])
        )
        sent = server.bodies[-1]["messages"]
    assert sent == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    assert isinstance(answers[0], GenerateResponse)
    assert isinstance(answers[1], Failure)


def test_a_tokenizer_of_another_model_is_refused() -> None:
    with serving() as server:
        bridge = LoopThread()
        client = Client(find_address(server.url), 4, QUICK)
        with pytest.raises(UsageError, match="is not that of the model 'fake'"):
            find_tokenizer(bridge, client, "fake", WordTokenizer(), "words")  # type: ignore[arg-type]
        bridge.stop(client.close)


def test_a_local_tokenizer_is_measured_by_the_server_where_that_offers_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backend_module, "_local_tokenizer", lambda source, **options: tiny.tokenizer())
    with serving(tokenizer=False) as server, pytest.raises(UsageError, match="not that of the served model"):
        OpenAiBackend.connect("fake", base_url=server.url, tokenizer="tiny")


def test_stop_texts_beyond_those_a_server_takes_are_cut_here() -> None:
    with connected(**TEXT_ONLY) as (backend, server):
        prompt = EncodedPrompt(ids("Once upon"), 40)
        ((_, whole),) = backend.generate([prompt])
        assert isinstance(whole, GenerateResponse)
        text = whole.completions[0].text
        stops = ("##1", "##2", "##3", "##4", text[5:7])
        ((_, cut),) = backend.generate([EncodedPrompt(ids("Once upon"), 40, stop=stops)])
        assert server.bodies[-1]["stop"] == ["##1", "##2", "##3", "##4"]
    assert isinstance(cut, GenerateResponse)
    assert cut.completions[0].text == text[: text.find(text[5:7])]
    assert cut.completions[0].finish_reason == "stop"


def test_seeds_differ_by_completion() -> None:
    with connected() as (backend, server):
        list(backend.generate([EncodedPrompt(ids("abc"), 4, sampling=Sampling(n=3), seed=7)]))
        assert [body["seed"] for body in server.bodies[-3:]] == [7, 8, 9]


@pytest.mark.parametrize("prompt", [
    EncodedPrompt(ids("abc"), 4, min_new_tokens=2),
    EncodedPrompt(ids("abc"), 4, sampling=Sampling(repetition_penalty=1.1)),
])  # fmt: skip
def test_what_a_server_cannot_keep_to_is_refused(prompt: EncodedPrompt) -> None:
    with (
        connected(kind="somebody", tokenizer=False) as (backend, _),
        pytest.raises(UsageError, match="cannot be told"),
    ):
        backend.generate([prompt])
    with connected() as (backend, server):
        list(backend.generate([prompt]))
        sent = server.bodies[-1]
        assert (sent["min_tokens"], sent["repetition_penalty"]) in ((2, 1.0), (0, 1.1))


def test_a_prompt_that_does_not_fit_is_not_asked_again() -> None:
    with connected(max_length=None) as (backend, server):
        assert backend.info.max_length == UNKNOWN_LENGTH
        server.can = type(server.can)(max_length=50)
        before = server.paths["/v1/completions"]
        request = EncodedRequest(ids("x" * 60), (ids("A"),), (60,))
        ((_, answer),) = backend.score([request])
        assert server.paths["/v1/completions"] == before + 1
    assert isinstance(answer, Failure)
    assert "--max-length" in answer.error


@pytest.mark.parametrize("fault", [Fault("status", 503), Fault("status", 429), Fault("drop")])
def test_trouble_during_the_probe_says_nothing_of_the_server(fault: Fault) -> None:
    with (
        pytest.raises(UntrustedResultError, match=r"did not answer the probe|went away"),
        connected(lambda _, path: fault if path == "/v1/completions" else None),
    ):
        pass


@pytest.mark.parametrize("bad", range(1, 9))
def test_passing_trouble_during_the_probe_changes_nothing(bad: int) -> None:
    numbers = iter(range(1000))

    def faults(_: int, path: str) -> Fault | None:
        return Fault("status", 503) if "completions" in path and next(numbers) == bad else None

    with connected(faults) as (backend, _):
        assert backend.info.details["scoring_path"] == "logprob_token_ids + echo"
        assert backend.info.details["reference"] == "the other way"


def test_a_server_that_always_fails_is_no_chat_server() -> None:
    with (
        pytest.raises(UntrustedResultError, match="did not answer the probe"),
        connected(lambda _, path: Fault("status", 500) if path == "/v1/completions" else None),
    ):
        pass


def test_a_prompt_cut_to_the_window_is_answered() -> None:
    with connected(max_length=64) as (backend, _):
        request = EncodedRequest(ids("x" * 200), (ids("A"), ids("BC")), (200, 200))
        cut = request.kept_right(backend.info.max_length)
        assert cut.n_inputs == backend.info.max_length
        ((_, answer),) = backend.score([cut])
        assert isinstance(answer, ScoreResponse)
        assert backend.score_reference(cut).scores[1].logprob == pytest.approx(answer.scores[1].logprob)


def test_a_window_in_tokens_says_nothing_of_bytes() -> None:
    with connected(completions=False, tokenizer=False, max_length=64) as (backend, _):
        assert backend.info.max_length == UNKNOWN_LENGTH


def test_a_tokenizer_that_loses_text_is_refused() -> None:
    with (
        pytest.raises(UntrustedResultError, match="give the model's own with --tokenizer"),
        connected(lossy=True),
    ):
        pass


def test_a_chat_template_that_fails_is_told_from_none() -> None:
    with connected() as (backend, _):
        assert not backend.tokenizer.has_chat_template
    with connected(template_error="an error occurred while applying chat template: line 3") as (backend, _):
        assert backend.tokenizer.has_chat_template
        with pytest.raises(UsageError, match=r"fails: .*line 3"):
            backend.tokenizer.chat([Message("user", "a")])


def test_a_server_that_stops_counting_is_not_believed() -> None:
    with connected(**TEXT_ONLY) as (backend, server):
        server.can = replace(server.can, counts=False)
        ((_, answer),) = backend.score([EncodedRequest(ids("abc"), (ids("A"),), (3,))])
    assert isinstance(answer, Failure)


def test_an_end_mark_that_is_not_echoed_shifts_nothing() -> None:
    request = EncodedRequest(ids("The capital"), (ids(" is"), ids(" of")), (11, 11))
    found = []
    for ends_after in ("", "capital is"):
        with connected(ends_after=ends_after, **ECHO_ONLY) as (backend, _):
            ((_, answer),) = backend.score([request])
            found.append(answer)
    assert isinstance(found[0], ScoreResponse)
    assert found[0] == found[1]


def generated(prompt: EncodedPrompt, **abilities: Any) -> tuple[Any, dict[str, Any]]:
    with connected(**abilities) as (backend, server):
        ((_, answer),) = backend.generate([prompt])
        assert isinstance(answer, GenerateResponse)
        return answer.completions[0], server.bodies[-1]


def test_the_fewest_tokens_asked_for_hold_no_stop() -> None:
    prompt = EncodedPrompt(ids("abc"), 8, stop=("##", "++"), min_new_tokens=4)
    completion, _ = generated(prompt, prefix="a##b++c")
    assert (completion.text, completion.finish_reason) == ("a##b", "stop")


def test_stops_of_one_token_are_sent_as_tokens() -> None:
    completion, sent = generated(EncodedPrompt(ids("abc"), 8, stop=("#", "++")), prefix="ab#c")
    assert sent["stop_token_ids"] == [ord("#")]
    assert (completion.text, completion.finish_reason) == ("ab", "stop")


def test_reasoning_begun_by_the_prompt_and_cut_off_is_no_answer() -> None:
    prompt = EncodedPrompt(ids("Why?<think>\n"), 6, reasoning=("<think>", "</think>"))
    completion, _ = generated(prompt, prefix="as it is")
    assert (completion.text, completion.reasoning) == ("", "as it ")


def test_a_chat_answer_cut_off_without_tags_is_reasoning() -> None:
    tags = ("<think>", "</think>")
    chat: dict[str, Any] = {"completions": False, "tokenizer": False, "thinks_aloud": True}
    completion, sent = generated(EncodedPrompt(ids("Why?"), 6, reasoning=tags), prefix="as it is", **chat)
    assert (completion.text, completion.reasoning) == ("", "as it ")
    assert (sent["top_k"], sent["repetition_penalty"]) == (0, 1.0)
    completion, _ = generated(EncodedPrompt(ids("Why?"), 20, reasoning=tags), prefix="as</think>it", **chat)
    assert completion.reasoning == "as"


def test_a_distrusted_server_has_no_reference() -> None:
    with connected(echo="zeros", **ECHO_ONLY) as (backend, _):
        request = EncodedRequest(ids("abc"), (ids("A"),), (3,))
        with pytest.raises(UntrustedResultError):
            backend.score_reference(request)
        with pytest.raises(UntrustedResultError):
            backend.score([request])


def run(server: FakeServer, output: Path, tasks: str, *more: str) -> Any:
    return cli(
        "run", "--backend", "openai", "--base-url", server.url, "--model", "fake", "--tasks", tasks,
        "--data", "sample", "--output", output, "--quiet", *more,
    )  # fmt: skip
