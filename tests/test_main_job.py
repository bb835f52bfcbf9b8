"""The main job for real: the demo models on official data."""

import json
import subprocess
import sys
from unittest import mock

import pyarrow.parquet as pq
import pytest

from evalkit.backends.hf import generation
from evalkit.backends.hf.backend import HfBackend
from evalkit.data.source import DataSource, open_source
from evalkit.prompts import Encoder, Prompt, prepare, render
from evalkit.spec import resolve
from evalkit.testing import check_backend
from evalkit.tokens import EncodedPrompt, encode_prompt


def prompts(spec: str, subset: str, source: DataSource, backend: HfBackend, limit: int) -> list[Prompt]:
    (resolved,) = resolve(spec)
    samples = source.load(resolved.task, resolved.split, subset)
    shots = source.shots(resolved, subset, samples)
    rendered = render(resolved, samples[:limit], shots[:limit])
    return prepare(resolved, rendered, Encoder(backend.tokenizer, backend.info.max_length))


@pytest.mark.model
@pytest.mark.data
def test_agronomy_in_float32_has_the_accuracy_lm_eval_reports(official_data, tmp_path) -> None:
    command = [sys.executable, "-m", "evalkit", "run", "--model", "demo", "--dtype", "float32", "--json"]
    command += ["--tasks", "cmmlu@lm-eval:test:5shot", "--subsets", "agronomy", "--data", str(official_data)]
    done = subprocess.run(
        [*command, "--output", "run"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    task = json.loads(done.stdout)["tasks"]["cmmlu@lm-eval:test:5shot"]
    # lm-evaluation-harness 0.4.13, hf, float32, on the same 169 questions: 42 right.
    assert task["metrics"]["acc"]["value"] == pytest.approx(42 / 169, abs=1e-9)
    assert task["counters"]["errors"] == task["counters"]["ties"] == task["counters"]["close_calls"] == 0
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
    assert manifest["model"]["details"]["scoring_path"] == "tree"
    assert manifest["equality_gate"]["max_difference"] < 1e-3


@pytest.mark.model
def test_the_mixture_of_experts_scores_like_the_dense_model_it_was_made_from(demo) -> None:
    source = open_source("sample")
    asked = [p.encoded for p in prompts("cmmlu@official:test:5shot", "astronomy", source, demo, 3)]
    expected = dict(demo.score(asked))
    mixture = HfBackend.from_name("demo-moe", dtype="float32")
    for i, response in mixture.score(asked):
        for ours, theirs in zip(response.scores, expected[i].scores, strict=True):
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-3)


@pytest.mark.model
@pytest.mark.parametrize("spec", ["mmlu@cn-mixtral", "ceval@cn-mixtral", "cmmlu@oc-ppl", "ceval@oc-ppl"])
def test_every_kind_of_request_agrees_with_plain_forwards(demo, spec) -> None:
    source = open_source("sample")
    subset = {"mmlu": "computer_security", "ceval": "computer_network", "cmmlu": "astronomy"}[
        spec.split("@")[0]
    ]
    asked = [p.encoded for p in prompts(spec, subset, source, demo, 2)]
    for i, response in demo.score(asked):
        plain = demo.score_reference(asked[i])
        for ours, theirs in zip(response.scores, plain.scores, strict=True):
            assert ours.logprob == pytest.approx(theirs.logprob, abs=5e-3)
            assert ours.n_tokens == theirs.n_tokens


@pytest.mark.model
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_demo_model_conforms(dtype) -> None:
    check_backend(HfBackend.from_name("demo", dtype=dtype))


@pytest.mark.model
def test_the_size_of_a_batch_does_not_change_a_greedy_answer(demo) -> None:
    texts = [f"Question: What is {i} + {i}?\nAnswer:" for i in range(5)]
    texts += ["Once upon a time", "def add(a, b):\n", "The capital of France is"]
    asked = [EncodedPrompt(encode_prompt(demo.tokenizer, text), 12 + i) for i, text in enumerate(texts)]
    together = dict(demo.generate(asked))
    with mock.patch.dict(generation._MOST_SLOTS, cpu=1):
        alone = dict(demo.generate(asked))
    for i in range(len(asked)):
        (a,), (b,) = together[i].completions, alone[i].completions
        assert (a.text, a.finish_reason) == (b.text, b.finish_reason)
        assert a.logprob == pytest.approx(b.logprob, abs=1e-3)


@pytest.mark.model
@pytest.mark.data
def test_generated_answers_are_kept_judged_and_judged_again(official_data, tmp_path) -> None:
    command = [sys.executable, "-m", "evalkit", "run", "--model", "demo", "--tasks", "gsm8k@cot8:test:8shot"]
    command += ["--data", str(official_data), "--limit", "3", "--output", "run", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    task = results["tasks"]["gsm8k@cot8:test:8shot"]
    assert set(task["metrics"]) == {"strict", "strict_fixed", "flexible", "invalid"}
    assert task["counters"]["errors"] == 0
    # The eight examples are computed once for all three questions.
    assert results["cost"]["tokens_computed"] < results["cost"]["tokens_logical"]
    again = [sys.executable, "-m", "evalkit", "rescore", "run", "--json"]
    judged = subprocess.run(again, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(judged.stdout)["tasks"] == results["tasks"]
    rows = pq.read_table(tmp_path / "run" / "samples.parquet").to_pylist()
    assert all(row["completion"] and row["finish_reason"] for row in rows)
