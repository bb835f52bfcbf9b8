"""GSM8K: grade-school word problems with a number as answer (Cobbe et al. 2021, arXiv 2110.14168)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from evalkit.data.jsonfile import read_json_lines, read_pinned_json
from evalkit.fewshot import drawn_per_sample
from evalkit.metrics import numbers
from evalkit.task import (
    Grouping,
    Judge,
    Judgement,
    Overlong,
    PromptInput,
    Protocol,
    RecordText,
    Task,
    each,
)
from evalkit.types import GenerateRequest, Message, Sample

STOPS = ("</s>", "<|im_end|>")
MAX_NEW_TOKENS = 256
OC_MAX_NEW_TOKENS = 512

_EXEMPLARS = {
    "cot8": (
        "cot_exemplars_8shot.json",
        "997e693aba086260bebc959922f6ec91498533051c4145feb3b8236af125a2b9",
        "fewshot_config.samples of lm_eval/tasks/gsm8k/gsm8k-cot.yaml, "
        'EleutherAI/lm-evaluation-harness@4e7e0d4, as {"exemplars": [{"question", "target"}, …]}',
    ),
    "oc4": (
        "cot_exemplars_oc4.json",
        "dd853049e48951c2ace3c9c8fd7941141d7dbe5f67e5f58fce14c9ead51a2fa7",
        "configs/datasets/gsm8k/gsm8k_gen_1d7fe4.py, open-compass/opencompass@4c87e77, "
        'as {"exemplars": [{"user", "assistant"}, …]}',
    ),
}
"""Exemplar set to file, sha256 and origin: third-party texts that evalkit reads but does not ship."""


def path(split: str, _subset: str) -> str:
    """Path of one official file, or of an exemplar set, below the benchmark's folder."""
    return _EXEMPLARS[split][0] if split in _EXEMPLARS else f"{split}.jsonl"


def parse(file: Path, split: str, subset: str) -> list[Sample]:
    """Read one official file or exemplar set."""
    if split in _EXEMPLARS:
        _, sha256, origin = _EXEMPLARS[split]
        exemplars = read_pinned_json(file, sha256, origin)["exemplars"]
        return [Sample(str(i), subset, fields, None) for i, fields in enumerate(exemplars)]
    samples = []
    for i, record in enumerate(read_json_lines(file, ("question", "answer"))):
        answer = record.text("answer")
        target = numbers.official(answer)
        if not target:
            raise record.corrupt("answer has no '#### <number>'")
        fields = {"question": record.text("question"), "answer": answer}
        samples.append(Sample(str(i), subset, fields, target))
    return samples


def record_text(sample: Sample) -> RecordText:
    """Question and worked answer, calculator notes included."""
    return RecordText(sample.fields["question"], sample.fields["answer"])


def lm_eval(p: PromptInput) -> GenerateRequest:
    """Ask as lm-evaluation-harness does: examples with their worked answers, calculator notes included."""
    shots = "".join(
        f"Question: {shot.fields['question']}\nAnswer: {shot.fields['answer']}\n\n" for shot in p.shots
    )
    prompt = f"{shots}Question: {p.sample.fields['question']}\nAnswer:"
    return GenerateRequest(prompt, MAX_NEW_TOKENS, ("Question:", *STOPS))


def chain_of_thought(p: PromptInput) -> GenerateRequest:
    """Ask with the eight chains of thought of Wei et al. (2022)."""
    shots = "".join(f"Q: {s.fields['question']}\nA: {s.fields['target']}\n\n" for s in p.shots)
    return GenerateRequest(f"{shots}Q: {p.sample.fields['question']}\nA:", MAX_NEW_TOKENS, ("Q:", *STOPS))


def zero_shot_chain_of_thought(p: PromptInput) -> GenerateRequest:
    """Ask without examples, with a cue to reason."""
    prompt = f"Q: {p.sample.fields['question']}\nA: Let's think step by step."
    return GenerateRequest(prompt, MAX_NEW_TOKENS, ("Q:", *STOPS))


def opencompass(p: PromptInput) -> GenerateRequest:
    """Ask in turns, with OpenCompass's four chains of thought."""
    turns = [Message(role, shot.fields[role]) for shot in p.shots for role in ("user", "assistant")]
    question = f"Question: {p.sample.fields['question']}\nLet's think step by step\nAnswer:"
    return GenerateRequest((*turns, Message("user", question)), OC_MAX_NEW_TOKENS)


Extract = Callable[[str], str | None]


def by_extraction(strict: Extract, **others: Extract) -> Judge:
    """Make a judge that scores several extractions side by side; the strict one's is the prediction."""

    def judge(sample: Sample, completion: str) -> Judgement:
        extracts = {"strict": strict, **others, "flexible": numbers.flexible}
        found = {name: extract(completion) for name, extract in extracts.items()}
        metrics = {
            name: float(answer is not None and numbers.same_lm_eval(answer, sample.target or ""))
            for name, answer in found.items()
        }
        return Judgement(found["strict"], metrics | {"invalid": float(found["strict"] is None)})

    return each(judge)


judge_hash = by_extraction(numbers.official)
"""Looks for `#### <number>`."""

judge_sentence = by_extraction(numbers.strict_cot, strict_fixed=numbers.strict_fixed_cot)
"""Looks for `The answer is <number>.`; `strict_fixed` does without the published pattern's slip."""


def judge_opencompass(sample: Sample, completion: str) -> Judgement:
    """Compare as OpenCompass did at 4c87e77, and beside it as it does today."""
    gold = sample.target or ""
    old = numbers.opencompass_4c87e77(completion)
    head = numbers.opencompass_head(completion)
    metrics = {
        "acc": float(old == gold),
        "acc_head": float(head is not None and numbers.same_number(head, gold)),
        "flexible": float(numbers.same_lm_eval(numbers.flexible(completion) or "", gold)),
        "invalid": float(old is None),
    }
    return Judgement(old, metrics)


_COMMON: dict[str, Any] = {
    "average": "micro",
    "groups": Grouping({}, "micro"),
    "overlong": Overlong("left"),
    "default_split": "test",
}

TASK = Task(
    name="gsm8k",
    title="GSM8K",
    description="grade-school math word problems, solved in free text",
    licence="MIT",
    homepage="https://github.com/openai/grade-school-math",
    languages=("en",),
    subsets={"main": "GSM8K"},
    splits=("train", "test"),
    shots_split="train",
    folder="GSM8K",
    path=path,
    parse=parse,
    record_text=record_text,
    choices=(),
    protocols={
        protocol.name: protocol
        for protocol in (
            Protocol(
                name="lm-eval",
                source="EleutherAI/lm-evaluation-harness@4e7e0d4 tasks/gsm8k/gsm8k.yaml",
                summary="examples drawn for every question (seed 1234); headline: #### <number>",
                render=lm_eval,
                few_shot=drawn_per_sample,
                judge=judge_hash,
                headline="strict",
                **_COMMON,
            ),
            Protocol(
                name="cot8",
                source="EleutherAI/lm-evaluation-harness@4e7e0d4 tasks/gsm8k/gsm8k-cot.yaml",
                summary="eight fixed chains of thought; headline: The answer is <number>.",
                render=chain_of_thought,
                shots_split="cot8",
                default_shots=8,
                max_shots=8,
                judge=judge_sentence,
                headline="strict",
                **_COMMON,
            ),
            Protocol(
                name="cot-zeroshot",
                source="EleutherAI/lm-evaluation-harness@4e7e0d4 tasks/gsm8k/gsm8k-cot-zeroshot.yaml",
                summary="no examples, a cue to think step by step",
                render=zero_shot_chain_of_thought,
                default_shots=0,
                max_shots=0,
                judge=judge_sentence,
                headline="strict",
                **_COMMON,
            ),
            Protocol(
                name="oc4",
                source="open-compass/opencompass@4c87e77 gsm8k_gen_1d7fe4",
                summary="four chains of thought as chat turns; extraction of that revision (drops signs)",
                render=opencompass,
                shots_split="oc4",
                default_shots=4,
                max_shots=4,
                judge=each(judge_opencompass),
                headline="acc",
                **_COMMON,
            ),
        )
    },
    default_protocol="lm-eval",
    sizes={"train": 7473, "test": 1319},
)
