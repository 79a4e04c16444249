"""Whatever is understood as `run` makes the forced container, and nothing else is understood."""

from __future__ import annotations

import shlex
from typing import Any

from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from servers.docker_policy import hardening, lifeline, making, refusals
from servers.docker_policy.grammar import FLAGS, understand
from servers.docker_policy.subcommands import Run
from servers.docker_policy.words import Refused
from tests.servers.docker_policy import cli

ENVELOPE = hardening.Envelope()
IMAGE = {
    "Id": "sha256:" + "0" * 64,
    "Config": {"Cmd": ["sh"], "Volumes": {"/data": {}}, "User": "0", "WorkingDir": "/home"},
}
NAMES = [name for flag in cli.flags("run") for name in flag.names]
HOSTILE = [
    *("/:/host", "type=bind,src=/,dst=/x", "host", "container:other", "0", "root", "ALL", "true"),
    *("SYS_ADMIN", "seccomp=unconfined", "always", "/dev/sda", "mcpcp.agent=other", "80:80", "-1"),
    *("A=b", "--", "-", "=", "''", "none", "512m", "9999g", "0.5", "1e9", "i", "x", "/", "65534"),
]
TAKEN = [name for flag in FLAGS["run"].accepted for name in flag.names]
words = st.one_of(
    st.sampled_from(NAMES),
    st.sampled_from(TAKEN),
    st.sampled_from(HOSTILE),
    st.builds("{}={}".format, st.sampled_from(NAMES), st.sampled_from(HOSTILE)),
    st.builds("{}{}".format, st.sampled_from(NAMES), st.sampled_from(HOSTILE)),
    st.builds("-{}".format, st.text("dqeimtuvwpPhlcan=", min_size=1, max_size=5)),
    st.text(max_size=6),
)
HONEST = [
    *("-d", "--rm", "-q", "--init", "--read-only", "--network=none", "--name=x", "-eA=b", "-w/x"),
    *("-m64m", "--cpus=.5", "--pids-limit=9", "--entrypoint=ls", "-u65534", "--cap-drop=ALL"),
]


def quoted(word: str, how: int) -> str:
    """The same word for a shell, in one of its ways."""
    if how == 1:
        return shlex.quote(word)
    if how == 2:
        return "".join(f"\\{char}" if char not in "\n" else "'\n'" for char in word) or "''"
    return word


lines = st.lists(st.tuples(words, st.integers(0, 2)), max_size=8).map(
    lambda found: " ".join(quoted(word, how) for word, how in found)
)


def hardened(command: Run) -> bool:
    """Checks what is posted to the engine; False where the limits that it asks for are refused."""
    try:
        envelope = making.lowered(ENVELOPE, command)
    except Refused:
        return False
    assert envelope.memory <= ENVELOPE.memory and envelope.cpus <= ENVELOPE.cpus
    assert envelope.processes <= ENVELOPE.processes and envelope.tmpfs == ENVELOPE.tmpfs
    config: dict[str, Any] = making.config(command, IMAGE, "me", envelope)
    bounded = hardening.tmpfs_options(ENVELOPE.tmpfs)
    assert config.pop("HostConfig") == {
        **hardening.host_config(envelope, {"/tmp": bounded, "/data": bounded}),
        "AutoRemove": command.detach and command.remove,
    }
    own = [*([command.entrypoint] if command.entrypoint else []), *command.arguments]
    assert config.pop("Entrypoint") == lifeline.around(own or ["sh"])
    assert config.pop("Labels").items() >= {"mcpcp.agent": "me", "mcpcp.image": "i"}.items()
    assert config.pop("Env") == [f"{name}={value}" for name, value in command.environment]
    assert config.pop("WorkingDir").startswith("/")
    assert config == {
        "Image": IMAGE["Id"],
        "Cmd": [],
        "User": "65534:65534",
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "Healthcheck": {"Test": ["NONE"]},
        "NetworkDisabled": True,
    }
    return True


@settings(max_examples=300)
@given(lines, st.lists(st.sampled_from(HONEST), max_size=4), st.booleans())
@example("-v/:/host", [], True)
@example("-- --privileged", ["-d"], False)
def test_whatever_is_understood_makes_the_forced_container(
    fuzz: str, honest: list[str], image_first: bool
) -> None:
    order = [*honest, "i", fuzz] if image_first else [*honest, fuzz, "i"]
    try:
        command = understand(f"docker run {' '.join(order)}")
    except Refused as e:
        event("refused")
        assert str(e)
        return
    assert isinstance(command, Run)
    if command.image == "i":
        event("understood" if hardened(command) else "beyond the limits")


@given(st.lists(st.sampled_from(HONEST), max_size=8), lines)
def test_honest_flags_are_understood_whatever_the_program_is_given(
    honest: list[str], arguments: str
) -> None:
    try:
        shlex.split(arguments)
        command = understand(f"run {' '.join(honest)} i program {shlex.quote(arguments)}")
    except (Refused, ValueError):
        return  # invisible characters
    assert isinstance(command, Run) and command.arguments == ("program", arguments)
    assert hardened(command)


@given(lines, st.sampled_from([flag for flag in cli.flags("run") if flag.long in refusals.OF_RUN]))
def test_no_words_after_a_refused_flag_make_it_taken(fuzz: str, flag: cli.CliFlag) -> None:
    for name in flag.names:
        try:
            understand(f"run --rm {name} {fuzz} i")
        except Refused:
            continue
        raise AssertionError(name)


@given(st.sampled_from([*cli.commands(), "", "docker"]), st.one_of(lines, st.text(max_size=60)))
def test_any_line_is_understood_or_refused_with_a_reason(command: str, rest: str) -> None:
    try:
        understand(f"{command} {rest}")
    except Refused as e:
        assert len(str(e)) > 10
