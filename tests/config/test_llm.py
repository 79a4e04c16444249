"""Which language model the environment names, and with which key."""

from __future__ import annotations

import pytest

from mcpcp.config.llm import DEFAULT_KEY, DEFAULT_MODEL, DEFAULT_URL, LlmSettings
from mcpcp.errors import ConfigError

HERE = "https://api.example.com/v1"


def test_nothing_set_means_ollama_on_this_machine() -> None:
    assert LlmSettings.of({}) == LlmSettings(DEFAULT_URL, DEFAULT_KEY, DEFAULT_MODEL)
    assert LlmSettings.of(dict.fromkeys(("LLM_BASE_URL", "LLM_API_KEY"), "")) == LlmSettings()
    assert "ollama pull llama3.1:latest" in LlmSettings().advice
    assert not LlmSettings().has_secret


def test_ours_win_over_openais() -> None:
    env = {"OPENAI_BASE_URL": "https://other.example/v1", "OPENAI_API_KEY": "theirs"}
    settings = LlmSettings.of({**env, "LLM_BASE_URL": f"{HERE}/", "LLM_API_KEY": "ours"})
    assert (settings.base_url, settings.api_key) == (HERE, "ours")
    settings = LlmSettings.of(env)
    assert (settings.base_url, settings.api_key) == ("https://other.example/v1", "theirs")


def test_openais_key_is_not_sent_to_whoever_listens_on_the_defaults_port() -> None:
    assert LlmSettings.of({"OPENAI_API_KEY": "theirs"}).api_key == DEFAULT_KEY
    assert LlmSettings.of({"OPENAI_API_KEY": "theirs", "LLM_BASE_URL": HERE}).api_key == "theirs"


def test_a_key_is_never_shown() -> None:
    settings = LlmSettings.of(
        {"LLM_BASE_URL": "https://me:pw@x.example/v1?k=1", "LLM_API_KEY": "s3"}
    )
    assert settings.shown_url == "https://x.example/v1"
    assert "s3" not in repr(settings)


@pytest.mark.parametrize(
    "env",
    [
        {"LLM_BASE_URL": "localhost:11434"},
        {"LLM_BASE_URL": "http://"},
        {"LLM_BASE_URL": "file:///etc/passwd"},
        {"LLM_API_KEY": "two\nlines"},
    ],
)
def test_what_can_not_be_used_is_named_at_the_start(env: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(env))):
        LlmSettings.of(env)
