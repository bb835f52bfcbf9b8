"""C-Eval: 52 Chinese four-option exams (Huang et al. 2023, arXiv 2305.08322)."""

from __future__ import annotations

import string
from pathlib import Path

from evalkit.data.csvfile import Row, read_csv, unique_ids
from evalkit.task import Grouping, HubArchive, Overlong, PromptInput, Protocol, Task, by_mean_logprob
from evalkit.types import GenerateRequest, Sample, ScoreRequest, SpanRequest

from . import _multiple_choice as mc

SUBJECTS_BY_CATEGORY = {
    "STEM": {
        "computer_network": "计算机网络",
        "operating_system": "操作系统",
        "computer_architecture": "计算机组成",
        "college_programming": "大学编程",
        "college_physics": "大学物理",
        "college_chemistry": "大学化学",
        "advanced_mathematics": "高等数学",
        "probability_and_statistics": "概率统计",
        "discrete_mathematics": "离散数学",
        "electrical_engineer": "注册电气工程师",
        "metrology_engineer": "注册计量师",
        "high_school_mathematics": "高中数学",
        "high_school_physics": "高中物理",
        "high_school_chemistry": "高中化学",
        "high_school_biology": "高中生物",
        "middle_school_mathematics": "初中数学",
        "middle_school_biology": "初中生物",
        "middle_school_physics": "初中物理",
        "middle_school_chemistry": "初中化学",
        "veterinary_medicine": "兽医学",
    },
    "Social Science": {
        "college_economics": "大学经济学",
        "business_administration": "工商管理",
        "marxism": "马克思主义基本原理",
        "mao_zedong_thought": "毛泽东思想和中国特色社会主义理论体系概论",
        "education_science": "教育学",
        "teacher_qualification": "教师资格",
        "high_school_politics": "高中政治",
        "high_school_geography": "高中地理",
        "middle_school_politics": "初中政治",
        "middle_school_geography": "初中地理",
    },
    "Humanities": {
        "modern_chinese_history": "近代史纲要",
        "ideological_and_moral_cultivation": "思想道德修养与法律基础",
        "logic": "逻辑学",
        "law": "法学",
        "chinese_language_and_literature": "中国语言文学",
        "art_studies": "艺术学",
        "professional_tour_guide": "导游资格",
        "legal_professional": "法律职业资格",
        "high_school_chinese": "高中语文",
        "high_school_history": "高中历史",
        "middle_school_history": "初中历史",
    },
    "Other": {
        "civil_servant": "公务员",
        "sports_science": "体育学",
        "plant_protection": "植物保护",
        "basic_medicine": "基础医学",
        "clinical_medicine": "临床医学",
        "urban_and_rural_planner": "注册城乡规划师",
        "accountant": "注册会计师",
        "fire_engineer": "注册消防工程师",
        "environmental_impact_assessment_engineer": "环境影响评价工程师",
        "tax_accountant": "税务师",
        "physician": "医师资格",
    },
}

SUBJECTS = {handle: name for subjects in SUBJECTS_BY_CATEGORY.values() for handle, name in subjects.items()}

CATEGORIES = {
    **{category: tuple(subjects) for category, subjects in SUBJECTS_BY_CATEGORY.items()},
    "Hard": (
        "advanced_mathematics",
        "discrete_mathematics",
        "probability_and_statistics",
        "college_chemistry",
        "college_physics",
        "high_school_mathematics",
        "high_school_chemistry",
        "high_school_physics",
    ),
}
"""The four categories of the leaderboard, and C-Eval Hard, which overlaps them."""

TEXTS = ("question", "A", "B", "C", "D")


def path(split: str, subset: str) -> str:
    """Path of one official file below the benchmark's folder."""
    return f"{split}/{subset}_{split}.csv"


def parse(file: Path, split: str, subset: str) -> list[Sample]:
    """Read one official file; the test split has no answers, unless its release with answers is used."""
    rows = read_csv(file, ("id", *TEXTS), optional=("answer", "explanation"))
    return [
        Sample(
            id=identifier,
            subset=subset,
            fields={name: text for name, text in row.cells.items() if name not in ("id", "answer")},
            target=_target(row, split),
        )
        for identifier, row in zip(unique_ids(rows, "id"), rows, strict=True)
    ]


def _target(row: Row, split: str) -> str | None:
    if split == "test" and not row.cells.get("answer"):
        return None
    if "answer" not in row.cells:
        raise row.corrupt(f"no answer column in the {split} split")
    return row.label("answer", mc.LETTERS)


def official(p: PromptInput) -> ScoreRequest:
    """Ask the published answer-only prompt; its header stays without examples too."""
    header = f"以下是中国关于{p.title}考试的单项选择题，请选出其中的正确答案。\n\n"
    return mc.letters(header, mc.block("答案："), p, delimiter="")


def lm_eval(p: PromptInput) -> ScoreRequest:
    """Ask as lm-evaluation-harness does: another header, and a space after the full-width colon."""
    header = f"以下是中国关于{p.title}的单项选择题，请选出其中的正确答案。\n\n"
    return mc.letters(header, mc.block("答案：", strip=True), p, delimiter=" ")


def oc_ppl(p: PromptInput) -> SpanRequest:
    """Ask as OpenCompass does: every turn repeats the header, and newlines join all turns.

    The answer is a turn of its own, so it stands on the line below its cue.
    """
    turn = mc.block("答案: ", lead=f"以下是中国关于{p.title}考试的单项选择题，请选出其中的正确答案。\n")
    shots = "".join(f"{turn(shot)}\n{shot.target}\n" for shot in p.shots)
    return mc.whole_texts(shots, turn(p.sample), delimiter="\n")


def hendrycks_style(p: PromptInput) -> ScoreRequest:
    """Ask in the format of the MMLU authors' tool, with the English handle and its double space."""
    subject = p.subset.replace("_", " ")
    header = f"The following are multiple choice questions (with answers) about  {subject}.\n\n"
    return mc.letters(header, mc.block("Answer:"), p, delimiter=" ")


def oc_gen(p: PromptInput) -> GenerateRequest:
    """Ask in chat turns, each with the header."""
    turn = mc.block("答案: ", lead=f"以下是中国关于{p.title}考试的单项选择题，请选出其中的正确答案。\n")
    return mc.turns(turn, "{letter}", p)


def official_cot(p: PromptInput) -> GenerateRequest:
    """Ask for reasoning; the examples' own is the explanation column of the dev split."""
    reasoning = "答案：让我们一步一步思考，\n"
    ask = mc.block(reasoning)
    shots = "".join(f"{ask(s)}{s.fields.get('explanation', '')}\n所以答案是{s.target}。\n\n" for s in p.shots)
    header = f"以下是中国关于{p.title}考试的单项选择题，请选出其中的正确答案。\n\n"
    # The next question would begin after a blank line, as the examples do.
    return GenerateRequest(
        f"{header}{shots}{ask(p.sample)}1. ", mc.COT_MAX_NEW_TOKENS, stop=("\n\n",) if p.shots else ()
    )


_STATED = (("答案是", "。"), ("答案为", "。"), ("选项", "是正确的。"))
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def stated_answer(text: str) -> str | None:
    """The letter of the last 答案是…。, as the authors' evaluator of chat models looks for it.

    What stands there must be the letter alone, but for blanks, ASCII punctuation and case.
    """
    found = (mc.last_between(text, begin, end) for begin, end in _STATED)
    stated = next((s for s in found if s is not None), "")
    letter = stated.translate(_NO_PUNCTUATION).strip().upper()
    return letter if letter in mc.LETTERS else None


TASK = Task(
    name="ceval",
    title="C-Eval",
    description="52 Chinese exams from middle school to professional licences, four options each",
    licence="CC BY-NC-SA 4.0",
    homepage="https://github.com/hkust-nlp/ceval",
    languages=("zh",),
    subsets=SUBJECTS,
    splits=("dev", "val", "test"),
    shots_split="dev",
    folder="C-Eval",
    path=path,
    parse=parse,
    choices=mc.LETTERS,
    as_choice=mc.as_choice(),
    protocols={
        protocol.name: protocol
        for protocol in (
            Protocol(
                name="official",
                source="hkust-nlp/ceval@cba65ae README, answer-only prompt",
                summary="the published prompt with Chinese subject names, no space before the letter",
                render=official,
                average="macro",
                groups=Grouping(CATEGORIES, "macro"),
                # Nothing is published on overlong prompts; examples go, the question stays whole.
                overlong=Overlong("drop_last_shot"),
                default_split="val",
            ),
            Protocol(
                name="lm-eval",
                source="EleutherAI/lm-evaluation-harness@4e7e0d4 tasks/ceval",
                summary="header without 考试, a space before the letter, cut from the left; micro average",
                render=lm_eval,
                average="micro",
                groups=Grouping(CATEGORIES, "micro"),
                overlong=Overlong("left"),
                default_split="val",
            ),
            Protocol(
                name="cn-mixtral",
                source="ymcui/Chinese-Mixtral@263da0e scripts/ceval",
                summary="English handles, no header at 0 shots; adds up two vocabulary entries per letter",
                render=mc.chinese_mixtral,
                combine=mc.sum_of_two,
                average="micro",
                groups=Grouping(CATEGORIES, "micro"),
                overlong=Overlong("error"),
                default_split="val",
            ),
            Protocol(
                name="oc-ppl",
                source="open-compass/opencompass@4c87e77 ceval_ppl_578f8d",
                summary="lowest perplexity of the whole text with each letter filled in",
                render=oc_ppl,
                average="macro",
                groups=Grouping(CATEGORIES, "macro"),
                overlong=Overlong("drop_last_shot"),
                default_split="val",
                choice_scores=by_mean_logprob,
            ),
            Protocol(
                name="hendrycks-style",
                source="hendrycks/test@4450500 evaluate.py, applied to C-Eval",
                summary="the English prompt of the MMLU tool around C-Eval's questions",
                render=hendrycks_style,
                average="macro",
                groups=Grouping(CATEGORIES, "macro"),
                overlong=Overlong("drop_last_shot", limit=2048),
                default_split="test",
            ),
            Protocol(
                name="oc-gen",
                source="open-compass/opencompass@4c87e77 ceval_gen_5f30c7",
                summary="chat turns, generated answer, first capital letter",
                render=oc_gen,
                judge=mc.judge_by(mc.first_capital),
                average="macro",
                groups=Grouping(CATEGORIES, "macro"),
                overlong=Overlong("drop_last_shot"),
                default_split="val",
            ),
            Protocol(
                name="official-cot",
                source="hkust-nlp/ceval@cba65ae README and evaluators/chatgpt.py",
                summary="reasons step by step from '1. '; the last 答案是…。 counts",
                render=official_cot,
                judge=mc.judge_by(stated_answer),
                average="macro",
                groups=Grouping(CATEGORIES, "macro"),
                overlong=Overlong("drop_last_shot"),
                default_split="val",
            ),
        )
    },
    default_protocol="official",
    sizes={"dev": 260, "val": 1346, "test": 12342},
    content_sha256={
        "dev": "747cbfd3a9722a12ff93f31b95a69a55c105923988affe3e1e2fbe27048d3e83",
        "val": "8ee5428d24b450b4d7a2ac1c4ed9c70b8e578231e8ab56f83ae610e6754c8bf9",
        "test": "4ceacc5e8490da80dc5e12c20a8ca5d17a80b272aeb1055d8b2fdbecf03b4337",
    },
    hub=HubArchive(
        repo_id="ceval/ceval-exam",
        # The release of 2023 with its CSV archive; test answers came later, and not in this form.
        revision="3923b519fd180e689d0961bf3a032ece929742f3",
        filename="ceval-exam.zip",
        folder="C-Eval",
    ),
    submission=True,
)
