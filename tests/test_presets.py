"""Model presets: sizes against the architectures themselves, conversations against the READMEs."""

from __future__ import annotations

import pytest
import torch
import transformers
from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer, models

from evalkit import presets
from evalkit.errors import UsageError
from evalkit.presets import Preset, resolve

ALL = list(presets.presets().values())
MODELS = pytest.mark.parametrize("preset", ALL, ids=lambda p: p.name)

IN_THE_READMES = {
    "orion-moe", "orion-14b", "mixtral-8x7b", "qwen1.5-32b", "qwen2.5-32b", "qwen2-57b-a14b",
    "xverse-7b", "xverse-7b-chat", "mistral-7b-openorca", "chinese-mixtral", "chinese-mixtral-instruct",
    "huozi3.5", "demo", "demo-moe",
}  # fmt: skip

MINIMAL = """
name: a
description: a
kind: base
source: a
licence: a
dtype: bfloat16
context: 8
parameters: 8
active_parameters: 8
architecture: A
shape: {model_type: llama, vocab_size: 2, hidden_size: 2, num_attention_heads: 2}
"""


def weights(preset: Preset) -> tuple[int, int]:
    """All weights of the preset's shape and those a token goes through, counted without memory for them."""
    config = transformers.AutoConfig.for_model(**preset.shape)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    total = sum(p.numel() for p in model.parameters())
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    n_experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None) or 1
    idle = experts * (n_experts - getattr(config, "num_experts_per_tok", 1)) // n_experts
    return total, total - idle


def conversation(name: str, *turns: tuple[str, str], add_generation_prompt: bool = True) -> str:
    """Turns in the preset's format, rendered as transformers does for a tokenizer."""
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()),
        bos_token="<s>",
        eos_token="</s>",
        chat_template=presets.presets()[name].chat_template,
    )
    messages = [{"role": role, "content": content} for role, content in turns]
    text: str = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=add_generation_prompt
    )
    return text


class TestFacts:
    def test_every_model_of_the_readmes_is_known(self) -> None:
        assert set(presets.presets()) >= IN_THE_READMES

    @MODELS
    def test_the_shape_has_the_stated_number_of_weights(self, preset: Preset) -> None:
        total, active = weights(preset)
        assert preset.parameters == pytest.approx(total, rel=0.01)
        assert preset.active_parameters == pytest.approx(active, rel=0.01)

    @pytest.mark.parametrize(
        ("name", "billions"),
        [("mixtral-8x7b", 46.7), ("huozi3.5", 46.7), ("qwen1.5-32b", 32.5), ("mistral-7b", 7.24)],
    )
    def test_the_number_of_weights_is_the_published_one(self, name: str, billions: float) -> None:
        assert presets.presets()[name].parameters / 1e9 == pytest.approx(billions, rel=0.01)

    @MODELS
    def test_the_context_is_the_shapes(self, preset: Preset) -> None:
        longest = preset.shape.get("max_position_embeddings") or preset.shape["max_seq_len"]
        assert preset.context == longest

    @MODELS
    def test_a_hub_model_says_where_it_is_and_a_conversation_how_it_ends(self, preset: Preset) -> None:
        assert (preset.hub_id is None) == preset.name.startswith("demo")
        assert preset.stop or not preset.chat_template
        assert preset.stand_in or not preset.needs_remote_code

    @pytest.mark.parametrize(("precision", "measured"), [("bfloat16", 16.2), ("int8", 9.1), ("int4", 5.9)])
    def test_memory_is_what_the_xverse_readme_measured(self, precision: str, measured: float) -> None:
        needed = presets.presets()["xverse-7b-chat"].memory_bytes(precision) / 1e9
        assert needed == pytest.approx(measured, rel=0.1)

    @pytest.mark.parametrize(
        ("name", "gpus"), [("orion-moe", 2), ("qwen2-57b-a14b", 2), ("falcon-7b", 1), ("qwen2.5-32b", 1)]
    )
    def test_tensor_parallel_size_holds_the_model_and_divides_its_heads(self, name: str, gpus: int) -> None:
        assert presets.presets()[name].tensor_parallel_size == gpus


class TestConversations:
    def test_openorca_readme(self) -> None:
        # The README's output has a line end after the system text that its input lacks.
        system = (
            "You are MistralOrca, a large language model trained by Alignment Lab AI. Write out your "
            "reasoning step-by-step to be sure you get the right answers!"
        )
        assert presets.presets()["mistral-7b-openorca"].system_prompt == system
        text = conversation(
            "mistral-7b-openorca",
            ("system", f"{system}\n"),
            ("user", "How are you?"),
            ("assistant", "I am doing well!"),
            ("user", "Please tell me about how mistral winds have attracted super-orcas."),
        )
        assert text == (
            f"<|im_start|>system\n{system}\n<|im_end|>\n"
            "<|im_start|>user\nHow are you?<|im_end|>\n"
            "<|im_start|>assistant\nI am doing well!<|im_end|>\n"
            "<|im_start|>user\nPlease tell me about how mistral winds have attracted super-orcas.<|im_end|>\n"
            "<|im_start|>assistant\n"
        )

    @pytest.mark.parametrize("roles", [("system", "user"), ("系统", "用户")])
    def test_huozi_readme(self, roles: tuple[str, str]) -> None:
        turns = ((roles[0], "你是一个智能助手"), (roles[1], "请你用python写一段快速排序的代码"))
        assert conversation("huozi3.5", *turns) == (
            "<|beginofutterance|>系统\n"
            "你是一个智能助手<|endofutterance|>\n"
            "<|beginofutterance|>用户\n"
            "请你用python写一段快速排序的代码<|endofutterance|>\n"
            "<|beginofutterance|>助手\n"
        )

    def test_a_past_answer_of_huozi_is_closed(self) -> None:
        text = conversation("huozi3.5", ("user", "a"), ("assistant", "b"), ("user", "c"))
        assert "<|beginofutterance|>助手\nb<|endofutterance|>\n<|beginofutterance|>用户\nc" in text

    def test_chinese_mixtral_instruct_readme(self) -> None:
        text = conversation(
            "chinese-mixtral-instruct",
            ("user", "Instruction"),
            ("assistant", "Model answer"),
            ("user", "Follow-up instruction"),
        )
        assert text == "<s>[INST] Instruction [/INST] Model answer</s> [INST] Follow-up instruction [/INST]"
        # The README lost both special tokens, which it names in its note, to its formatting.
        printed = "[INST] Instruction [/INST] Model answer [INST] Follow-up instruction [/INST]"
        assert text.replace("<s>", "").replace("</s>", "") == printed

    def test_xverse(self) -> None:
        text = conversation("xverse-7b-chat", ("user", "a"), ("assistant", "b"), ("user", "c"))
        assert text == "Human: a\n\nAssistant: b</s>Human: c\n\nAssistant: "

    @pytest.mark.parametrize("name", ["chinese-mixtral-instruct", "xverse-7b-chat"])
    def test_a_format_without_a_system_turn_says_so(self, name: str) -> None:
        with pytest.raises(TemplateError, match="only user and assistant turns"):
            conversation(name, ("system", "a"), ("user", "b"))


class TestResolution:
    def test_a_preset_is_its_hub_model_in_its_precision(self) -> None:
        found = resolve("orion-moe")
        assert (found.location, found.revision, found.dtype) == (
            "OrionStarAI/Orion-MoE8x7B",
            "main",
            "bfloat16",
        )
        assert found.path() == found.location

    def test_what_the_user_says_goes_first(self) -> None:
        found = resolve("orion-moe", revision="abc", dtype="float32")
        assert (found.revision, found.dtype) == ("abc", "float32")

    def test_anything_else_stands_for_itself(self) -> None:
        found = resolve("org/name")
        assert (found.location, found.revision, found.dtype, found.preset) == ("org/name", None, "auto", None)
        assert resolve("./a.gguf").is_gguf


class TestParsing:
    def test_the_least_a_preset_needs(self) -> None:
        assert presets.parse(MINIMAL, "a.yaml").hub_id is None

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (MINIMAL + "colour: red\n", "a.yaml: not a model preset"),
            (MINIMAL.replace("context: 8", "context: 0"), "context"),
            (MINIMAL.replace("kind: base", "kind: tall"), "kind"),
            (MINIMAL.replace("name: a", "name: b"), "the preset in it is called 'b'"),
            ("a: [", "a.yaml: not a model preset"),
        ],
    )
    def test_a_wrong_preset_is_refused(self, text: str, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            presets.parse(text, "a.yaml")
