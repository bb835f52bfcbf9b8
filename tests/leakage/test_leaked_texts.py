"""Loss gap, context gain, the files they read, and all of it together."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from test_item_order import Reader, file_of, records, sorted_by_topic

from evalkit.backends.mock import MockBackend
from evalkit.data.source import open_source
from evalkit.errors import DataError, UntrustedResultError, UsageError
from evalkit.leakage.texts.asking import fitted, logprobs, token_stats, whole
from evalkit.leakage.texts.context_gain import context_gain, context_gains
from evalkit.leakage.texts.examination import METHODS, examine
from evalkit.leakage.texts.loss_gap import loss_gap
from evalkit.leakage.texts.records import Text, benchmark_texts, read_texts
from evalkit.registry import get_task
from evalkit.tokens import EncodedRequest
from evalkit.types import Failure, Response

# -- texts --------------------------------------------------------------------------------------------


def test_control_files_hold_texts_or_prompts_and_answers(tmp_path: Path) -> None:
    file = tmp_path / "control.jsonl"
    file.write_text(
        '{"text": "one", "id": 7}\n\n{"prompt": "two", "answer": "2"}\n'
        '{"prompt": "def f():\\n", "answer": "    pass", "id": "x"}\n'
    )
    assert read_texts(file) == [
        Text("", "7", "one"),
        Text("", "line 3", "two\n2"),
        Text("", "x", "def f():\n    pass"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no texts"),
        ('{"text": "a"}\n{"prompt": "b"}', r':2: needs an object with "text", or'),
        ('{"text": "a"}\n["b"]', r":2: needs an object"),
        ('{"text": 3}', ":1: text is not a text"),
        ('{"text": " "}', ":1: the text is empty"),
        ('{"text": "a"}\n{', ":2: not valid JSON"),
    ],
)
def test_defects_of_control_files_are_named(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "control.jsonl"
    file.write_text(content)
    with pytest.raises(DataError, match=message):
        read_texts(file)


@pytest.mark.data
def test_benchmarks_have_texts(official_data: Path) -> None:
    source = open_source(str(official_data), offline=True)
    names = {"gsm8k": "test", "humaneval": "test", "jsquad": "validation"}
    names |= {f"kobest_{name}": "test" for name in ("boolq", "copa", "wic", "hellaswag", "sentineg")}
    for name, split in names.items():
        task = get_task(name)
        (subset,) = task.subsets
        texts = benchmark_texts(task, source.load(task, split, subset))
        assert len(texts) == task.sizes[split]
        assert all(text.text.strip() for text in texts)
    longbench = get_task("longbench")
    samples = source.load(longbench, "test", "multifieldqa_zh")
    first = benchmark_texts(longbench, samples)[0]
    assert first.id == f"multifieldqa_zh/{samples[0].id}"
    assert first.text == f"{samples[0].fields['input']}\n{samples[0].fields['answers'][0]}"


def test_multiple_choice_is_sent_to_its_own_test() -> None:
    with pytest.raises(UsageError, match=r"mmlu has no texts .* option-order test"):
        benchmark_texts(get_task("mmlu"), [])


def test_texts_longer_than_the_window_lose_their_ends() -> None:
    tokenizer = MockBackend().tokenizer
    short, cut = fitted(tokenizer, ["one two", "word " * 100], 20)
    assert short == "one two"
    assert ("word " * 100).startswith(cut)
    assert len(tokenizer.encode([cut])[0]) in (18, 19)


def test_every_token_of_a_text_is_scored() -> None:
    backend = MockBackend()
    ids = backend.tokenizer.encode(["one two, three"])[0]
    request = whole(backend.tokenizer, ids, 100)
    assert request.n_scored(0) == len(ids)
    ((stats_,),) = [token_stats(backend, [request])]
    assert len(stats_) == len(ids)
    assert stats_.logprob.sum() == pytest.approx(logprobs(backend, [request])[0])


def test_a_text_that_fails_is_no_result() -> None:
    class Broken(MockBackend):
        def score(
            self, requests: Sequence[EncodedRequest], done: Collection[int] = ()
        ) -> Iterator[tuple[int, Response]]:
            yield 0, Failure("out of memory")

    backend = Broken()
    with pytest.raises(UntrustedResultError, match="out of memory"):
        logprobs(backend, [whole(backend.tokenizer, np.arange(5, dtype=np.int32), 100)])


# -- loss gap -----------------------------------------------------------------------------------------


def test_texts_of_one_id_are_compared_with_each_other() -> None:
    generator = np.random.default_rng(0)
    target = generator.normal(2, 0.5, 40)
    rephrased = [target + generator.normal(0.1, 0.1, 40) for _ in range(2)]
    ids = [str(i) for i in range(40)]
    found = loss_gap(target.tolist(), np.concatenate(rephrased).tolist(), ids, ids * 2)
    difference = np.mean(rephrased, axis=0) - target
    assert found.paired
    assert found.gap.value == pytest.approx(difference.mean())
    assert found.p == pytest.approx(stats.ttest_1samp(difference, 0, alternative="greater").pvalue)
    assert found.gap.ci95[0] < difference.mean() < found.gap.ci95[1]
    assert found.n_reference == 40


def test_texts_without_partners_are_two_sets() -> None:
    generator = np.random.default_rng(0)
    target, reference = generator.normal(1, 0.3, 50), generator.normal(1.5, 0.3, 70)
    found = loss_gap(target.tolist(), reference.tolist(), [str(i) for i in range(50)], ["line 1"] * 70)
    assert not found.paired
    assert found.gap.value == pytest.approx(reference.mean() - target.mean())
    assert found.loss_target == pytest.approx(target.mean())
    assert found.p < 1e-6


def test_few_pairs_are_refused() -> None:
    ids = [str(i) for i in range(50)]
    with pytest.raises(UsageError, match="only 3 reference texts"):
        loss_gap([1.0] * 50, [1.0] * 3, ids, ids[:3])


# -- context gain -------------------------------------------------------------------------------------


def test_both_times_the_same_tokens_are_scored() -> None:
    texts = records(12, 5)
    reader = Reader(*(text.text for text in records(300, 6)))
    gains = context_gains(reader, texts)
    # A reader of single sentences has seen no break between two: only the first words can differ.
    assert gains.shape == (12,)
    assert np.all(np.abs(gains) < 1)
    assert len(np.unique(gains)) > 6


def test_another_text_disturbs_what_is_known_by_heart() -> None:
    texts, unseen = records(60, 7), records(60, 8)
    reader = Reader(*(text.text for text in texts), *(text.text for text in texts))
    known, unknown = context_gains(reader, texts), context_gains(reader, unseen)
    assert known.mean() < unknown.mean()
    assert known.mean() < 0


def test_context_comes_from_the_same_subset() -> None:
    with pytest.raises(UsageError, match="'b' has a single text"):
        context_gains(MockBackend(), [*records(5, 0, "a"), *records(1, 1, "b")])


def test_shares_are_compared_with_the_controls() -> None:
    target, control = np.array([-1.0] * 30 + [1.0] * 10), np.array([-1.0] * 20 + [1.0] * 40)
    found = context_gain(target, control)
    assert (found.share.value, found.control_share.value) == (0.75, pytest.approx(1 / 3))
    a, b = (stats.binomtest(k, n).proportion_ci(method="wilson") for k, n in ((30, 40), (20, 60)))
    low = 5 / 12 - np.sqrt((3 / 4 - a.low) ** 2 + (b.high - 1 / 3) ** 2)
    high = 5 / 12 + np.sqrt((a.high - 3 / 4) ** 2 + (1 / 3 - b.low) ** 2)
    assert found.difference.ci95 == pytest.approx((low, high))
    assert found.p == pytest.approx(stats.fisher_exact([[30, 10], [20, 40]], "greater").pvalue)


def test_shares_at_the_edge_still_have_an_interval() -> None:
    low, high = context_gain(np.full(20, 1.0), np.full(20, 1.0)).difference.ci95
    assert low < 0 < high


# -- all of it ----------------------------------------------------------------------------------------


def test_all_methods_give_json_and_say_what_they_may_be_taken_for() -> None:
    stages = set()
    found = examine(
        MockBackend(),
        records(40, 1, length=16),
        records(30, 2, length=16),
        records(30, 3, length=16),
        progress=lambda stage, done, total: stages.add(stage),
    )
    assert list(found) == [*METHODS, "not_run"]
    assert found["not_run"] == {}
    assert all(found[name]["claim"] for name in METHODS)
    assert json.dumps(found, allow_nan=False)
    assert "orders of records" in stages


def test_a_file_that_was_read_is_claimed_and_a_recognisable_order_is_not() -> None:
    texts = records(160, 4)
    found = examine(Reader(file_of(texts)), texts, methods=["item_order"])
    assert found["item_order"]["claim"].startswith("evidence of training on the published file")
    topics = sorted_by_topic(texts)
    found = examine(Reader(file_of(topics)), topics, methods=["item_order"])
    assert "recognisable" in found["item_order"]["claim"]


def test_a_control_of_another_kind_is_called_confounded() -> None:
    control = [replace(text, text=text.text.upper()) for text in records(60, 2)]
    texts = records(60, 1)
    reader = Reader(*(text.text for text in texts))
    found = examine(reader, texts, control, control, methods=["loss_gap", "context_gain"])
    assert found["loss_gap"]["blind"]["confounded"]
    assert "confounded" in found["loss_gap"]["claim"]


def test_what_cannot_be_applied_says_why() -> None:
    backend = MockBackend()
    backend.capabilities = replace(backend.capabilities, no_token_stats="it is a server")
    found = examine(backend, records(40, 1), records(30, 2))
    assert set(found) == {"item_order", "context_gain", "not_run"}
    assert "it is a server" in found["not_run"]["token_battery"]
    assert "needs a reference set" in found["not_run"]["loss_gap"]
    with pytest.raises(UsageError, match="needs a control set"):
        examine(MockBackend(), records(40, 1), methods=["completion"])
    with pytest.raises(UsageError, match="did you mean loss_gap"):
        examine(MockBackend(), records(40, 1), methods=["lossgap"])
