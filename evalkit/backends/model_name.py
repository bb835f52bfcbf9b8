"""Is there such a model? Asked before an engine is imported, so that a slip costs no wait."""

from __future__ import annotations

import difflib
import logging
from pathlib import Path

from evalkit.errors import UsageError

_TIMEOUT_S = 10.0


def check_model(name: str, *, revision: str | None = None, offline: bool = False) -> None:
    """Check that `name` is a preset, a folder, a GGUF file or a model of the hub.

    A hub id whose files are in the hub client's cache needs no connection. Transformers would find out
    as well, but only after a minute of retries where there is no network.

    Raises:
        UsageError: it is none of them, or the hub cannot be reached.
    """
    from evalkit.presets import presets, resolve

    model = resolve(name, revision=revision)
    if model.preset is not None:
        if problem := _problem(model.location, model.revision, offline) if model.preset.hub_id else None:
            raise UsageError(
                f"{name} is {model.location} ({model.revision}) on the model hub: {problem}; "
                "give --model the folder it was downloaded to, or connect this machine once"
            )
        return
    if name and (Path(name).is_dir() or (model.is_gguf and Path(name).is_file())):
        return
    near = difflib.get_close_matches(name, presets(), n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else "`evalkit models` lists those known by name"
    if model.is_gguf:
        raise UsageError(f"no model '{name}': there is no such file")
    if not _is_hub_id(name):
        raise UsageError(
            f"no model '{name}': there is no such folder, and hub ids have the form org/name; {hint}"
        )
    if problem := _problem(name, revision, offline):
        raise UsageError(f"no model '{name}': there is no such folder, and {problem}; {hint}")


def _problem(hub_id: str, revision: str | None, offline: bool) -> str | None:
    """Why a hub model cannot be had, if it cannot."""
    if _is_cached(hub_id, revision):
        return None
    if offline:
        return "no hub model of this name was downloaded before, and --offline is on"
    return _hub_problem(hub_id, revision)


def _is_hub_id(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _is_cached(name: str, revision: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str)


def _hub_problem(name: str, revision: str | None) -> str | None:
    """Ask the hub once, without retries."""
    from huggingface_hub import HfApi, constants, errors

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids asking the hub"
    try:
        HfApi().model_info(name, revision=revision, timeout=_TIMEOUT_S)
    except errors.RevisionNotFoundError:
        return f"the hub's model of this name has no revision '{revision}'"
    except errors.RepositoryNotFoundError:
        return "the hub has no such model, or not for everybody (`hf auth login` names you to it)"
    except Exception as error:  # noqa: BLE001 - whatever the client's HTTP library raises
        logging.getLogger(__name__).info("asking the hub: %s", error)
        return f"the hub cannot be reached ({constants.ENDPOINT}: {str(error).partition(chr(10))[0]})"
    return None
