"""Random models of a few thousand weights, built from configurations: every architecture, no download."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from evalkit.backends.base import ModelInfo
from evalkit.backends.hf.backend import HfBackend
from evalkit.backends.hf.loading import LoadedModel
from evalkit.backends.tokenizer import HfTokenizer

_TEXT = [
    "Question: Which of these is the capital of a country?\nA. Rome\nB. Milan\nC. Turin\nD. Genoa\nAnswer: A",
    "Which of the North American mountain ranges is the oldest?\nA. North America\nB. North Africa\n",
    "The following are multiple choice questions (with answers) about geography.\n\n",
    "以下是关于地理的单项选择题，请直接给出正确答案的选项。\n题目：下列哪一个是首都？\n答案是：A",
]

_SIZE = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 2048}
_GROUPED = _HEADS | {"num_key_value_heads": 2}
_PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}


def _llama(**changes: Any) -> Any:
    return transformers.LlamaConfig(**(_SIZE | _GROUPED | changes))


def _phi3_longrope() -> Any:
    factors = {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
    rope = _PLAIN_ROPE | factors | {"rope_type": "longrope", "original_max_position_embeddings": 64}
    return transformers.Phi3Config(
        **(_SIZE | _GROUPED),
        original_max_position_embeddings=64,
        rope_parameters=rope,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


CONFIGS: dict[str, Callable[[], Any]] = {
    "llama-grouped": _llama,
    "llama-multihead": lambda: _llama(**_HEADS),
    "llama-tied": lambda: _llama(tie_word_embeddings=True),
    "mixtral": lambda: transformers.MixtralConfig(
        **(_SIZE | _GROUPED), num_local_experts=4, num_experts_per_tok=2, sliding_window=None
    ),
    "qwen2": lambda: transformers.Qwen2Config(**(_SIZE | _GROUPED)),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=400, n_positions=2048, n_embd=32, n_layer=2, n_head=4),
    "phi": lambda: transformers.PhiConfig(**(_SIZE | _HEADS)),
    "gemma": lambda: transformers.GemmaConfig(**(_SIZE | _GROUPED), head_dim=8),
    "gemma2": lambda: transformers.Gemma2Config(
        **(_SIZE | _GROUPED), head_dim=8, query_pre_attn_scalar=8, sliding_window=4096
    ),
    "cohere": lambda: transformers.CohereConfig(**(_SIZE | _GROUPED), logit_scale=0.25),
    "granite": lambda: transformers.GraniteConfig(**(_SIZE | _GROUPED), logits_scaling=3.0),
    "opt": lambda: transformers.OPTConfig(
        vocab_size=400, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4
    ),
    "bloom": lambda: transformers.BloomConfig(vocab_size=400, hidden_size=32, n_layer=2, n_head=4),
    "latent-attention": lambda: transformers.DeepseekV3Config(
        **(_SIZE | _HEADS),
        **{"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1},
        **{"moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_shared_experts": 1},
        **{"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8},
        v_head_dim=6,
    ),
    "recurrent": lambda: transformers.MambaConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=2, state_size=4
    ),
    "recurrent-gemma": lambda: transformers.RecurrentGemmaConfig(
        **(_SIZE | _GROUPED), lru_width=32, attention_window_size=64
    ),
    "llama4": lambda: transformers.Llama4TextConfig(
        **(_SIZE | _GROUPED), head_dim=8, intermediate_size_mlp=48, num_local_experts=2
    ),
    "parallel-hybrid": lambda: transformers.FalconH1Config(
        **(_SIZE | _GROUPED),
        **{"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_ssm": 64, "mamba_d_state": 4},
        lm_head_multiplier=0.5,
    ),
    "hybrid": lambda: transformers.Lfm2Config(**(_SIZE | _GROUPED), layer_types=["conv", "full_attention"]),
    "mistral-window": lambda: transformers.MistralConfig(**(_SIZE | _GROUPED), sliding_window=24),
    "mistral-wide-window": lambda: transformers.MistralConfig(**(_SIZE | _GROUPED), sliding_window=185),
    "llama-dynamic-rope": lambda: _llama(
        rope_parameters=_PLAIN_ROPE | {"rope_type": "dynamic", "factor": 2.0}
    ),
    "phi3-longrope": _phi3_longrope,
}


def tokenizer() -> HfTokenizer:
    """A byte-level BPE of 400 tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_TEXT, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return HfTokenizer(
        transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")
    )


def model(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """A model with weights large enough for predictions to depend on the whole context."""
    torch.manual_seed(0)
    built = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]())
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.25)
    return built.to(dtype).eval()


def backend(
    name: str, *, batch_tokens: int | None = None, dtype: torch.dtype = torch.float32, path: str | None = None
) -> HfBackend:
    """A backend on a tiny model, on its own choice of path or downgraded to `path`."""
    built = model(name, dtype)
    info = ModelInfo(name, "hf", str(dtype).removeprefix("torch."), f"tiny:{name}", 2048)
    found = HfBackend(LoadedModel(built, tokenizer(), info), batch_tokens)
    while path is not None and scoring_path(found) != path:
        assert found.downgrade() is not None, f"{name} has no {path} path"
    return found


def scoring_path(backend: HfBackend) -> str:
    return str(backend.info.details["scoring_path"])


def paths(name: str) -> list[str]:
    """Names of all scoring paths of a model, best first."""
    one = backend(name)
    found = [scoring_path(one)]
    while (lower := one.downgrade()) is not None:
        found.append(lower)
    return found
