"""Every flag and command of the docker CLI is taken or refused with its reason, however written."""

from __future__ import annotations

import pytest

from servers.docker_policy import refusals
from servers.docker_policy.grammar import FLAGS, possible, understand
from servers.docker_policy.subcommands import Run, Version
from servers.docker_policy.words import Refused
from tests.servers.docker_policy import cli

RUN = cli.flags("run")
REFUSED = [flag for flag in RUN if flag.long in refusals.OF_RUN]
UNKNOWN = "it is not one that this tool knows"

# One honest way to write each flag that is taken, and what comes of it.
TAKEN = {
    "--cap-drop": ("--cap-drop=ALL", Run("i")),
    "--cpus": ("--cpus=.5", Run("i", cpus=0.5)),
    "--detach": ("-d", Run("i", detach=True)),
    "--entrypoint": ("--entrypoint /bin/ls", Run("i", entrypoint="/bin/ls")),
    "--env": ("-e A=b", Run("i", environment=(("A", "b"),))),
    "--init": ("--init", Run("i")),
    "--memory": ("-m 64m", Run("i", memory=64 << 20)),
    "--name": ("--name x", Run("i", name="x")),
    "--network": ("--network none", Run("i")),
    "--no-healthcheck": ("--no-healthcheck", Run("i")),
    "--pids-limit": ("--pids-limit 9", Run("i", processes=9)),
    "--pull": ("--pull never", Run("i")),
    "--quiet": ("-q", Run("i")),
    "--read-only": ("--read-only", Run("i")),
    "--restart": ("--restart no", Run("i")),
    "--rm": ("--rm", Run("i", remove=True)),
    "--security-opt": ("--security-opt no-new-privileges", Run("i")),
    "--user": ("-u 65534:65534", Run("i")),
    "--workdir": ("-w /x", Run("i", workdir="/x")),
}


def spellings(flag: cli.CliFlag) -> list[str]:
    """The ways to write a flag which the CLI, behind a shell, takes for the same."""
    long, short = flag.long, flag.short
    value = " v" if flag.takes_value else ""
    written = [
        f"{long}{value}",
        f"{long}=v" if flag.takes_value else f"{long}=true",
        f"{long}=''" if flag.takes_value else f"{long}=1",
        f"'{long}'{value}",
        f'"{long}"{value}',
        f"-{long[1]}\\{long[2]}{long[3:]}{value}",
        f"--{long[2]}''{long[3:]}{value}",
        f"--{long[2]}\\\n{long[3:]}{value}",
        f"\\\n {long} \\\n{value}",
        f"\t{long}\t{value}",
        f"--rm -d {long}{value}",
        f"-e A=b {long}{value} -e C=d",
        f"--name=x {long}{value} --rm",
        f"-e 'A=b c' {long}{value}",
        f"{long}{value} {long}{value}",
    ]
    if short:
        written += [
            *(
                f"{short}{value}",
                f"'{short}'{value}",
                f"-\\{short[1]}{value}",
                f"-d{short[1]}{value}",
            ),
            *(f"-dq{short[1]}{value}", f"-d=true {short}{value}", f"-eA=b {short}{value}"),
            *((f"{short}v", f"{short}=v", f"-d{short[1]}v") if flag.takes_value else ()),
            *((f"{short}d", f"{short}=true", f"-d{short[1]}q") if not flag.takes_value else ()),
        ]
    return written


def test_the_lists_are_those_of_a_whole_cli() -> None:
    assert len(RUN) > 100
    assert len(cli.commands()) > 100


@pytest.mark.parametrize("command", cli.FLAGS)
def test_each_flag_is_taken_or_refused_with_its_reason(command: str) -> None:
    ours = FLAGS[command]
    taken = {name for flag in ours.accepted for name in flag.names}
    for flag in cli.flags(command):
        for name in flag.names:
            if name in taken:
                continue
            with pytest.raises(Refused, match=name) as refused:
                ours.find(name)
            assert UNKNOWN not in str(refused.value), name
            assert "Flags here: " in str(refused.value)


def test_no_flag_is_both_taken_and_refused() -> None:
    for ours in FLAGS.values():
        assert not {name for flag in ours.accepted for name in flag.names} & set(ours.refused)


@pytest.mark.parametrize("flag", REFUSED, ids=lambda flag: flag.long)
def test_a_refused_flag_is_refused_in_every_spelling(flag: cli.CliFlag) -> None:
    for written in spellings(flag):
        with pytest.raises(Refused) as refused:
            understand(f"docker run {written} i true")
        assert refusals.OF_RUN[flag.long] in str(refused.value), written


@pytest.mark.parametrize("flag", REFUSED, ids=lambda flag: flag.long)
def test_a_refused_flag_after_the_image_is_the_programs_own(flag: cli.CliFlag) -> None:
    for name in flag.names:
        for line in (f"run i {name} v", f"run -- i {name} v", f"run -d i {name} v"):
            command = understand(line)
            assert isinstance(command, Run) and command.arguments == (name, "v")


@pytest.mark.parametrize("flag", REFUSED, ids=lambda flag: flag.long)
def test_two_dashes_and_values_hide_no_flag(flag: cli.CliFlag) -> None:
    for line in (
        f"run -- {flag.long} i true",  # the image's place
        f"run --name {flag.long} i true",
        f"run -e {flag.long} i true",
        f"run -w {flag.long} i true",
        f"run -- -- {flag.long} i",
        f"run i\n{flag.long}",
        f"run {flag.long}\n i",
        f"run --\u200b{flag.long[2:]} i",
        f"run \u2014{flag.long[2:]} i",
        f"run {flag.long.upper()} i",
        f"run {flag.long[:-1]} i",  # the CLI takes no beginnings of flags either
    ):
        with pytest.raises(Refused):
            understand(line)


def test_each_flag_of_run_that_is_taken_is_understood() -> None:
    ours = FLAGS["run"]
    assert {max(flag.names, key=len) for flag in ours.accepted} == set(TAKEN)
    for written, expected in TAKEN.values():
        assert understand(f"run {written} i") == expected


def test_what_is_in_force_anyway_may_be_asked_for_and_nothing_else() -> None:
    for written in (
        "--network host",
        "--net=bridge",
        "--network none --network host",
        "--security-opt seccomp=unconfined",
        "--security-opt no-new-privileges:false",
        "--pull always",
        "--restart always",
        "--restart=on-failure:3",
        "-u 0",
        "-u root",
        "--user=0:0",
        "--user 65534:0",
        "--read-only=false",
        "--init=0",
        "--no-healthcheck=false",
    ):
        with pytest.raises(Refused, match=r"is refused: \w"):
            understand(f"run {written} i true")


@pytest.mark.parametrize("command", cli.commands())
def test_each_command_is_taken_or_refused_with_its_reason(command: str) -> None:
    for line in (command, f"docker {command}", f"docker {command} x y"):
        try:
            understand(line)
        except Refused as e:
            if str(e).startswith(f"docker {command} is refused"):  # the command, not what follows
                assert "it is not known here" not in str(e)
                assert "possible are: version, info, ps" in str(e)


def test_the_commands_that_are_taken_are_these() -> None:
    assert possible() == (
        "version, info, ps, images, logs, inspect, stats, top, port, run, start, stop, restart, rm"
    )


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("container kill x", "stop ends a container"),
        ("kill x", "stop ends a container"),
        ("container prune", "rm removes the containers that you name"),
        ("container exec x sh", "not changed or entered"),
        ("image rm x", "images are the operator's"),
        ("image inspect x", "images are the operator's"),
        ("image prune", "images are the operator's"),
        ("system prune", "the engine itself"),
        ("volume rm x", "the engine itself"),
        ("volume inspect x", "the engine itself"),
        ("service logs x", "the engine itself"),
        ("swarm update", "the engine itself"),
        ("context rm x", "the engine itself"),
        ("builder prune", "images are the operator's"),
        ("compose up", "one at a time"),
        ("create i", "run makes a container"),
    ],
)
def test_a_refused_command_has_its_own_reason(line: str, why: str) -> None:
    with pytest.raises(Refused, match=why):
        understand(line)


def test_the_clis_own_version_is_asked_for_by_a_flag_too() -> None:
    assert understand("docker --version") == understand("docker -v") == Version()


@pytest.mark.parametrize(
    "option",
    [
        "-H tcp://x",
        "--host=tcp://x",
        "--context x",
        "-c x",
        "--config /x",
        "--tls",
        "-D",
        "-l debug",
    ],
)
def test_options_before_the_command_are_refused(option: str) -> None:
    for line in (f"docker {option} ps", f"{option} run i", f"docker '{option.split()[0]}' ps"):
        with pytest.raises(Refused, match="the engine is the one that the operator chose"):
            understand(line)
