"""First contact: is there a server, does it serve the model, and what is it?"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.backends.openai.address import KEY_VARIABLES
from evalkit.backends.openai.bridge import LoopThread
from evalkit.backends.openai.client import SHORT_S, Client, Effort, GaveUp, Refused, Unreachable
from evalkit.errors import UsageError

UNKNOWN_LENGTH = 1 << 20
"""Context length of a model whose server does not tell."""
_NOT_INPUT = 2
"""Places of a context window that input cannot take: a scored sequence has one token more, its last, and
one is generated after it."""
_MOST_NAMES = 12
_KINDS = {"vllm": "vllm", "me": "llama-cpp-python", "llamacpp": "llama.cpp", "sglang": "sglang"}
"""What a server calls the owner of its models, to what it is."""


@dataclass(frozen=True, slots=True)
class Server:
    """A served model."""

    model: str
    kind: str
    """vllm, llama-cpp-python, llama.cpp, sglang, or openai-compatible."""
    version: str | None
    max_length: int


def meet(bridge: LoopThread, client: Client, model: str) -> Server:
    """Find the model among those the server lists.

    Raises:
        UsageError: no connection, no such API, a wrong key, or no such model.
    """
    card = _card(model, _listed(bridge, client), client.address.url)
    kind = _KINDS.get(str(card.get("owned_by")), "openai-compatible")
    version = bridge.run(_version(client)) if kind == "vllm" else None
    return Server(model, kind, version, _max_length(card))


def _listed(bridge: LoopThread, client: Client) -> Sequence[Mapping[str, Any]]:
    shown = client.address.url
    try:
        answer = bridge.run(client.first_contact("models"))
    except Unreachable as error:
        raise UsageError(
            f"cannot connect to {shown} ({error}); is the server running, --base-url right?"
        ) from None
    except Refused as error:
        if error.status in (401, 403):
            keys = " or ".join(KEY_VARIABLES)
            raise UsageError(
                f"{shown} does not accept the key ({error.status}: {error}); set {keys} in the environment"
            ) from None
        hint = "" if client.address.url.endswith("/v1") else "; base URLs usually end in /v1"
        raise UsageError(f"there is no OpenAI API at {shown} ({error.status}: {error}){hint}") from None
    except GaveUp as error:
        raise UsageError(f"{shown} does not answer a first request: {error}") from None
    cards = answer.get("data") if isinstance(answer, Mapping) else None
    if not isinstance(cards, list) or not all(isinstance(c, Mapping) and "id" in c for c in cards):
        raise UsageError(
            f"there is no OpenAI API at {shown}: {shown}/models lists no models; check --base-url"
        )
    return cards


def _card(model: str, cards: Sequence[Mapping[str, Any]], shown: str) -> Mapping[str, Any]:
    by_name = {str(card["id"]): card for card in cards}
    if model in by_name:
        return by_name[model]
    near = difflib.get_close_matches(model, by_name, n=3, cutoff=0.5)
    names = sorted(by_name, key=lambda name: (name not in near, name))
    listed = ", ".join(names[:_MOST_NAMES]) + (
        f", … ({len(names)} in all)" if len(names) > _MOST_NAMES else ""
    )
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise UsageError(f"the server at {shown} serves no model '{model}'; it serves: {listed or 'none'}{hint}")


async def _version(client: Client) -> str | None:
    try:
        return await client.ask(
            f"{client.address.root}/version",
            None,
            lambda answer: str(answer["version"]),
            Effort(2, SHORT_S),
        )
    except (Refused, GaveUp):
        return None


def _max_length(card: Mapping[str, Any]) -> int:
    meta = card.get("meta")
    told = card.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, Mapping) else None)
    return max(1, told - _NOT_INPUT) if isinstance(told, int) and told > 0 else UNKNOWN_LENGTH
