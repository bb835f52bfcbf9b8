"""LongBench metrics, among others against a second implementation written from the specification only."""

from __future__ import annotations

import json
import random
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.errors import UsageError
from evalkit.metrics import longbench
from evalkit.metrics._text import PUNCTUATION, library
from evalkit.metrics.longbench import METRICS, first_line, score

jieba = library("jieba")

PAIRWISE = {
    name: getattr(longbench, name) for name in sorted(set(METRICS.values())) if name != "classification"
}
PIECES = ["a", "b", "B", "The", "the", "d.", ".", "\n", " ", "会议", "预算", "，", "3", "12", "#", "é—a", "²"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join)


@pytest.fixture(scope="module", autouse=True)
def own_jieba(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the tests' jieba from the cache that all programs on the machine share."""
    jieba.dt.tmp_dir = str(tmp_path_factory.mktemp("jieba"))
    jieba.initialize()


def second_bag_f1(a: list[str], b: list[str]) -> float:
    """Twice the tokens in common over all tokens."""
    unmatched = list(b)
    for token in a:
        if token in unmatched:
            unmatched.remove(token)
    common = len(b) - len(unmatched)
    return 2 * common / (len(a) + len(b)) if common else 0.0


def second_qa_f1(prediction: str, gold: str) -> float:
    def words(text: str) -> list[str]:
        bare = re.sub(r"[!-/:-@\[-`{-~]", "", text.lower())
        return re.sub(r"\w+", lambda m: " " if m[0] in {"a", "an", "the"} else m[0], bare).split()

    return second_bag_f1(words(prediction), words(gold))


def second_qa_f1_zh(prediction: str, gold: str) -> float:
    removed = re.compile(rf"[{re.escape(''.join(PUNCTUATION))}\s]")

    def words(text: str) -> list[str]:
        return [token for token in (removed.sub("", t.lower()) for t in jieba.cut(text)) if token]

    return second_bag_f1(words(prediction), words(gold))


def second_rouge_l(prediction: str, gold: str) -> float:
    """Union of the sentences' common words, each pair by the table of all lengths."""
    hypothesis, reference = (
        [re.split(" ", re.sub(r"\s+", " ", s).strip()) for s in re.split(r"\.", text) if s != ""]
        for text in (prediction, gold)
    )
    union = {
        word for r in reference for h in hypothesis if set(r) & set(h) for word in second_common_words(r, h)
    }
    if not hypothesis or not reference:
        return 0.0
    p, r = (len(union) / len(set().union(*text)) for text in (hypothesis, reference))
    return 2.0 * ((p * r) / (p + r + 1e-8))


def second_common_words(reference: Sequence[str], hypothesis: Sequence[str]) -> Iterator[str]:
    """Words of the common subsequence: a match is taken, else the step to the longer prefix, ties left."""
    lengths = [[0] * (len(hypothesis) + 1)]
    for r in reference:
        above, row = lengths[-1], [0]
        for j, h in enumerate(hypothesis):
            row.append(above[j] + 1 if r == h else max(above[j + 1], row[j]))
        lengths.append(row)
    i, j = len(reference), len(hypothesis)
    while i > 0 and j > 0:
        if reference[i - 1] == hypothesis[j - 1]:
            yield reference[i - 1]
            i -= 1
            j -= 1
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1


def second_rouge_zh(prediction: str, gold: str) -> float:
    return second_rouge_l(*(" ".join(jieba.cut(text)) for text in (prediction, gold)))


def second_classification(prediction: str, gold: str, all_classes: Sequence[str]) -> float:
    found = list(filter(prediction.__contains__, all_classes))
    for name in found:
        if name != gold and name in gold:
            found.remove(name)
    return (gold in found) / max(1, len(found))


def second_count(prediction: str, gold: str) -> float:
    numbers = [n for n in re.split(r"\D+", prediction) if n]
    return sum(n == gold for n in numbers) / max(1, len(numbers))


def second_code_sim(prediction: str, gold: str) -> float:
    line = ""
    for candidate in re.sub(r"\A\n+", "", prediction).split("\n"):
        if not re.search(r"`|#|//", candidate):
            line = candidate
            break
    row = [0] * (len(gold) + 1)
    for a in line:
        above = row
        row = [0]
        for j, b in enumerate(gold):
            row.append(above[j] + 1 if a == b else max(above[j + 1], row[j]))
    total = len(line) + len(gold)
    return round(100 * (2 * row[-1] / total)) / 100 if total else 1.0


def second_score(record: dict[str, object], prediction: str) -> float:
    """Score of one example by the specification's table."""
    dataset, best = str(record["dataset"]), 0.0
    if dataset in {"trec", "triviaqa", "samsum", "lsht"}:
        prediction = re.sub(r"\A\n+", "", prediction).split("\n")[0]
    for gold in record["answers"]:  # type: ignore[attr-defined]
        if dataset in {"dureader", "vcsum"}:
            value = second_rouge_zh(prediction, gold)
        elif dataset in {"gov_report", "qmsum", "multi_news", "samsum"}:
            value = second_rouge_l(prediction, gold)
        elif dataset in {"trec", "lsht"}:
            value = second_classification(prediction, gold, record["all_classes"])  # type: ignore[arg-type]
        elif dataset in {"passage_count", "passage_retrieval_en", "passage_retrieval_zh"}:
            value = second_count(prediction, re.sub(r"\A\D+", "", gold))
        elif dataset in {"lcc", "repobench-p"}:
            value = second_code_sim(prediction, gold)
        elif dataset == "multifieldqa_zh":
            value = second_qa_f1_zh(prediction, gold)
        else:
            value = second_qa_f1(prediction, gold)
        best = max(best, value)
    return best


def perturbed(record: dict[str, object], rng: random.Random) -> Iterator[str]:
    """Predictions that are more or less like the gold answers."""
    answers: list[str] = record["answers"]  # type: ignore[assignment]
    for gold in answers[:3]:
        words = gold.split()
        yield gold
        yield f"\n\n{gold}\nPassage 4 says so."
        yield gold[: len(gold) // 2]
        yield " ".join(rng.sample(words, len(words)))
        yield "".join(c for c in gold if rng.random() < 0.8)
        if len(gold) < 2000:
            yield gold.upper()
            yield f"The answer. {gold}. {gold}"
            yield f"# a comment\n`code`\n  {gold}  // x\n{gold[1:]}"
            yield f"答案是：{gold}。" * 3
            yield f"Paragraph {rng.randrange(30)} or 段落{rng.randrange(30)} or {gold}"
    yield ""
    yield " \n"
    if record["all_classes"]:
        classes: list[str] = record["all_classes"]  # type: ignore[assignment]
        for n in (1, 2, 5, len(classes)):
            yield ", ".join([*rng.sample(classes, n), answers[0]])


@pytest.mark.data
@pytest.mark.parametrize("dataset", sorted(METRICS))
def test_equals_a_second_implementation_on_official_records(dataset: str, official_data: Path) -> None:
    lines = (official_data / "LongBench" / "partial" / f"{dataset}.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in lines.split("\n") if line]
    assert records
    for number, record in enumerate(records):
        for prediction in perturbed(record, random.Random(number)):
            value = score(dataset, prediction, record["answers"], record["all_classes"])
            assert value == pytest.approx(second_score(record, prediction), abs=1e-12), prediction
        best = max(
            score(dataset, gold, record["answers"], record["all_classes"]) for gold in record["answers"]
        )
        assert best == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("name", PAIRWISE)
@settings(deadline=None)
@given(prediction=TEXTS, gold=TEXTS)
def test_equals_a_second_implementation_on_any_text(name: str, prediction: str, gold: str) -> None:
    if name in {"retrieval", "retrieval_zh"}:
        gold = {"retrieval": "Paragraph ", "retrieval_zh": "段落"}[name] + "12"
        expected = second_count(prediction, "12")
    else:
        expected = globals()[f"second_{name}"](prediction, gold)
    value = PAIRWISE[name](prediction, gold)
    assert value == pytest.approx(expected, abs=1e-12)
    assert 0 <= value <= 1


@given(TEXTS, st.lists(st.sampled_from(["a", "B", "the", "a b", "会议", "会议 预算", ""]), min_size=1))
def test_classification_equals_a_second_implementation(prediction: str, classes: list[str]) -> None:
    value = longbench.classification(prediction, classes[-1], classes)
    assert value == second_classification(prediction, classes[-1], classes)
    assert 0 <= value <= 1


@pytest.mark.parametrize("name", ["qa_f1", "qa_f1_zh", "rouge_zh", "rouge_l", "code_sim"])
@settings(deadline=None)
@given(text=TEXTS)
def test_identity_has_the_whole_score(name: str, text: str) -> None:
    text = f"会议 word {text}".replace("\n", " ").replace("#", "")
    assert PAIRWISE[name](text, text) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("name", ["qa_f1", "qa_f1_zh"])
@settings(deadline=None)
@given(a=TEXTS, b=TEXTS)
def test_bags_of_words_are_symmetric(name: str, a: str, b: str) -> None:
    assert PAIRWISE[name](a, b) == pytest.approx(PAIRWISE[name](b, a), abs=1e-12)


@given(TEXTS.map(lambda t: t.replace("\n", "").replace("#", "")), st.sampled_from(["a b", "", "会议"]))
def test_edit_similarity_is_symmetric(line: str, gold: str) -> None:
    assert longbench.code_sim(line, gold) == longbench.code_sim(gold, line)


@pytest.mark.parametrize(
    ("prediction", "gold", "value"),
    [
        ("the cat sat on the mat", "the cat was on the mat", 0.799999995),
        ("the the the cat", "the cat", 0.999999995),
        ("a b c. d e f.", "d e f. a b c.", 0.999999995),
        ("A b c. D e f.", "d e f. a b c.", 0.666666662),
        ("会议 讨论 了 预算", "会议 讨论 预算 问题", 0.749999995),
        ("", "x", 0.0),
        (".", "x", 0.0),
        ("x", "", 0.0),
        ("...", "...", 0.0),
        # White space behind the last dot is a sentence with one empty word.
        ("a. ", "a", 0.666666662),
        (" ", " ", 0.999999995),
        # Of two longest common subsequences one is taken, not both.
        ("b a", "a b", 0.499999995),
    ],
)
def test_golden_rouge(prediction: str, gold: str, value: float) -> None:
    assert longbench.rouge_l(prediction, gold) == pytest.approx(value, abs=1e-9)


def test_rouge_zh_cuts_words_first() -> None:
    assert longbench.rouge_zh("会议讨论了预算", "会议讨论预算问题") == pytest.approx(0.749999995, abs=1e-9)
    assert longbench.rouge_zh("", "会议") == 0


@pytest.mark.parametrize(
    ("prediction", "gold", "value"),
    [
        ("    return x", "    return y", 0.92),
        ("    def foo(self, a, b):", "    def bar(self, b, a):", 0.79),
        ("self bar return : , [0]", "bar ) + : [0] self", 0.49),
        ("\n\n# why\nx = '`'\n//\nreturn x\nreturn y", "return x", 1.0),
        ("# only a comment", "x", 0.0),
        ("", "", 1.0),
        ("", "x", 0.0),
        # 62.5 %: half to even.
        ("aaaaabbb", "aaaaaccc", 0.62),
    ],
)
def test_golden_code_similarity(prediction: str, gold: str, value: float) -> None:
    assert longbench.code_sim(prediction, gold) == value


@pytest.mark.parametrize(
    ("prediction", "gold", "classes", "value"),
    [
        ("Food and Drink", "Food", ["Food", "Drink", "Other"], 0.5),
        ("Food", "Food", ["Food", "Drink", "Other"], 1.0),
        ("Drink", "Food", ["Food", "Drink", "Other"], 0.0),
        ("food", "Food", ["Food"], 0.0),
        ("", "Food", ["Food"], 0.0),
        ("Other number", "Other number", ["number", "Other number"], 1.0),
        # The second of two parts of the gold name in a row is skipped by the published loop.
        ("Other number", "Other number", ["Other", "number", "Other number"], 0.5),
        ("Other number", "Other number", ["Other", "Other number", "number"], 1.0),
        # A part of the gold name counts where the gold name is not found.
        ("number", "Other number", ["number", "Other number"], 0.0),
    ],
)
def test_golden_classification(prediction: str, gold: str, classes: list[str], value: float) -> None:
    assert longbench.classification(prediction, gold, classes) == value


@pytest.mark.parametrize(
    ("name", "prediction", "gold", "value"),
    [
        ("retrieval", "Paragraph 3 or 5", "Paragraph 3", 0.5),
        ("retrieval", "Paragraph 13", "Paragraph 3", 0.0),
        ("retrieval", "none", "Paragraph 3", 0.0),
        ("retrieval_zh", "段落3。", "段落3", 1.0),
        ("retrieval_zh", "3", "段落3", 1.0),
        ("count", "There are 7.", "7", 1.0),
        ("count", "7 of 07 and 7", "7", 2 / 3),
        ("count", "", "7", 0.0),
        ("qa_f1", "The Cat!", "cat", 1.0),
        ("qa_f1", "a an the", "the", 0.0),
        ("qa_f1", "cat dog", "cat", 2 / 3),
        ("qa_f1", "theory", "ory", 0.0),
        ("qa_f1_zh", "《会议》，讨论 预算。", "会议讨论预算", 6 / 7),
        ("qa_f1_zh", "ABC", "abc", 1.0),
        ("qa_f1_zh", "，。", "，。", 0.0),
    ],
)
def test_small_cases(name: str, prediction: str, gold: str, value: float) -> None:
    assert PAIRWISE[name](prediction, gold) == pytest.approx(value)


@pytest.mark.parametrize("name", ["retrieval", "retrieval_zh"])
def test_a_gold_answer_without_paragraph_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="names no paragraph"):
        PAIRWISE[name]("3", "3")


@pytest.mark.parametrize(
    ("prediction", "line"),
    [("", ""), ("\n\n", ""), ("\n\na\nb", "a"), (" \na", " "), ("a\r\nb", "a\r"), ("a\u2028b", "a\u2028b")],
)
def test_first_line(prediction: str, line: str) -> None:
    assert first_line(prediction) == line


def test_the_first_line_rule_holds_for_four_datasets() -> None:
    kept = {d for d in METRICS if METRICS[d] in {"qa_f1", "rouge_l"} if score(d, "\nx\ny", ["y"], None) == 0}
    assert kept == {"triviaqa", "samsum"}
    for dataset in ("trec", "lsht"):
        assert score(dataset, "\nx\ny", ["x"], ["x", "y"]) == 1


def test_score_is_the_best_over_the_answers() -> None:
    assert score("qasper", "cat", ["dog", "cat", "bird"], None) == 1
    assert score("qasper", "cat", [], None) == 0
    assert score("passage_retrieval_en_e", "Paragraph 3", ["Paragraph 3"], None) == 1
    assert (
        score("multifieldqa_en_e", "cat", ["cat"], None)
        == score("multifieldqa_en", "cat", ["cat"], None)
        == 1
    )


def test_every_dataset_has_a_metric() -> None:
    assert len(METRICS) == 21
    assert all(callable(getattr(longbench, name)) for name in METRICS.values())


def test_score_refuses_what_it_cannot_judge() -> None:
    with pytest.raises(ValueError, match="no dataset 'mmlu'"):
        score("mmlu", "x", ["x"], None)
    with pytest.raises(ValueError, match="names of all classes"):
        score("trec", "x", ["x"], None)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    library.cache_clear()
    monkeypatch.setitem(sys.modules, "rapidfuzz.distance", None)
    with pytest.raises(UsageError, match=r"needs 'rapidfuzz.distance': pip install 'evalkit\[metrics\]'"):
        longbench.code_sim("x", "y")


def test_warnings_of_an_old_library_are_kept_from_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "old_library.py").write_text("import warnings\nwarnings.warn('old', SyntaxWarning)\nx = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert library("old_library").x == 1


@pytest.mark.parametrize("every", [0, 20, 3])
def test_rouge_of_ten_thousand_words_takes_less_than_a_second(every: int) -> None:
    rng = random.Random(0)
    a, b = (
        " ".join(f"w{rng.randrange(2000)}{'.' if every and i % every == 0 else ''}" for i in range(10_000))
        for _ in range(2)
    )
    for prediction, gold in ((a, b), (a, a)):
        started = time.perf_counter()
        assert 0 < longbench.rouge_l(prediction, gold) < 1
        # Three times the bound: the machine may be busy.
        assert time.perf_counter() - started < 3


def test_a_sentence_longer_than_the_recursion_limit_has_a_score() -> None:
    text = " ".join(map(str, range(3000)))
    assert longbench.rouge_l(text, text) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("name", ["qa_f1", "count", "code_sim", "retrieval", "retrieval_zh"])
def test_a_megabyte_is_scored(name: str) -> None:
    gold = {"retrieval": "Paragraph 3", "retrieval_zh": "段落3"}.get(name, "3")
    for unit in ("3 ", "x", "\n", "1"):
        assert 0 <= PAIRWISE[name](unit * (1_000_000 // len(unit)), gold) <= 1
