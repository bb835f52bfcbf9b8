"""HumanEval: 164 Python functions to complete, judged by running them (Chen et al., arXiv 2107.03374)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.data.jsonfile import read_json_lines
from evalkit.metrics import humaneval_code as code
from evalkit.metrics.code import pass_at_k
from evalkit.task import (
    Grouping,
    Judge,
    Judgement,
    JudgeSettings,
    Overlong,
    PromptInput,
    Protocol,
    RecordText,
    Task,
)
from evalkit.types import GenerateRequest, Message, Sample, Sampling

if TYPE_CHECKING:
    from evalkit.sandbox import Verdict

STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
MAX_NEW_TOKENS = 1024
OC_MAX_NEW_TOKENS = 512
KS = (1, 10, 100)
"""pass@k is reported for every k that the number of completions of every problem allows."""

_KEYS = ("task_id", "prompt", "canonical_solution", "test", "entry_point")

BuildProgram = Callable[[Sample, str], str]
"""(problem, completion) to the whole program text, tests included."""


def path(_split: str, _subset: str) -> str:
    """Path of the official file below the benchmark's folder."""
    return "data/HumanEval.jsonl.gz"


def parse(file: Path, _split: str, subset: str) -> list[Sample]:
    """Read the official file."""
    samples: dict[str, Sample] = {}
    for record in read_json_lines(file, _KEYS):
        identifier = record.text("task_id")
        if identifier in samples:
            raise record.corrupt(f"repeated id {identifier!r}")
        fields = {key: record.text(key) for key in _KEYS[1:]}
        samples[identifier] = Sample(identifier, subset, fields, "passed")
    return list(samples.values())


def record_text(sample: Sample) -> RecordText:
    """The function up to its docstring, and the publisher's own solution."""
    return RecordText(sample.fields["prompt"], sample.fields["canonical_solution"])


def base(p: PromptInput) -> GenerateRequest:
    """Let the model continue the code."""
    return GenerateRequest(p.sample.fields["prompt"], MAX_NEW_TOKENS, STOPS)


def base_drawn(p: PromptInput) -> GenerateRequest:
    """Draw 200 continuations, as the paper does for pass@100."""
    sampling = Sampling(0.8, top_p=0.95, n=200)
    return GenerateRequest(p.sample.fields["prompt"], MAX_NEW_TOKENS, STOPS, sampling)


def lm_eval_instruct(p: PromptInput) -> GenerateRequest:
    """Ask in a chat turn and begin the answer with the code so far."""
    prompt = p.sample.fields["prompt"]
    task = "Write a solution to the following problem and make sure that it passes the tests:"
    ask = f"{task}\n```python\n{prompt}\n```\n"
    begin = f"Here is the completed function:\n```python\n{prompt}\n"
    return GenerateRequest((Message("user", ask),), MAX_NEW_TOKENS, STOPS, prefill=begin)


def oc_v1(p: PromptInput) -> GenerateRequest:
    """Ask in a chat turn that is the code so far."""
    return GenerateRequest((Message("user", p.sample.fields["prompt"]),), OC_MAX_NEW_TOKENS)


def oc_v2(p: PromptInput) -> GenerateRequest:
    """Ask in a chat turn to complete the code."""
    ask = f"Complete the following python code:\n{p.sample.fields['prompt']}"
    return GenerateRequest((Message("user", ask),), OC_MAX_NEW_TOKENS)


def chat(p: PromptInput) -> GenerateRequest:
    """Ask in a chat turn to complete the code, with room for explanations."""
    return GenerateRequest(oc_v2(p).prompt, MAX_NEW_TOKENS)


def _body(extract: Callable[[str], str]) -> BuildProgram:
    """Append what `extract` takes out of the completion to the prompt."""

    def build(sample: Sample, completion: str) -> str:
        f = sample.fields
        return code.program(f["prompt"], extract(completion), f["test"], f["entry_point"])

    return build


def _whole(sample: Sample, completion: str) -> str:
    """Take the code block that defines the function as the whole program."""
    f = sample.fields
    return code.program(
        "", code.code_block(completion, f["prompt"], f["entry_point"]), f["test"], f["entry_point"]
    )


def by_running(build: BuildProgram) -> Judge:
    """Make a judge that runs every completion and reports pass@k."""

    def judge(answered: Sequence[tuple[Sample, Sequence[str]]], settings: JudgeSettings) -> list[Judgement]:
        from evalkit.sandbox import Program, run_programs

        programs = [
            Program(build(sample, completion))
            for sample, completions in answered
            for completion in completions
        ]
        verdicts = iter(run_programs(programs, unsafe=settings.unsafe_local_code))
        fewest = min(len(completions) for _, completions in answered)
        return [_judgement([next(verdicts) for _ in completions], fewest) for _, completions in answered]

    return judge


def _judgement(verdicts: Sequence[Verdict], fewest: int) -> Judgement:
    """pass@k for every k that each problem has completions for, with and without the second attempt."""
    n = len(verdicts)
    correct = sum(v.status == "passed" for v in verdicts)
    at_once = sum(v.status == "passed" and not v.retried for v in verdicts)
    metrics = {f"pass@{k}": pass_at_k(n, correct, k) for k in KS if k <= fewest}
    metrics["pass@1_without_retry"] = pass_at_k(n, at_once, 1)
    timeouts = sum(v.status == "timeout" for v in verdicts) / n
    first = verdicts[0]
    prediction = first.status if first.status == "passed" else f"{first.status}: {first.detail}"
    return Judgement(prediction, metrics | {"timeout": timeouts})


def ready(settings: JudgeSettings) -> None:
    """Check before anything is generated that programs can be run safely."""
    from evalkit.sandbox import require

    require(settings.unsafe_local_code)


def _protocol(
    name: str,
    source: str,
    summary: str,
    render: Callable[[PromptInput], GenerateRequest],
    build: BuildProgram,
) -> Protocol:
    return Protocol(
        name=name,
        source=source,
        summary=summary,
        render=render,
        judge=by_running(build),
        ready=ready,
        several_completions=True,
        headline="pass@1",
        average="micro",
        groups=Grouping({}, "micro"),
        overlong=Overlong("error"),
        default_split="test",
        default_shots=0,
        max_shots=0,
    )


_OC = "open-compass/opencompass@4c87e77"

TASK = Task(
    name="humaneval",
    title="HumanEval",
    description="164 Python functions to complete, judged by running their tests in a sandbox",
    licence="MIT",
    homepage="https://github.com/openai/human-eval",
    languages=("en",),
    subsets={"humaneval": "HumanEval"},
    splits=("test",),
    shots_split="test",
    folder="HumanEval",
    path=path,
    parse=parse,
    record_text=record_text,
    choices=(),
    protocols={
        protocol.name: protocol
        for protocol in (
            _protocol("base", "openai/human-eval@6d43fb9", "the model continues the code", base, _body(str)),
            _protocol(
                "base-n200",
                "openai/human-eval@6d43fb9",
                "200 continuations drawn at temperature 0.8; pass@1, @10, @100",
                base_drawn,
                _body(str),
            ),
            _protocol(
                "lm-eval-instruct",
                "EleutherAI/lm-evaluation-harness@4e7e0d4 tasks/humaneval/humaneval_instruct.yaml",
                "a chat turn whose answer begins with the code so far; cut at the first fence",
                lm_eval_instruct,
                _body(code.fenced_prefix),
            ),
            _protocol(
                "oc-v1",
                f"{_OC} humaneval_gen_a82cae",
                "chat turn; extraction that cuts at the first blank line (ceiling 77 %)",
                oc_v1,
                _body(code.oc_v1),
            ),
            _protocol(
                "oc-v2",
                f"{_OC} humaneval_gen_8e312c",
                "chat turn; extraction that drops blank lines",
                oc_v2,
                _body(code.oc_v2),
            ),
            _protocol(
                "chat",
                f"prompt of {_OC} humaneval_gen_8e312c; evalkit's own extraction",
                "chat turn; the code block that defines the function, with the prompt's imports and helpers",
                chat,
                _whole,
            ),
        )
    },
    default_protocol="base",
    sizes={"test": 164},
)
