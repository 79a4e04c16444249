"""A gateway with quick servers, a scripted model and a chat service: one a module and worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.chat.harness import Chat, open_chat
from tests.chat.scripted import ScriptedLlm, say, scripted_llm
from tests.gateway.harness import PROJECT, Gateway, open_gateway

PATIENT = {"call_timeout": "10m", "timeout": "10m", "stall": "10m"}
"""No deadline of the chat service is what most tests are about."""
EVERYTHING = PROJECT / "tests" / "programs" / "everything.py"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Gateway]:
    """Two raw servers and one that has pictures; agents for both, one, and none of their tools."""
    with open_gateway(tmp_path_factory.mktemp("chat"), keys) as made:
        made.add_raw("raw")
        made.add_raw("other", prefix="o")
        made.servers["pictures"] = {"command": "python", "args": [str(EVERYTHING)]}
        made.agents |= {
            "chat": {"allow": {"raw": ["echo"]}},
            "echo_only": {"allow": {"raw": ["echo"]}},
            "nothing": {"allow": {}},
        }
        made.extra["chat"] = PATIENT
        made.start()
        yield made


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedLlm]:
    """The module's scripted model; tests ask for `llm`, which begins anew."""
    with scripted_llm() as made:
        yield made


@pytest.fixture
def llm(model: ScriptedLlm) -> ScriptedLlm:
    model.play(say("Hello."))
    return model


@pytest.fixture(scope="module")
def chat(gateway: Gateway, model: ScriptedLlm) -> Iterator[Chat]:
    """A chat service that asks the scripted model."""
    variables = {
        "LLM_BASE_URL": model.url,
        "LLM_MODEL_NAME": "scripted",
        "LLM_API_KEY": "sk-secret",
    }
    with open_chat(gateway.config, gateway.environ, **variables) as made:
        yield made


@pytest.fixture
def client(chat: Chat, gateway: Gateway) -> Iterator[httpx.Client]:
    """A caller who may use every tool."""
    with ExitStack() as stack:
        yield stack.enter_context(chat.client(gateway.token()))
