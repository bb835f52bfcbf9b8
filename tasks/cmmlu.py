"""CMMLU: 67 Chinese four-option exams (Li et al. 2023, arXiv 2306.09212)."""

from __future__ import annotations

import re
from pathlib import Path

from evalkit.data.csvfile import read_csv, unique_ids
from evalkit.task import Grouping, HubArchive, Overlong, PromptInput, Protocol, Task, by_mean_logprob
from evalkit.types import GenerateRequest, Sample, ScoreRequest, SpanRequest

from . import _multiple_choice as mc

SUBJECTS = {
    "agronomy": "农学",
    "anatomy": "解剖学",
    "ancient_chinese": "古汉语",
    "arts": "艺术学",
    "astronomy": "天文学",
    "business_ethics": "商业伦理",
    "chinese_civil_service_exam": "中国公务员考试",
    "chinese_driving_rule": "中国驾驶规则",
    "chinese_food_culture": "中国饮食文化",
    "chinese_foreign_policy": "中国外交政策",
    "chinese_history": "中国历史",
    "chinese_literature": "中国文学",
    "chinese_teacher_qualification": "中国教师资格",
    "clinical_knowledge": "临床知识",
    "college_actuarial_science": "大学精算学",
    "college_education": "大学教育学",
    "college_engineering_hydrology": "大学工程水文学",
    "college_law": "大学法律",
    "college_mathematics": "大学数学",
    "college_medical_statistics": "大学医学统计",
    "college_medicine": "大学医学",
    "computer_science": "计算机科学",
    "computer_security": "计算机安全",
    "conceptual_physics": "概念物理学",
    "construction_project_management": "建设工程管理",
    "economics": "经济学",
    "education": "教育学",
    "electrical_engineering": "电气工程",
    "elementary_chinese": "小学语文",
    "elementary_commonsense": "小学常识",
    "elementary_information_and_technology": "小学信息技术",
    "elementary_mathematics": "初等数学",
    "ethnology": "民族学",
    "food_science": "食品科学",
    "genetics": "遗传学",
    "global_facts": "全球事实",
    "high_school_biology": "高中生物",
    "high_school_chemistry": "高中化学",
    "high_school_geography": "高中地理",
    "high_school_mathematics": "高中数学",
    "high_school_physics": "高中物理学",
    "high_school_politics": "高中政治",
    "human_sexuality": "人类性行为",
    "international_law": "国际法学",
    "journalism": "新闻学",
    "jurisprudence": "法理学",
    "legal_and_moral_basis": "法律与道德基础",
    "logical": "逻辑学",
    "machine_learning": "机器学习",
    "management": "管理学",
    "marketing": "市场营销",
    "marxist_theory": "马克思主义理论",
    "modern_chinese": "现代汉语",
    "nutrition": "营养学",
    "philosophy": "哲学",
    "professional_accounting": "专业会计",
    "professional_law": "专业法学",
    "professional_medicine": "专业医学",
    "professional_psychology": "专业心理学",
    "public_relations": "公共关系",
    "security_study": "安全研究",
    "sociology": "社会学",
    "sports_science": "体育学",
    "traditional_chinese_medicine": "中医中药",
    "virology": "病毒学",
    "world_history": "世界历史",
    "world_religions": "世界宗教",
}

_CATEGORIES = mc.members(
    {
        "STEM": """anatomy astronomy college_actuarial_science college_engineering_hydrology
            college_mathematics college_medical_statistics computer_science conceptual_physics
            electrical_engineering elementary_mathematics genetics high_school_biology
            high_school_chemistry high_school_mathematics high_school_physics machine_learning virology""",
        "Humanities": """arts chinese_history chinese_literature college_law global_facts
            international_law jurisprudence logical marxist_theory philosophy professional_law
            world_history world_religions""",
        "Social Science": """ancient_chinese business_ethics chinese_civil_service_exam
            chinese_food_culture chinese_foreign_policy chinese_teacher_qualification college_education
            economics education elementary_chinese ethnology high_school_geography high_school_politics
            journalism management marketing modern_chinese professional_accounting
            professional_psychology public_relations security_study sociology""",
        "Other": """agronomy chinese_driving_rule clinical_knowledge college_medicine computer_security
            construction_project_management elementary_commonsense
            elementary_information_and_technology food_science human_sexuality legal_and_moral_basis
            nutrition professional_medicine sports_science traditional_chinese_medicine""",
    }
)

CHINA_SPECIFIC = (
    "ancient_chinese",
    "chinese_civil_service_exam",
    "chinese_driving_rule",
    "chinese_food_culture",
    "chinese_foreign_policy",
    "chinese_history",
    "chinese_literature",
    "chinese_teacher_qualification",
    "construction_project_management",
    "elementary_chinese",
    "elementary_commonsense",
    "ethnology",
    "high_school_politics",
    "modern_chinese",
    "traditional_chinese_medicine",
)

CATEGORIES = {**_CATEGORIES, "China specific": CHINA_SPECIFIC}
"""The authors' categories; the last one overlaps the other four."""

CHINA_SPECIFIC_FIRST = {
    **{category: mc.without(handles, CHINA_SPECIFIC) for category, handles in _CATEGORIES.items()},
    "China specific": CHINA_SPECIFIC,
}
"""Chinese-Mixtral counts every subject once, under China specific if it is there."""

HEADER = "以下是关于{}的单项选择题，请直接给出正确答案的选项。\n\n"
OFFICIAL_BLOCK = mc.block("答案是：", lead="题目：")
COT_BLOCK = mc.block("逐步分析并给出答案选项。", lead="题目：")


def path(split: str, subset: str) -> str:
    """Path of one official file below the benchmark's folder."""
    return f"data/{split}/{subset}.csv"


def parse(file: Path, _split: str, subset: str) -> list[Sample]:
    """Read one official file, whose first, unnamed column numbers the rows."""
    rows = read_csv(file, ("", "Question", *mc.LETTERS, "Answer"))
    return [
        Sample(
            id=identifier,
            subset=subset,
            fields={"question": row.cells["Question"], **{x: row.cells[x] for x in mc.LETTERS}},
            target=row.label("Answer", mc.LETTERS),
        )
        for identifier, row in zip(unique_ids(rows, ""), rows, strict=True)
    ]


def official(p: PromptInput) -> ScoreRequest:
    """Ask as the authors do."""
    return mc.letters(HEADER.format(p.title), OFFICIAL_BLOCK, p, delimiter="")


def official_bare(p: PromptInput) -> ScoreRequest:
    """Ask the question alone, the authors' last resort for a prompt that does not fit."""
    return ScoreRequest(OFFICIAL_BLOCK(p.sample), mc.LETTERS)


def lm_eval(p: PromptInput) -> ScoreRequest:
    """Ask as lm-evaluation-harness does: no 题目, another cue, and a space before the letter."""
    return mc.letters(HEADER.format(p.title), mc.block("答案：", strip=True), p, delimiter=" ")


def oc_ppl(p: PromptInput) -> SpanRequest:
    """Ask as OpenCompass does: every turn repeats the header, and newlines join all turns."""
    turn = mc.block("答案是: ", lead=HEADER.format(p.title).replace("\n\n", "\n") + "题目：")
    shots = "".join(f"{turn(shot)}{shot.target}\n" for shot in p.shots)
    return mc.whole_texts(shots, turn(p.sample), delimiter="")


def oc_gen(p: PromptInput) -> GenerateRequest:
    """Ask in chat turns without a cue; the header is in every turn."""
    lead = HEADER.format(p.title).replace("\n\n", "\n") + "题目："
    ask = mc.block("", lead=lead)
    return mc.turns(lambda sample: ask(sample).removesuffix("\n"), "答案是: {letter}", p)


def official_cot(p: PromptInput) -> GenerateRequest:
    """Ask for an analysis; examples, if any, are answered directly."""
    header = f"以下是关于{p.title}的单项选择题，请分析并选出正确答案。\n\n"
    shots = "".join(f"{OFFICIAL_BLOCK(shot)}{shot.target}\n\n" for shot in p.shots)
    return GenerateRequest(header + shots + COT_BLOCK(p.sample), mc.COT_MAX_NEW_TOKENS)


def official_cot_bare(p: PromptInput) -> GenerateRequest:
    """Ask the question alone, the authors' last resort for a prompt that does not fit."""
    return GenerateRequest(COT_BLOCK(p.sample), mc.COT_MAX_NEW_TOKENS)


_NAMED = (
    r"答案(?:选项)?(?:是|为)：? ?([ABCD])",
    r"答案(?:是|为)选项 ?([ABCD])",
    r"故?选择?：? ?([ABCD])",
    r"([ABCD]) ?选?项(?:是|为)?正确",
    r"正确的?选项(?:是|为) ?([ABCD])",
    r"答案(?:应该)?(?:是|为)([ABCD])",
    r"选项 ?([ABCD]) ?(?:是|为)?正确",
    r"选择答案 ?([ABCD])",
    r"答案?：?([ABCD])",
    r"([ABCD])(?:选?项)?是?符合题意",
    r"答案选项：? ?([ABCD])",
)
"""The patterns of the authors' `extract_choice`, in their order; its twelfth is `_after_cue`."""

_LETTER = re.compile("[ABCD]")
_CUE = re.compile("答案(?:选项)?为")


def chosen_option(text: str) -> str | None:
    """The option a reply names, by the steps of the authors' `extract_choice`.

    Where that would guess at random, the reply counts as unparsed.
    """
    if text[:1] in mc.LETTERS:
        return text[0]
    for pattern in _NAMED:
        if found := re.search(pattern, text):
            return found[1]
    lines = text.split("\n")
    steps = (_after_cue, lambda line: _last_before(line, "当选"), lambda line: _last_before(line, "正确"))
    for step in steps:
        if letter := next(filter(None, map(step, lines)), None):
            return letter
    if found := re.search(r"[^不]是：? ?([ABCD])", text):
        return found[1]
    mentioned = _LETTER.findall(text)
    return mentioned[0] if len(mentioned) == 1 else None


def _after_cue(line: str) -> str | None:
    """The first letter after 答案为 or 答案选项为."""
    cue = _CUE.search(line)
    letter = _LETTER.search(line, cue.end()) if cue else None
    return letter[0] if letter else None


def _last_before(line: str, word: str) -> str | None:
    """The letter nearest before the first `word` that has any letter before it."""
    first = _LETTER.search(line)
    end = line.find(word, first.end()) if first else -1
    return _LETTER.findall(line, 0, end)[-1] if end >= 0 else None


TASK = Task(
    name="cmmlu",
    title="CMMLU",
    description="67 Chinese exams, 15 of them on matters particular to China, four options each",
    licence="CC BY-NC-SA 4.0",
    homepage="https://github.com/haonan-li/CMMLU",
    languages=("zh",),
    subsets=SUBJECTS,
    splits=("dev", "test"),
    shots_split="dev",
    folder="CMMLU",
    path=path,
    parse=parse,
    choices=mc.LETTERS,
    as_choice=mc.as_choice("题目："),
    protocols={
        protocol.name: protocol
        for protocol in (
            Protocol(
                name="official",
                source="haonan-li/CMMLU@d6e7b71 src/mp_utils.py",
                summary="the authors' prompt; drops the longest examples above 2048 tokens, then the header",
                render=official,
                average="macro",
                groups=Grouping(CATEGORIES, "macro"),
                overlong=Overlong("drop_longest_shot", limit=2048, bare=official_bare),
                default_split="test",
            ),
            Protocol(
                name="lm-eval",
                source="EleutherAI/lm-evaluation-harness@4e7e0d4 tasks/cmmlu",
                summary="no 题目, a space before the letter, cut from the left; micro average",
                render=lm_eval,
                average="micro",
                groups=Grouping(CATEGORIES, "micro"),
                overlong=Overlong("left"),
                default_split="test",
            ),
            Protocol(
                name="cn-mixtral",
                source="ymcui/Chinese-Mixtral@263da0e scripts/cmmlu",
                summary="the C-Eval prompt of Chinese-Mixtral; groups without overlap, China specific first",
                render=mc.chinese_mixtral,
                combine=mc.sum_of_two,
                average="micro",
                groups=Grouping(CHINA_SPECIFIC_FIRST, "micro"),
                overlong=Overlong("error"),
                default_split="test",
            ),
            Protocol(
                name="oc-ppl",
                source="open-compass/opencompass@4c87e77 cmmlu_ppl_8b9c76",
                summary="lowest perplexity of the whole text with each letter filled in",
                render=oc_ppl,
                average="macro",
                groups=Grouping(CATEGORIES, "macro"),
                overlong=Overlong("drop_last_shot"),
                default_split="test",
                choice_scores=by_mean_logprob,
            ),
            Protocol(
                name="oc-gen",
                source="open-compass/opencompass@4c87e77 cmmlu_gen_c13365",
                summary="chat turns without a cue, generated answer, first capital letter",
                render=oc_gen,
                judge=mc.judge_by(mc.first_capital),
                average="macro",
                groups=Grouping(CATEGORIES, "macro"),
                overlong=Overlong("drop_last_shot"),
                default_split="test",
            ),
            Protocol(
                name="official-cot",
                source="haonan-li/CMMLU@d6e7b71 src/mp_utils.py",
                summary="analyses step by step; the option named in the reply, never a random guess",
                render=official_cot,
                judge=mc.judge_by(chosen_option),
                average="macro",
                groups=Grouping(CATEGORIES, "macro"),
                overlong=Overlong("drop_longest_shot", limit=2048, bare=official_cot_bare),
                default_split="test",
                default_shots=0,
            ),
        )
    },
    default_protocol="official",
    sizes={"dev": 335, "test": 11582},
    content_sha256={
        "dev": "5276f5bba41c627287007737a3a4a8802c72a2ed5350836489fa426abf6a9631",
        "test": "3a0f0dd4e4b153fa4eac5af5952543428eb095fe086460c0c97c6e3610d03b3d",
    },
    hub=HubArchive(
        repo_id="haonan-li/cmmlu",
        revision="efcc940752ea4a1ea94d2727f11f83858d64fc8e",
        filename="cmmlu_v1_0_1.zip",
        folder="CMMLU/data",
    ),
)
