"""Which language model the chat service asks; the environment says it, since keys are secrets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from mcpcp.config.places import process_environment
from mcpcp.config.reading import read_dotenv
from mcpcp.errors import ConfigError

DEFAULT_URL = "http://localhost:11434/v1"
DEFAULT_MODEL = "llama3.1:latest"
DEFAULT_KEY = "ollama"
OLLAMA_PORT = 11434

VARIABLES = ("LLM_BASE_URL", "LLM_API_KEY", "LLM_MODEL_NAME", "OPENAI_BASE_URL", "OPENAI_API_KEY")
"""What is read; the first three win."""


@dataclass(frozen=True, slots=True)
class LlmSettings:
    """An endpoint that speaks OpenAI's chat completions, and the model to ask there."""

    base_url: str = DEFAULT_URL
    api_key: str = field(default=DEFAULT_KEY, repr=False)
    model: str = DEFAULT_MODEL

    @classmethod
    def of(cls, env: Mapping[str, str]) -> LlmSettings:
        """From variables; empty ones count as unset. Raises ConfigError.

        OPENAI_API_KEY goes only to an endpoint that somebody named: never to whoever happens to
        listen on the default's port.
        """
        named = _first(env, "LLM_BASE_URL", "OPENAI_BASE_URL")
        key = _first(env, "LLM_API_KEY", *(("OPENAI_API_KEY",) if named else ()))
        url = (named or DEFAULT_URL).rstrip("/")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"LLM_BASE_URL: {url!r} is no http(s) URL: write one such as {DEFAULT_URL}"
            )
        if not key.isprintable() or not key.isascii():
            raise ConfigError("LLM_API_KEY: holds characters that no HTTP header can carry")
        return cls(url, key or DEFAULT_KEY, _first(env, "LLM_MODEL_NAME") or DEFAULT_MODEL)

    @property
    def has_secret(self) -> bool:
        """Whether the key is somebody's own."""
        return self.api_key != DEFAULT_KEY

    @property
    def shown_url(self) -> str:
        """The URL without a password or a query in it."""
        parts = urlsplit(self.base_url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path, "", ""))

    @property
    def advice(self) -> str:
        """How to get a model to answer there."""
        if urlsplit(self.base_url).port == OLLAMA_PORT:
            return (
                "Start one: install Ollama from https://ollama.com, then "
                f"`ollama pull {self.model}` and `ollama serve`; or name another endpoint in "
                "LLM_BASE_URL, LLM_API_KEY and LLM_MODEL_NAME"
            )
        return "Start it, or name another endpoint in LLM_BASE_URL, LLM_API_KEY and LLM_MODEL_NAME"

    @property
    def advice_on_model(self) -> str:
        """How to get the model where the endpoint has it not."""
        if urlsplit(self.base_url).port == OLLAMA_PORT:
            return f"Get it with `ollama pull {self.model}`, or name another in LLM_MODEL_NAME"
        return "Name one that it has in LLM_MODEL_NAME"


def chat_environment(folder: Path) -> Mapping[str, str]:
    """The variables of this process, and of `.env` beside the config where it has none."""
    return {**read_dotenv(folder), **process_environment()}


def _first(env: Mapping[str, str], *names: str) -> str:
    return next((value for name in names if (value := env.get(name, "").strip())), "")
