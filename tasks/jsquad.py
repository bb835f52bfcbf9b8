"""JSQuAD: Japanese reading comprehension, part of JGLUE (Kurihara et al., LREC 2022)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evalkit.data.jsonfile import Record, squad_records
from evalkit.fewshot import FewShot, drawn_in_shuffled_order, drawn_per_sample
from evalkit.metrics import japanese
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
    needs,
)
from evalkit.types import GenerateRequest, Sample

MAX_NEW_TOKENS = 256

_FILES = {"train": "train", "validation": "valid", "test": "test"}


def path(split: str, _subset: str) -> str:
    """Path of one official file below the benchmark's folder."""
    return f"datasets/jsquad-v1.3/{_FILES[split]}-v1.3.json"


def parse(file: Path, _split: str, subset: str) -> list[Sample]:
    """Read one official file; of a context, what follows its title mark is used."""
    samples: dict[str, Sample] = {}
    for record, title, context in squad_records(file, ("id", "question", "answers")):
        texts = _answers(record)
        identifier = record.text("id")
        if identifier in samples:
            raise record.corrupt(f"repeated id {identifier!r}")
        fields = {
            "title": title,
            "context": context.split("[SEP]")[-1].strip(),
            "question": record.text("question"),
            "answers": texts,
        }
        samples[identifier] = Sample(identifier, subset, fields, texts[0])
    return list(samples.values())


def record_text(sample: Sample) -> RecordText:
    """The question and its first answer; the paragraph is Wikipedia's."""
    return RecordText(sample.fields["question"], sample.fields["answers"][0])


def _answers(record: Record) -> list[str]:
    answers = record.fields["answers"]
    texts = [a.get("text") for a in answers if isinstance(a, dict)] if isinstance(answers, list) else []
    if not texts or len(texts) < len(answers) or not all(texts):
        raise record.corrupt("answers holds no text")
    return replace(record, fields={"text": texts}).texts("text")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One published prompt version."""

    description: str
    block: str
    stop: str = "\n"
    between: str = "\n\n"
    """What separates an example's answer from the next block."""


_INSTRUCTION = "与えられた文脈から、質問に対する答えを抜き出してください。"
_ALPACA = (
    "以下は、タスクを説明する指示と、文脈のある入力の組み合わせです。要求を適切に満たす応答を書きなさい。\n\n"
)
_FINTAN = "一言で抽出してください。回答は名詞で答えてください。\n\n"


def _alpaca(context: str) -> str:
    return f"### 指示:\n{_INSTRUCTION}\n\n### 入力:\n文脈：{context}\n質問：{{question}}\n\n### 応答:\n"


PROMPTS = {
    "1.1-0.1": Prompt(
        "[題名]と[問題]から[質問]に対する[答え]を抜き出しなさい\n\n",
        "[題名]:{title}\n[問題]:{context}\n[質問]:{question}\n[答え]:",
    ),
    "1.1-0.2": Prompt(f"質問に対する回答を文章から{_FINTAN}", "文章:{context}\n質問:{question}\n回答:"),
    "1.2-0.2": Prompt(
        f"質問に対する回答を題名と文章から{_FINTAN}", "題名:{title}\n文章:{context}\n質問:{question}\n回答:"
    ),
    "1.1-0.3": Prompt(_ALPACA, _alpaca("{context}")),
    "1.2-0.3": Prompt(_ALPACA, _alpaca("{title}\n{context}")),
    "1.1-0.4": Prompt(
        f"ユーザー: {_INSTRUCTION}<NL>システム: 分かりました。<NL>",
        "ユーザー: 文脈：{context}<NL>質問：{question}<NL>システム: ",
        stop="<NL>",
        between="<NL>",
    ),
    "1.1-0.5": Prompt(
        f"ユーザー: {_INSTRUCTION}\nシステム: 分かりました。\n",
        "ユーザー: 文脈：{context}\n質問：{question}\nシステム: ",
        between="\n",
    ),
    "1.1-0.6": Prompt(
        "<s>[INST] <<SYS>>\nあなたは役立つアシスタントです。\n<</SYS>>\n\n",
        f"{_INSTRUCTION}\n\n文脈：{{context}}\n質問：{{question}} [/INST] ",
        between=" </s><s>[INST] ",
    ),
}
"""Prompt versions of lm-evaluation-harness jp-stable: data version, then prompt version."""

_LEADERBOARD = Prompt(
    _ALPACA,
    f"### 指示：\n{_INSTRUCTION}\n\n### 入力：\n文脈：{{context}}\n質問：{{question}}\n\n### 応答：",
    stop="\n\n",
)


def _ask(prompt: Prompt, sample: Sample) -> str:
    fields = sample.fields
    return prompt.block.format(title=fields["title"], context=fields["context"], question=fields["question"])


def _render(
    prompt: Prompt, *, answer_mark: str = "", dynamic: bool = False
) -> Callable[[PromptInput], GenerateRequest]:
    def render(p: PromptInput) -> GenerateRequest:
        shots = "".join(f"{_ask(prompt, shot)}{answer_mark}{shot.target}{prompt.between}" for shot in p.shots)
        return GenerateRequest(
            prompt.description + shots + _ask(prompt, p.sample),
            MAX_NEW_TOKENS,
            stop=(prompt.stop,),
            no_longer_than=tuple(p.sample.fields["answers"]) if dynamic else (),
        )

    return render


def judge(sample: Sample, completion: str) -> Judgement:
    """Exact match and two F1 scores, each the best over the answers."""
    answers = sample.fields["answers"]
    return Judgement(
        completion,
        {
            "exact_match": japanese.exact_match(completion, answers),
            "f1": japanese.token_f1(completion, answers),
            "char_f1": japanese.char_f1(completion, answers),
        },
    )


def judge_verbatim(sample: Sample, completion: str) -> Judgement:
    """Exact match after trimming blanks, against the first answer."""
    matches = completion.strip() == (sample.target or "").strip()
    return Judgement(completion.strip(), {"exact_match": float(matches)})


def _protocol(
    name: str,
    source: str,
    summary: str,
    render: Callable[[PromptInput], GenerateRequest],
    judged: Judge,
    few_shot: FewShot,
    **more: Any,
) -> Protocol:
    return Protocol(
        name=name,
        source=source,
        summary=summary,
        render=render,
        judge=judged,
        few_shot=few_shot,
        headline="exact_match",
        average="micro",
        groups=Grouping({}, "micro"),
        overlong=Overlong("left"),
        default_split="validation",
        default_shots=2,
        max_shots=8,
        **more,
    )


def _jp_stable() -> list[Protocol]:
    source = "Stability-AI/lm-evaluation-harness@effdbea (jp-stable) tasks/ja/jsquad.py"
    made = []
    for version, prompt in PROMPTS.items():
        for dynamic in (False, True):
            summary = "answers cut to the longest gold answer's tokens" if dynamic else "published prompt"
            made.append(
                _protocol(
                    f"jpstable-{version}{'-dynmax' if dynamic else ''}",
                    source,
                    f"jp-stable prompt {version}; {summary}",
                    _render(prompt, dynamic=dynamic),
                    each(judge),
                    drawn_in_shuffled_order,
                    ready=needs("emoji", "fugashi", "neologdn", "unidic_lite"),
                )
            )
    return made


TASK = Task(
    name="jsquad",
    title="JSQuAD",
    description="Japanese reading comprehension: the answer is a span of a paragraph",
    licence="CC BY-SA 4.0",
    homepage="https://github.com/yahoojapan/JGLUE",
    languages=("ja",),
    subsets={"jsquad": "JSQuAD"},
    splits=tuple(_FILES),
    shots_split="train",
    folder="JGLUE",
    path=path,
    parse=parse,
    record_text=record_text,
    choices=(),
    protocols={
        protocol.name: protocol
        for protocol in (
            *_jp_stable(),
            _protocol(
                "ja-leaderboard",
                "EleutherAI/lm-evaluation-harness@4e7e0d4 tasks/japanese_leaderboard",
                "exact match after trimming only, no normalisation",
                _render(_LEADERBOARD, answer_mark="\n"),
                each(judge_verbatim),
                drawn_per_sample,
            ),
        )
    },
    default_protocol="jpstable-1.1-0.3",
    sizes={"train": 62697, "validation": 4442, "test": 4420},
)
