"""Conversations: examples as turns, chat text as token ids, system prompts, and one BOS at most."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers import mock_run
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from toy import resolved_toy
from transformers import PreTrainedTokenizerFast

from evalkit import demo_models
from evalkit.backends.mock import MockBackend
from evalkit.backends.tokenizer import HfTokenizer, load_tokenizer
from evalkit.chat import example_turns, plain_text
from evalkit.data.source import open_source
from evalkit.errors import UsageError
from evalkit.preparation import RunOptions, load_jobs, render_prompts
from evalkit.prompts import Encoder, Prompt, prepare, render
from evalkit.spec import ResolvedTask, resolve
from evalkit.task import Grouping, Overlong, PromptInput, Protocol, Render
from evalkit.tokens import EncodedPrompt, EncodedRequest
from evalkit.types import GenerateRequest, Message, Sample, ScoreRequest

# -- templates and tokenizers -------------------------------------------------------------------------

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
HUOZI = (
    "{% set names = {'system': '系统', 'user': '用户', 'assistant': '助手'} %}{% for m in messages %}"
    "{{ '<|beginofutterance|>' + names[m.role] + '\n' + m.content + '<|endofutterance|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|beginofutterance|>助手\n' }}{% endif %}"
)
XVERSE = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ 'Human: ' + m.content + '\n\nAssistant: ' }}"
    "{% elif m.role == 'assistant' %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "inst": INST, "huozi": HUOZI, "xverse": XVERSE}
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|beginofutterance|>", "<|endofutterance|>"]
CORPUS = [
    "The following are multiple choice questions.\nA. Rome\nB. Milan\nAnswer: A\n\n",
    "Human: 下列哪一个是首都？\nA. 罗马\nB. 米兰\n答案：A\n\nAssistant: [INST] [/INST] user assistant",
]


@cache
def tokenizer(template: str | None, bos: str | None = "adds") -> HfTokenizer:
    """A byte-level tokenizer; its BOS is put in front of a text, or only known, or there is none."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=450, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(CORPUS, trainer)
    if bos == "adds":
        bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    named = {"bos_token": "<s>"} if bos else {}
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>", **named)
    fast.chat_template = template
    return HfTokenizer(fast)


def by_transformers(tok: Any, turns: tuple[Message, ...], beginning: str = "") -> list[int]:
    """Ids of a conversation as transformers makes them, and of the answer's beginning."""
    messages = [{"role": m.role, "content": m.content} for m in turns]
    if not beginning:
        found = tok.tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
        return list(found["input_ids"])
    text = tok.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(tok.tokenizer(text + beginning, add_special_tokens=False)["input_ids"])


def text_of(tok: Any, ids: Any) -> str:
    return str(tok.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


INPUT = PromptInput("s", "S", (), Sample("0", "s", {}, None))
TURNS = (
    Message("user", " 1 + 1?\n答案："),
    Message("assistant", "2"),
    Message("user", "2 + 2?\n答案："),
)


@pytest.mark.parametrize("bos", ["adds", "known", None])
@pytest.mark.parametrize("name", TEMPLATES)
class TestIds:
    def encoder(self, name: str, bos: str | None, **options: Any) -> Encoder:
        template = TEMPLATES[name] if bos else TEMPLATES[name].replace("{{ bos_token }}", "")
        return Encoder(tokenizer(template, bos), 4096, chat=True, **options)

    def test_are_those_of_transformers(self, name: str, bos: str | None) -> None:
        encoder = self.encoder(name, bos)
        for turns in (TURNS, TURNS[:1], (Message("user", "<|im_end|>  \n"),)):
            found = encoder.prompt(INPUT, GenerateRequest(turns, 5))
            assert found.ids.tolist() == by_transformers(encoder.tokenizer, turns)
            assert found.turns == turns

    def test_of_scored_options_begin_with_them(self, name: str, bos: str | None) -> None:
        encoder = self.encoder(name, bos)
        (question, *_) = TURNS
        encoded = encoder.encode_one(INPUT, ScoreRequest(question.content, (" A", " B C")))
        assert isinstance(encoded, EncodedRequest)
        expected = by_transformers(encoder.tokenizer, (question,))
        context = len(expected)
        # A template that ends in a blank has it merged with the answer's first word, as in training.
        if name == "xverse":
            context -= 1
        for j, option in enumerate(("A", "B C")):
            ids = encoded.sequence(j).tolist()
            assert ids == by_transformers(encoder.tokenizer, (question,), option)
            assert ids[:context] == expected[:context]
            assert encoded.starts[j] in (context, len(expected))

    def test_hold_the_beginning_of_the_answer(self, name: str, bos: str | None) -> None:
        encoder = self.encoder(name, bos, answer_prefix="答案是")
        found = encoder.prompt(INPUT, GenerateRequest(TURNS, 5, prefill="："))
        expected = by_transformers(encoder.tokenizer, TURNS, "答案是：")
        assert found.ids.tolist() == expected
        assert found.turns == (*TURNS, Message("assistant", "答案是："))
        encoded = encoder.encode_one(INPUT, ScoreRequest("1?", (" A", " B")))
        assert isinstance(encoded, EncodedRequest)
        for j, option in enumerate("AB"):
            ids = encoded.sequence(j).tolist()
            assert ids == by_transformers(encoder.tokenizer, (Message("user", "1?"),), f"答案是{option}")


def test_a_plain_prompt_keeps_the_tokenizers_own_bos() -> None:
    for bos, leading in (("adds", [0]), ("known", []), (None, [])):
        encoder = Encoder(tokenizer(CHATML, bos), 4096, chat=False)
        for text in ("1?", "<s>1?"):
            ids = encoder.prompt(INPUT, GenerateRequest(text, 5)).ids.tolist()
            assert ids.count(0) == len(leading) or (text.startswith("<s>") and ids.count(0) == 1)
            assert ids[: len(leading)] == leading


# -- examples as turns --------------------------------------------------------------------------------


def sample(i: int, question: str, answer: str) -> Sample:
    return Sample(str(i), "s", {"question": question}, answer)


def protocol(render: Render, overlong: Overlong | None = None) -> Protocol:
    return Protocol(
        name="p",
        source="",
        render=render,
        average="micro",
        groups=Grouping({}, "micro"),
        overlong=overlong or Overlong("error"),
        default_split="test",
    )


def few_shot(
    header: str = "", cue: str = "Answer:", before: str = " ", after: str = "\n\n", ask: str = "Question: "
) -> Callable[[PromptInput], GenerateRequest]:
    def block(s: Sample) -> str:
        return f"{ask}{s.fields['question']}\n{cue}"

    def render(p: PromptInput) -> GenerateRequest:
        shots = "".join(f"{block(s)}{before}{s.target}{after}" for s in p.shots)
        return GenerateRequest(f"{header}{shots}{block(p.sample)}", 10)

    return render


def turns_of(render: Render, p: PromptInput) -> tuple[Message, ...] | None:
    text = plain_text(render(p))
    assert text is not None
    return example_turns(render, p, text)


def squeezed(text: str) -> str:
    return "".join(text.split())


def asked(*pairs: tuple[str, str]) -> PromptInput:
    *shots, last = (sample(i, q, a) for i, (q, a) in enumerate(pairs))
    return PromptInput("s", "S", tuple(shots), last)


def test_examples_become_turns_and_the_header_stays_with_the_first() -> None:
    found = turns_of(few_shot("About numbers.\n\n"), asked(("1 + 1?", "2"), ("2 + 2?", "4"), ("3 + 3?", "6")))
    assert found == (
        Message("user", "About numbers.\n\nQuestion: 1 + 1?\nAnswer:"),
        Message("assistant", "2"),
        Message("user", "Question: 2 + 2?\nAnswer:"),
        Message("assistant", "4"),
        Message("user", "Question: 3 + 3?\nAnswer:"),
    )


def test_a_header_does_not_eat_the_end_of_an_answer() -> None:
    render = few_shot("Read. It is so.\n\n")
    found = turns_of(render, asked(("a", "No.\nIt is so."), ("b", "It is so."), ("c", "")))
    assert found is not None
    assert [m.content for m in found if m.role == "assistant"] == ["No.\nIt is so.", "It is so."]


lines = st.text(alphabet="ab .：题", min_size=1, max_size=8).filter(lambda t: t.strip() == t and t)
texts = st.lists(lines, min_size=1, max_size=3).map("\n".join)


@given(
    st.sampled_from(["", "Header.\n\n", "题。\n", "Two\nlines\n\n", "b. a!\n"]),
    st.lists(st.tuples(texts, texts), min_size=2, max_size=5),
    st.sampled_from(["\n", "\n\n", "\n###\n"]),
    st.sampled_from(["", " ", "\n"]),
)
@settings(deadline=None)
def test_turns_lose_nothing_but_white_space(
    header: str, pairs: list[tuple[str, str]], after: str, before: str
) -> None:
    render, p = few_shot(header, before=before, after=after), asked(*pairs)
    found = turns_of(render, p)
    assert found is not None
    assert squeezed("".join(m.content for m in found)) == squeezed(plain_text(render(p)) or "")
    assert [m.role for m in found] == ["user", "assistant"] * len(p.shots) + ["user"]
    for message, (_, answer) in zip(found[1::2], pairs, strict=False):
        assert message.content.startswith(answer)
        assert squeezed(message.content) in (squeezed(answer), squeezed(answer + after))
    for message, (question, _) in zip(found[::2], pairs, strict=True):
        assert message.content.endswith(f"Question: {question}\nAnswer:")


def header_only_with_examples(p: PromptInput) -> ScoreRequest:
    text = few_shot("Header.\n\n" if p.shots else "")(p).prompt
    return ScoreRequest(str(text), (" A",))


def answers_unlike_it_asks(p: PromptInput) -> GenerateRequest:
    shots = "".join(f"{s.fields['question']} is {s.target}\n" for s in p.shots)
    return GenerateRequest(f"{shots}{p.sample.fields['question']}?", 10)


def needs_what_examples_lack(p: PromptInput) -> GenerateRequest:
    return GenerateRequest(f"{'x' * len(p.shots)}{p.sample.fields['hint']}", 10)


@pytest.mark.parametrize(
    "render",
    [
        header_only_with_examples,
        answers_unlike_it_asks,
        few_shot(after="<NL>", cue="A:"),
        few_shot("Header. ", after=" "),
        needs_what_examples_lack,
    ],
)
def test_examples_that_do_not_show_where_they_end_are_left_together(render: Render) -> None:
    p = asked(("a\nb", "1"), ("c\nd", "2"), ("e\nf", "3"))
    p = replace(p, sample=replace(p.sample, fields={**p.sample.fields, "hint": "?"}))
    assert turns_of(render, p) is None


def test_an_empty_answer_leaves_the_examples_together() -> None:
    assert turns_of(few_shot(), asked(("a", ""), ("b", "2"))) is None


def test_a_text_that_was_shortened_is_not_taken_apart() -> None:
    render, p = few_shot(), asked(("a", "1"), ("b", "2"))
    assert example_turns(render, p, "…Question: b\nAnswer:") is None


def rendered(spec: str, subset: str, data: str, n: int = 3) -> tuple[ResolvedTask, list[Any]]:
    (resolved,) = resolve(spec)
    source = open_source(data, offline=True)
    samples = source.load(resolved.task, resolved.split, subset)
    shots = source.shots(resolved, subset, samples)
    return resolved, render(resolved, samples[:n], shots[:n])


def check_turns(spec: str, subset: str, data: str, n_shots: int) -> None:
    resolved, pairs = rendered(spec, subset, data)
    assert pairs
    for p, request in pairs:
        text = plain_text(request)
        assert text is not None
        found = example_turns(resolved.protocol.render, p, text)
        assert found is not None
        assert len(found) == 2 * n_shots + 1
        assert squeezed("".join(m.content for m in found)) == squeezed(text)
        if resolved.task.choices:
            assert [m.content for m in found[1::2]] == [shot.target for shot in p.shots]


EXAMS = [("mmlu", "computer_security"), ("ceval", "computer_network"), ("cmmlu", "astronomy")]


@pytest.mark.parametrize("protocol_name", ["official", "lm-eval"])
@pytest.mark.parametrize(("task", "subset"), EXAMS)
def test_the_exams_examples_become_turns(task: str, subset: str, protocol_name: str) -> None:
    split = "val" if task == "ceval" else "test"
    check_turns(f"{task}@{protocol_name}:{split}:5shot", subset, "sample", 5)


KOBEST = ("boolq", "copa", "wic", "hellaswag", "sentineg")


@pytest.mark.data
@pytest.mark.parametrize(
    ("spec", "subset", "n_shots"),
    [
        *((f"{task}:{'val' if task == 'ceval' else 'test'}:5shot", subset, 5) for task, subset in EXAMS),
        ("gsm8k@lm-eval:test:5shot", "main", 5),
        ("gsm8k@cot8:test:8shot", "main", 8),
        *((f"kobest_{t}@{name}:test:3shot", t, 3) for t in KOBEST for name in ("lm-eval", "author")),
    ],
)
def test_examples_of_official_data_become_turns(
    spec: str, subset: str, n_shots: int, official_data: Path
) -> None:
    check_turns(spec, subset, str(official_data), n_shots)


# -- golden texts -------------------------------------------------------------------------------------


def options(s: Sample) -> str:
    return "".join(f"{letter}. {s.fields[letter]}\n" for letter in "ABCD")


HEADER = "以下是中国关于计算机网络考试的单项选择题，请选出其中的正确答案。\n\n"


def golden(name: str, first: str, answer: str, second: str) -> str:
    """One example and a question in each format, put together by hand."""
    return {
        "chatml": (
            f"<|im_start|>system\n谨慎作答。<|im_end|>\n<|im_start|>user\n{first}<|im_end|>\n"
            f"<|im_start|>assistant\n{answer}<|im_end|>\n<|im_start|>user\n{second}<|im_end|>\n"
            "<|im_start|>assistant\n"
        ),
        "inst": f"<s>[INST] {first} [/INST]{answer}</s>[INST] {second} [/INST]",
        "huozi": (
            f"<|beginofutterance|>系统\n谨慎作答。<|endofutterance|>\n<|beginofutterance|>用户\n{first}"
            f"<|endofutterance|>\n<|beginofutterance|>助手\n{answer}<|endofutterance|>\n"
            f"<|beginofutterance|>用户\n{second}<|endofutterance|>\n<|beginofutterance|>助手\n"
        ),
        "xverse": f"Human: {first}\n\nAssistant: {answer}</s>Human: {second}\n\nAssistant: ",
    }[name]


def conversing(name: str, resolved: ResolvedTask) -> Encoder:
    system = "谨慎作答。" if name in ("chatml", "huozi") else None
    return Encoder(tokenizer(TEMPLATES[name]), 1 << 20, True, system=system, render=resolved.protocol.render)


def check_ceval(name: str, data: str) -> None:
    resolved, pairs = rendered("ceval@official:val:1shot", "computer_network", data)
    encoder = conversing(name, resolved)
    for (p, _), prompt in zip(pairs, prepare(resolved, pairs, encoder), strict=True):
        (shot,), asks = p.shots, p.sample
        text = golden(
            name,
            f"{HEADER}{shot.fields['question']}\n{options(shot)}答案：",
            str(shot.target),
            f"{asks.fields['question']}\n{options(asks)}答案：",
        )
        assert isinstance(prompt.encoded, EncodedRequest)
        for j, letter in enumerate("ABCD"):
            assert text_of(encoder.tokenizer, prompt.encoded.sequence(j)) == text + letter


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_golden_text_of_ceval_on_sample_data(name: str) -> None:
    check_ceval(name, "sample")


@pytest.mark.data
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_golden_text_of_ceval(name: str, official_data: Path) -> None:
    check_ceval(name, str(official_data))


@pytest.mark.data
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_golden_text_of_gsm8k(name: str, official_data: Path) -> None:
    resolved, pairs = rendered("gsm8k@lm-eval:test:1shot", "main", str(official_data))
    encoder = conversing(name, resolved)
    for (p, _), prompt in zip(pairs, prepare(resolved, pairs, encoder), strict=True):
        (shot,), asks = p.shots, p.sample
        text = golden(
            name,
            f"Question: {shot.fields['question']}\nAnswer:",
            shot.fields["answer"],
            f"Question: {asks.fields['question']}\nAnswer:",
        )
        assert isinstance(prompt.encoded, EncodedPrompt)
        assert text_of(encoder.tokenizer, prompt.encoded.ids) == text


# -- prompts that do not fit --------------------------------------------------------------------------


def fitted(overlong: Overlong, window: int) -> tuple[Prompt, str]:
    one = protocol(few_shot(), overlong)
    resolved = resolved_toy(one, subsets=["s"], shots=2)
    p = asked(("one " * 20, "1"), ("two", "2"), ("three", "3"))
    encoder = Encoder(tokenizer(CHATML), window, True, render=one.render)
    (prompt,) = prepare(resolved, [(p, one.render(p))], encoder)
    assert isinstance(prompt.encoded, EncodedPrompt)
    return prompt, text_of(encoder.tokenizer, prompt.encoded.ids)


def test_examples_that_are_left_are_turns_still() -> None:
    whole, text = fitted(Overlong("drop_longest_shot"), 4096)
    assert (whole.truncated, text.count("<|im_start|>user")) == (False, 3)
    shorter, text = fitted(Overlong("drop_longest_shot"), whole.encoded.n_inputs + 9)
    assert shorter.truncated
    assert text == (
        "<|im_start|>user\nQuestion: two\nAnswer:<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
        "<|im_start|>user\nQuestion: three\nAnswer:<|im_end|>\n<|im_start|>assistant\n"
    )
    shorter, text = fitted(Overlong("drop_last_shot"), whole.encoded.n_inputs + 9)
    assert (shorter.truncated, text.count("<|im_start|>user"), "one one" in text) == (True, 2, True)


def test_what_is_cut_in_the_middle_is_one_turn() -> None:
    whole, _ = fitted(Overlong("middle"), 4096)
    cut, text = fitted(Overlong("middle"), whole.encoded.n_inputs - 10)
    assert cut.truncated
    assert cut.encoded.n_inputs <= whole.encoded.n_inputs - 20
    assert text.startswith("<|im_start|>user\nQuestion: one")
    assert text.endswith("Question: three\nAnswer:<|im_end|>\n<|im_start|>assistant\n")
    assert text.count("<|im_start|>user") == 1


# -- what does not go together ------------------------------------------------------------------------


def conversation(template: str | None, system: str | None = None) -> EncodedPrompt:
    encoder = Encoder(tokenizer(template), 4096, True, system=system)
    return encoder.prompt(INPUT, GenerateRequest("1?", 5))


def test_a_model_without_a_template_has_no_conversations() -> None:
    with pytest.raises(UsageError, match=r"no chat template.*use --no-chat"):
        conversation(None)


@pytest.mark.parametrize(
    ("template", "what"), [(INST, "refuses the prompt: .*alternate"), (XVERSE, "leaves")]
)
def test_a_template_without_a_system_role_is_an_error(template: str, what: str) -> None:
    with pytest.raises(UsageError, match=f"{what}.*leave out --system"):
        conversation(template, "Be brief.")


def test_options_are_not_scored_as_reasoning() -> None:
    thinks = CHATML.replace("assistant\n' }}", "assistant\n<think>\n' }}")
    encoder = Encoder(tokenizer(thinks), 4096, True, reasoning=("<think>", "</think>"))
    with pytest.raises(UsageError, match=r"ends with <think>.*--answer-prefix '</think>'"):
        encoder.encode_one(INPUT, ScoreRequest("1?", (" A", " B")))
    encoder.encode_one(INPUT, GenerateRequest("1?", 5))
    replace(encoder, answer_prefix="</think>").encode_one(INPUT, ScoreRequest("1?", (" A", " B")))


def test_a_system_prompt_takes_the_place_of_the_protocols_own() -> None:
    encoder = Encoder(tokenizer(CHATML), 4096, True, system="Mine.")
    own = GenerateRequest((Message("system", "Theirs."), Message("user", "1?")), 5)
    assert encoder.prompt(INPUT, own).turns == (Message("system", "Mine."), Message("user", "1?"))


@pytest.mark.parametrize("option", ["system", "answer_prefix"])
@pytest.mark.parametrize("chat", [None, False])
def test_parts_of_a_conversation_need_one(option: str, chat: bool | None, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} is part .* add --chat"):
        mock_run(tmp_path / "run", chat=chat, **{option: "x"})


class Conversing(MockBackend):
    """The mock with a tokenizer of transformers."""

    def __init__(self, tok: HfTokenizer) -> None:
        super().__init__()
        self.tokenizer = tok  # type: ignore[assignment]


def data_of(tok: HfTokenizer, tasks: str, **options: Any) -> dict[str, Any]:
    """What is put down of a task when its prompts are made."""
    asked_for = RunOptions("mock", tasks, limit=1, **options)
    (job,) = load_jobs(asked_for, open_source("sample", offline=True))
    render_prompts(job, Conversing(tok), asked_for)
    return job.data


class TestManifest:
    @pytest.mark.parametrize(
        ("template", "bos", "expected"),
        [
            *((CHATML, bos, 0) for bos in ("adds", "known")),
            (CHATML, None, None),
            *((INST, bos, 1) for bos in ("adds", "known")),
        ],
    )
    def test_says_what_became_of_template_bos_and_examples(
        self, template: str, bos: str | None, expected: int | None
    ) -> None:
        data = data_of(tokenizer(template, bos), "cmmlu", chat=True)
        sha256 = hashlib.sha256(template.encode()).hexdigest()
        assert data["chat_template"] is True
        assert data["bos"] == expected
        assert data["chat"] == {"template_sha256": sha256, "examples": "turns"}

    def test_says_where_examples_could_not_be_told_apart(self) -> None:
        data = data_of(tokenizer(CHATML), "cmmlu@cn-mixtral", chat=True)
        assert data["chat"]["examples"] == "one turn"
        assert data_of(tokenizer(CHATML), "cmmlu:test:0shot", chat=True)["chat"]["examples"] is None

    @pytest.mark.parametrize(("bos", "expected"), [("adds", 1), ("known", 0), (None, None)])
    def test_says_it_of_plain_prompts_too(self, bos: str | None, expected: int | None) -> None:
        data = data_of(tokenizer(CHATML, bos), "cmmlu")
        assert (data["chat_template"], data["bos"]) == (False, expected)
        assert "chat" not in data

    def test_is_not_written_with_two_bos(self) -> None:
        twice = INST.replace("{{ bos_token }}", "{{ bos_token + bos_token }}")
        with pytest.raises(
            UsageError, match="begins with 2 BOS tokens: the chat template of mock writes one"
        ):
            data_of(tokenizer(twice), "cmmlu", chat=True)
        written = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
        with pytest.raises(UsageError, match="--no-chat"):
            data_of(tokenizer(written), "cmmlu", chat=True, system="<s>Be brief.")

    def test_holds_the_options(self, tmp_path: Path) -> None:
        given_ = {"chat": True, "answer_prefix": "答", "reasoning_tags": ("<think>", "</think>")}
        mock_run(tmp_path / "run", **given_)
        asked_for = json.loads((tmp_path / "run/manifest.json").read_text("utf-8"))["request"]
        assert asked_for["reasoning_tags"] == ["<think>", "</think>"]
        assert (asked_for["answer_prefix"], asked_for["system"]) == ("答", None)
        mock_run(tmp_path / "run", **given_, resume=True)
        for change in ({"answer_prefix": "A"}, {"system": "x"}, {"reasoning_tags": ("<a>", "</a>")}):
            (name,) = change
            with pytest.raises(UsageError, match=f"another --{name.replace('_', '-')}"):
                mock_run(tmp_path / "run", **(given_ | change), resume=True)


# -- for real -----------------------------------------------------------------------------------------


@pytest.mark.model
def test_the_demo_models_conversations_are_those_of_transformers() -> None:
    tok = load_tokenizer(str(demo_models.ensure("demo")))
    encoder = Encoder(tok, 4096, True)
    for turns in (TURNS, TURNS[:1], (Message("system", "Be brief."), *TURNS)):
        found = encoder.prompt(INPUT, GenerateRequest(turns, 5)).ids.tolist()
        assert found == by_transformers(tok, turns)
        assert "You are a helpful AI assistant" in text_of(tok, found) or turns[0].role == "system"


@pytest.mark.model
def test_the_demo_model_converses(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "evalkit",
        "run",
        "--model",
        "demo",
        "--tasks",
        "ceval:val:2shot,mmlu@oc-gen:test:1shot",
    ]
    command += ["--data", "sample", "--limit", "1", "--chat", "--output", "run", "--json", "--log-prompts"]
    command += ["--system", "Answer with a letter.", "--answer-prefix", "The answer is "]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
    assert manifest["request"]["system"] == "Answer with a letter."
    assert manifest["equality_gate"]["passed"]
    for task in manifest["tasks"].values():
        assert task["data"]["chat_template"] is True
        # ChatML begins with <|im_start|>, which this tokenizer has as its BOS as well.
        assert task["data"]["bos"] == 1
        assert task["data"]["chat"]["examples"] == "turns"
        assert len(task["data"]["chat"]["template_sha256"]) == 64
    rows = pq.read_table(tmp_path / "run" / "samples.parquet").to_pylist()
    assert all(row["error"] is None for row in rows)
