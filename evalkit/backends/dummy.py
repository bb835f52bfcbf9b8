"""Models of a known shape with random weights: they measure speed and memory, and know nothing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from evalkit import demo_models
from evalkit.backends.tokenizer import HfTokenizer, load_tokenizer, reason
from evalkit.errors import UsageError
from evalkit.presets import ModelSource

_log = logging.getLogger(__name__)

SEED = 0
"""Of the weights; part of what names such a model."""


def configure(
    model: ModelSource, *, trust_remote_code: bool = False, offline: bool = False
) -> tuple[Any, HfTokenizer, str]:
    """Configuration and tokenizer of the model, and where the tokenizer is from.

    A model whose own tokenizer is not on this machine takes the demo model's; the vocabulary grows
    where that has more tokens, so that every id has an embedding.

    Raises:
        UsageError: there is no configuration, or no tokenizer at all.
    """
    config = read_config(model, trust_remote_code=trust_remote_code, offline=offline)
    tokenizer, origin = _tokenizer(model, trust_remote_code=trust_remote_code)
    text = config.get_text_config()
    if (n_tokens := len(tokenizer.tokenizer)) > text.vocab_size:
        origin += f"; vocabulary raised from {text.vocab_size:,} to its {n_tokens:,} tokens"
        text.vocab_size = n_tokens
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(text, name, getattr(tokenizer.tokenizer, name))
    return config, tokenizer, origin


def build(config: Any, *, dtype: Any, device: Any, trust_remote_code: bool = False) -> Any:
    """The architecture with weights drawn from `SEED`, made where and as wide as they are used.

    Args:
        config: configuration of transformers; its own initialisation keeps the logits finite.
        dtype: torch dtype of the weights.
        device: torch device to hold them.
        trust_remote_code: whether code that comes with the model may run.
    """
    import torch
    from transformers import AutoModelForCausalLM

    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.device(device):
        torch.manual_seed(SEED)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    return model.eval()


def shapes(model: ModelSource, *, trust_remote_code: bool = False) -> list[list[int]]:
    """Shapes of all weights, without memory for them."""
    import torch
    from transformers import AutoModelForCausalLM

    config = read_config(model, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    return [list(parameter.shape) for parameter in built.parameters()]


def write_folder(
    model: ModelSource, folder: Path, *, trust_remote_code: bool = False, offline: bool = False
) -> str:
    """Write configuration and tokenizer, for engines that build random weights themselves from a path.

    Args:
        model: what --model stands for.
        folder: made if it is not there.
        trust_remote_code: whether code that comes with the model may run.
        offline: use only what is already on this machine.

    Returns:
        where the tokenizer is from, for the manifest.

    Raises:
        UsageError: there is no configuration, or no tokenizer at all.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config, tokenizer, origin = configure(model, trust_remote_code=trust_remote_code, offline=offline)
    config.architectures = config.architectures or [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]]
    if model.dtype != "auto":
        config.dtype = model.dtype
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    tokenizer.tokenizer.save_pretrained(folder)
    return origin


def read_config(model: ModelSource, *, trust_remote_code: bool = False, offline: bool = False) -> Any:
    """Configuration from a preset's shape, a folder's config.json or the hub.

    Raises:
        UsageError: there is none.
    """
    from transformers import AutoConfig

    if model.preset is not None:
        return AutoConfig.for_model(**model.preset.shape)
    if model.is_gguf:
        raise UsageError(f"--load-format dummy: {model.name} is a file of weights; name a preset or a folder")
    try:
        return AutoConfig.from_pretrained(
            model.location,
            revision=model.revision,
            trust_remote_code=trust_remote_code,
            local_files_only=offline,
        )
    except Exception as error:
        raise UsageError(
            f"cannot read the configuration of '{model.name}': {reason(model.name, error)}"
        ) from error


def _tokenizer(model: ModelSource, *, trust_remote_code: bool) -> tuple[HfTokenizer, str]:
    # demo-moe has the tokenizer of demo, which is there without building any weights for it.
    if model.name not in demo_models.NAMES:
        try:
            own = load_tokenizer(
                model.location,
                chat_template=model.chat_template,
                stop=model.stop,
                revision=model.revision,
                trust_remote_code=trust_remote_code,
                local_files_only=True,
            )
        except UsageError as error:
            _log.info("using the demo model's tokenizer: %s", error)
        else:
            return own, "the model's own"
    return load_tokenizer(str(demo_models.ensure("demo"))), "the demo model's"
