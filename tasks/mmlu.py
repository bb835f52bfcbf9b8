"""MMLU: 57 English four-option exams (Hendrycks et al. 2021, arXiv 2009.03300)."""

from __future__ import annotations

from pathlib import Path

from evalkit.data.csvfile import read_csv
from evalkit.task import Grouping, HubArchive, Overlong, PromptInput, Protocol, Task, by_mean_logprob
from evalkit.types import GenerateRequest, NextToken, Sample, ScoreRequest, SpanRequest

from . import _multiple_choice as mc

CATEGORIES = mc.members(
    {
        "STEM": """abstract_algebra astronomy college_biology college_chemistry college_computer_science
            college_mathematics college_physics computer_security conceptual_physics electrical_engineering
            elementary_mathematics high_school_biology high_school_chemistry high_school_computer_science
            high_school_mathematics high_school_physics high_school_statistics machine_learning""",
        "Humanities": """formal_logic high_school_european_history high_school_us_history
            high_school_world_history international_law jurisprudence logical_fallacies moral_disputes
            moral_scenarios philosophy prehistory professional_law world_religions""",
        "Social Sciences": """econometrics high_school_geography high_school_government_and_politics
            high_school_macroeconomics high_school_microeconomics high_school_psychology human_sexuality
            professional_psychology public_relations security_studies sociology us_foreign_policy""",
        "Other": """anatomy business_ethics clinical_knowledge college_medicine global_facts human_aging
            management marketing medical_genetics miscellaneous nutrition professional_accounting
            professional_medicine virology""",
    }
)
"""The authors' categories (hendrycks/test categories.py)."""

ANATOMY_IN_STEM = {
    **CATEGORIES,
    "STEM": tuple(sorted((*CATEGORIES["STEM"], "anatomy"))),
    "Other": mc.without(CATEGORIES["Other"], ["anatomy"]),
}
"""lm-evaluation-harness and OpenCompass count anatomy as STEM."""

SUBJECTS = {
    handle: handle.replace("_", " ") for handle in sorted(h for group in CATEGORIES.values() for h in group)
}

COLUMNS = ("question", "A", "B", "C", "D", "answer")
HEADER = "The following are multiple choice questions (with answers) about {}.\n\n"


def path(split: str, subset: str) -> str:
    """Path of one official file below the benchmark's folder."""
    return f"data/{split}/{subset}_{split}.csv"


def parse(file: Path, _split: str, subset: str) -> list[Sample]:
    """Read one official file: no header, six columns."""
    return [
        Sample(
            id=str(number),
            subset=subset,
            fields={name: row.cells[name] for name in COLUMNS[:5]},
            target=row.label("answer", mc.LETTERS),
        )
        for number, row in enumerate(read_csv(file, COLUMNS, header=False))
    ]


def official(p: PromptInput) -> ScoreRequest:
    """Ask as the authors do; their formatter puts a space before every word, so two precede the first."""
    return mc.letters(HEADER.format(" " + p.title), mc.block("Answer:"), p, delimiter=" ")


def lm_eval(p: PromptInput) -> ScoreRequest:
    """Ask as lm-evaluation-harness does."""
    return mc.letters(HEADER.format(p.title), mc.block("Answer:", strip=True), p, delimiter=" ")


def cn_mixtral(p: PromptInput) -> ScoreRequest:
    """Ask the official prompt, but compare the vocabulary entries of the bare letters."""
    return ScoreRequest(official(p).context, tuple(NextToken(letter) for letter in mc.LETTERS))


def oc_ppl(p: PromptInput) -> SpanRequest:
    """Ask as OpenCompass does: one newline, not a blank line, between the examples."""
    question = mc.block("Answer:")
    shots = "".join(f"{question(shot)} {shot.target}\n" for shot in p.shots)
    return mc.whole_texts(HEADER.format(" " + p.title) + shots, question(p.sample), delimiter=" ")


def oc_gen(p: PromptInput) -> GenerateRequest:
    """Ask in chat turns, each with OpenCompass's hint and cue."""
    hint = (
        f"There is a single choice question about {p.title}. "
        "Answer the question by replying A, B, C or D.\nQuestion: "
    )
    return mc.turns(mc.block("Answer: ", lead=hint), "{letter}\n", p)


TASK = Task(
    name="mmlu",
    title="MMLU",
    description="57 English exams from elementary mathematics to professional law, four options each",
    licence="MIT",
    homepage="https://github.com/hendrycks/test",
    languages=("en",),
    subsets=SUBJECTS,
    splits=("dev", "val", "test"),
    shots_split="dev",
    folder="MMLU",
    path=path,
    parse=parse,
    choices=mc.LETTERS,
    as_choice=mc.as_choice(),
    protocols={
        protocol.name: protocol
        for protocol in (
            Protocol(
                name="official",
                source="hendrycks/test@4450500 evaluate.py",
                summary="the authors' prompt and ' A'…' D'; drops examples from the end above 2048 tokens",
                render=official,
                average="micro",
                groups=Grouping(CATEGORIES, "micro"),
                # Their limit counts GPT-2 tokens; here the model's own tokenizer counts.
                overlong=Overlong("drop_last_shot", limit=2048),
                default_split="test",
            ),
            Protocol(
                name="lm-eval",
                source="EleutherAI/lm-evaluation-harness@4e7e0d4 tasks/mmlu/default",
                summary="one space in the header, questions stripped, cut from the left; anatomy in STEM",
                render=lm_eval,
                average="micro",
                groups=Grouping(ANATOMY_IN_STEM, "micro"),
                overlong=Overlong("left"),
                default_split="test",
            ),
            Protocol(
                name="cn-mixtral",
                source="ymcui/Chinese-Mixtral@263da0e scripts/mmlu",
                summary="the official prompt, never shortened; compares the vocabulary entries of A…D",
                render=cn_mixtral,
                average="micro",
                groups=Grouping(CATEGORIES, "micro"),
                overlong=Overlong("error"),
                default_split="test",
            ),
            Protocol(
                name="oc-ppl",
                source="open-compass/opencompass@4c87e77 mmlu_ppl_ac766d",
                summary="lowest perplexity of the whole text with each letter filled in; macro average",
                render=oc_ppl,
                average="macro",
                groups=Grouping(ANATOMY_IN_STEM, "macro"),
                overlong=Overlong("drop_last_shot"),
                default_split="test",
                choice_scores=by_mean_logprob,
            ),
            Protocol(
                name="oc-gen",
                source="open-compass/opencompass@4c87e77 mmlu_gen_4d595a",
                summary="chat turns, generated answer, first capital letter; macro average",
                render=oc_gen,
                judge=mc.judge_by(mc.first_capital),
                average="macro",
                groups=Grouping(ANATOMY_IN_STEM, "macro"),
                overlong=Overlong("drop_last_shot"),
                default_split="test",
            ),
        )
    },
    default_protocol="official",
    sizes={"dev": 285, "val": 1531, "test": 14042},
    content_sha256={
        "dev": "4d2c7bdbc74cc4d4a9369564bcf33b2bf1b6f1b36bc99e8478aaff679789bd2e",
        "val": "bf905624faf4b3d504b62c41b1e49c10226acb6a77e4daded111e7283f0020ce",
        "test": "d40ddd29c443c6414f54b395c9d6cbf1e489b78a3a0e84fb0cd761ac63b1178c",
    },
    hub=HubArchive(
        repo_id="cais/mmlu",
        revision="c30699e8356da336a370243923dbaf21066bb9fe",
        filename="data.tar",
        folder="MMLU",
    ),
)
