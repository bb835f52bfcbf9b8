"""Where a server is, and how its address may be shown: never with what is secret in it."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from evalkit.errors import UsageError

KEY_VARIABLES = ("EVALKIT_API_KEY", "OPENAI_API_KEY")
URL_VARIABLE = "OPENAI_BASE_URL"


@dataclass(frozen=True)
class Address:
    """A base URL and the key that goes with it."""

    url: str
    """Fit to be shown: without user name, password and query."""
    query: Mapping[str, str]
    key: str | None
    user: str = ""
    """User name and password of the URL, as `name:password`."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What goes with every request; a key goes before a password, since there is room for one."""
        return {"Authorization": f"Basic {self._basic}"} if self.user and not self.key else {}

    @property
    def root(self) -> str:
        """The URL without `/v1`, where servers put what OpenAI's protocol does not know."""
        return self.url.removesuffix("/v1")

    def without_secrets(self, text: str) -> str:
        """A server's message with whatever is secret in it struck out."""
        for secret in (self.key, self._basic, self.user.partition(":")[2], *self.query.values()):
            if secret and len(secret) > 3:
                text = text.replace(secret, "***")
        return text

    @property
    def _basic(self) -> str:
        return b64encode(self.user.encode()).decode()


def find_address(base_url: str | None) -> Address:
    """The server's address from `--base-url` or the environment, and the key from the environment.

    Raises:
        UsageError: there is none, or it is no URL.
    """
    url = base_url or os.environ.get(URL_VARIABLE)
    if not url:
        raise UsageError(
            "--backend openai needs the address of a server: --base-url http://localhost:8000/v1, "
            f"or the environment variable {URL_VARIABLE}"
        )
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--base-url '{clean_url(url)}': give it like http://localhost:8000/v1")
    key = next((key for name in KEY_VARIABLES if (key := os.environ.get(name))), None)
    user = unquote(parts.netloc.rpartition("@")[0])
    return Address(clean_url(url).rstrip("/"), dict(parse_qsl(parts.query)), key, user)


def clean_url(url: str) -> str:
    """A URL without user name, password, query and fragment, any of which may hold a secret."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
