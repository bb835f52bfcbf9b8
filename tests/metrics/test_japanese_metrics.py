import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.metrics.japanese import char_f1, exact_match, normalize, token_f1

TEXTS = st.text(st.sampled_from("小笠原諸島の雨。、 　ＡＢａb1１〜ーﾊﾞ・！!🎉\n"), max_size=15)
GOLDS = ["小笠原諸島", "小笠原諸島を除く日本", "小笠原諸島"]
METRICS = [exact_match, token_f1, char_f1]


def test_golden_full_stop_counts_for_exact_match_only():
    assert exact_match("小笠原諸島。", GOLDS) == 0
    assert token_f1("小笠原諸島。", GOLDS) == 1
    assert char_f1("小笠原諸島。", GOLDS) == pytest.approx(10 / 11)


def test_golden_white_space_and_width_do_not_count():
    assert exact_match(" 小笠原諸島", GOLDS) == 1
    assert exact_match("ＡＢＣ　１２３", ["ABC 123"]) == 1
    assert exact_match("abc 123", ["ABC 123"]) == 0


def test_token_f1_counts_tokens_with_repeats():
    # 日本 | の | 雨 against 日本 | の | 日本 | の | 山
    assert token_f1("日本の雨", ["日本の日本の山"]) == pytest.approx(2 * 2 / (3 + 5))


def test_the_best_gold_answer_counts():
    assert token_f1("日本の雨", ["山", "日本の雨", "川"]) == 1
    assert exact_match("山", ["川", "山"]) == 1


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("０１２ａｂｃＸＹＺ", "012abcXYZ"),
        ("！？（）：；，．／＠＃＄％＆＊＋＜＝＞［］＾＿｛｜｝", "!?():;,./@#$%&*+<=>[]^_{|}"),
        ("”’‘“¥", '"\'`"\\'),
        ("ﾊﾞﾊﾟｶﾞｱｲｳ｡､･｢｣", "バパガアイウ。、・「」"),
        ("a˗֊‐‑‒–⁃⁻₋−b", "a-b"),
        ("ア﹣－ｰ—―─━ーイ", "アーイ"),
        ("1〜3", "13"),
        ("a~∼∾〜〰～b", "ab"),
        ("日本 語　です", "日本語です"),
        ("日本語 abc  def 漢字", "日本語abc def漢字"),
        (" 　abc　", "abc"),
        ("すごおおおおい", "すごおおおおい"),
        ("a\n\tb\u2003c", "a b c"),
        ("雨🎉です©", "雨です"),
        ("a\u2702\u27b0\u2710b", "ab"),
        ("\U0001f1ef\U0001f1f5", ""),
        ("", ""),
        ("　", ""),
        ("～", ""),
        ("。「」", "。「」"),
        ("Ａａ", "Aa"),
    ],
)
def test_normalisation(text, normal):
    assert normalize(text) == normal


@given(TEXTS, TEXTS)
@settings(deadline=None)
def test_values_lie_in_range_and_are_symmetric(a, b):
    for metric in METRICS:
        assert 0 <= metric(a, [b]) <= 1
        assert metric(a, [b]) == pytest.approx(metric(b, [a]))
    assert exact_match(a, [a]) == 1
    assert exact_match(a, [b]) <= char_f1(a, [b]) or not normalize(a)


@given(TEXTS)
@settings(deadline=None)
def test_what_is_equal_has_the_whole_score(text):
    normal = normalize(text)
    assert char_f1(text, [text]) == float(bool(normal))
    assert token_f1(f"山{text}", [f"山{text}"]) == 1


@given(st.text(), st.text())
@settings(deadline=None)
def test_any_text_is_scored(a, b):
    for metric in METRICS:
        assert 0 <= metric(a, [b, a]) <= 1


def test_texts_without_words_have_nothing_in_common():
    assert token_f1("。、！", ["。、！"]) == 0
    assert token_f1("", [""]) == 0
    assert char_f1("", ["雨"]) == 0


def test_a_megabyte_is_scored():
    # MeCab itself crashes on so much at once.
    assert token_f1("雨の日。" * 250_000, ["雨の日"]) == pytest.approx(2 * 3 / (750_000 + 3), rel=1e-3)
    assert exact_match("雨" * 1_000_000, ["雨"]) == 0


@pytest.mark.parametrize("metric", METRICS)
def test_a_question_without_gold_answers_is_refused(metric):
    with pytest.raises(ValueError, match="without gold answers"):
        metric("雨", [])


def test_libraries_are_imported_by_use_only():
    program = "import sys, evalkit.metrics.japanese, evalkit.metrics.longbench; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert not {"jieba", "neologdn", "emoji", "fugashi", "unidic_lite", "rapidfuzz"} & set(loaded.split())


@pytest.mark.data
def test_official_gold_answers_have_the_whole_score(official_data):
    path = official_data / "JGLUE" / "datasets" / "jsquad-v1.3" / "valid-v1.3.json"
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    questions = [q for article in articles for p in article["paragraphs"] for q in p["qas"]]
    assert len(questions) == 4442
    without_tokens = set()
    for question in questions:
        golds = [answer["text"] for answer in question["answers"]]
        assert exact_match(golds[-1], golds) == char_f1(golds[-1], golds) == 1
        if token_f1(golds[-1], golds) < 1:
            without_tokens.update(golds)
    # Two questions ask for a punctuation mark, which leaves no token to score.
    assert without_tokens == {"/", "-", "「-」"}
