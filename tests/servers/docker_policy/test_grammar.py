"""Which docker commands are understood, and what is said to the others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servers.docker_policy.grammar import understand
from servers.docker_policy.subcommands import (
    Command,
    Images,
    Info,
    Inspect,
    Logs,
    Port,
    Ps,
    Restart,
    Rm,
    Run,
    Start,
    Stats,
    Stop,
    Top,
    Version,
)
from servers.docker_policy.words import Refused


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("docker version", Version()),
        ("version --format=json", Version(json=True)),
        ("info -f '{{json .}}'", Info(json=True)),
        ("docker system info", Info()),
        ("ps", Ps()),
        ("docker container ls -aq --no-trunc", Ps(all=True, quiet=True, full=True)),
        ("ps --all=false -f name=web --filter status=exited", Ps(name="web", status="exited")),
        ("images", Images()),
        ("image ls -q", Images(quiet=True)),
        ("images alpine:3", Images(name="alpine:3")),
        ("ps -l", Ps(last=1)),
        ("ps -n 3", Ps(last=3)),
        ("ps -n=-1", Ps()),
        ("logs web", Logs("web")),
        ("logs -n5 web", Logs("web", 5)),
        ("logs -n 5 -t web", Logs("web", 5, timestamps=True)),
        ("logs --tail=all web", Logs("web")),
        ("logs web --tail 0", Logs("web", 0)),
        ("inspect a b", Inspect(("a", "b"))),
        ("container inspect a", Inspect(("a",))),
        ("stop -t 3 a", Stop(("a",), 3)),
        ("stop --time=3 a b", Stop(("a", "b"), 3)),
        ("stats", Stats()),
        ("stats --no-stream a b", Stats(("a", "b"))),
        ("container stats -a --format json", Stats(all=True, json=True)),
        ("top a", Top("a")),
        ("top a -ef", Top("a")),
        ("container top a aux", Top("a", "aux")),
        ("port a", Port("a")),
        ("port a 80/tcp", Port("a", "80/tcp")),
        ("start a b", Start(("a", "b"))),
        ("restart a", Restart(("a",))),
        ("container restart -t 1 a b", Restart(("a", "b"), 1)),
        ("rm -fv a", Rm(("a",), force=True)),
        ("rm -- a", Rm(("a",))),
        ("run alpine", Run("alpine")),
        ("run -m256MiB alpine", Run("alpine", memory=256 << 20)),
        ("run -m 64mb alpine", Run("alpine", memory=64 << 20)),
        ("run -m 65536k alpine", Run("alpine", memory=64 << 20)),
        ("run --cpus=.5 alpine", Run("alpine", cpus=0.5)),
        (
            "run \\\n  --rm \\\n  alpine sh -c 'a\nb'",
            Run("alpine", ("sh", "-c", "a\nb"), remove=True),
        ),
        (
            "run -d --rm alpine ls -la /",
            Run("alpine", ("ls", "-la", "/"), detach=True, remove=True),
        ),
        ("run alpine -- x --privileged", Run("alpine", ("--", "x", "--privileged"))),
        ("run --rm=false -d=true alpine", Run("alpine", detach=True)),
        ("run -e A=b=c -eD= alpine", Run("alpine", environment=(("A", "b=c"), ("D", "")))),
        (
            "run -m256m --cpus 0.5 --pids-limit=9 alpine",
            Run("alpine", memory=256 << 20, cpus=0.5, processes=9),
        ),
        ("run --network none --read-only --init --cap-drop ALL alpine", Run("alpine")),
        ("run --net=none --security-opt no-new-privileges alpine", Run("alpine")),
        (
            "run --entrypoint '' -w /x alpine ls",
            Run("alpine", ("ls",), workdir="/x", entrypoint=""),
        ),
        (
            "run localhost:5000/a/b:1.0@sha256:" + "0" * 64,
            Run("localhost:5000/a/b:1.0@sha256:" + "0" * 64),
        ),
    ],
)
def test_a_command_is_understood(line: str, command: Command) -> None:
    assert understand(line) == command


@pytest.mark.parametrize(
    "flags",
    [
        "--privileged",
        "--privileged=true",
        "-v /:/host",
        "-v/:/host",
        "-dv /:/host",
        "--volume=/:/host",
        "--mount type=bind,src=/,dst=/host",
        "--mount=type=volume,volume-opt=o=bind,volume-opt=device=/,dst=/host",
        "--volumes-from other",
        "--device /dev/sda",
        "--cap-add SYS_ADMIN",
        "--cap-add=ALL",
        "--security-opt seccomp=unconfined",
        "--security-opt=apparmor=unconfined",
        "--network host",
        "--net=host",
        "--network=container:other",
        "--network none --network host",
        "--pid host",
        "--ipc=host",
        "--uts host",
        "--userns=host",
        "--cgroupns host",
        "--cgroup-parent /",
        "-u 0",
        "-u0",
        "--user=root",
        "-p 80:80",
        "-dp80:80",
        "-P",
        "-it",
        "-i",
        "-dit",
        "--tty",
        "--env-file /etc/passwd",
        "-e HOME",
        "-e 'A B=c'",
        "--label mcpcp.agent=other",
        "-l x=y",
        "--pull always",
        "--restart=always",
        "--runtime runc",
        "--gpus all",
        "--sysctl kernel.x=1",
        "--ulimit nproc=9",
        "--tmpfs /x",
        "--add-host a:1.2.3.4",
        "--dns 1.1.1.1",
        "--read-only=false",
        "--init=false",
        "--memory-swap -1",
        "--memory many",
        "--memory -1",
        "--cpus nan",
        "--cpus 0",
        "--workdir relative",
        "--workdir /proc/self/fd/8",
        "-w=//proc//self/fd/../fd/8",
        "-w/x/../dev/fd/8",
        "--workdir=/proc",
        "--name ../x",
        "--oom-kill-disable",
        "--storage-opt size=1T",
        "--log-driver syslog",
        "--cidfile /x",
        "--unheard-of",
        "-z",
        "--rm=perhaps",
        "--rm= ",
        "---rm",
        "--RM",
        "--n x",
    ],
)
def test_a_flag_of_run_is_refused_however_it_is_written(flags: str) -> None:
    with pytest.raises(Refused, match="docker run"):
        understand(f"run {flags} alpine true")


@pytest.mark.parametrize(
    "line",
    [
        "exec web sh",
        "cp web:/x .",
        "pull alpine",
        "build .",
        "commit web x",
        "volume create x",
        "network ls",
        "container exec web sh",
        "container",
        "system prune",
        "image rm x",
        "swarm init",
        "RUN alpine",
        "frobnicate",
        "-H tcp://elsewhere ps",
        "--host=tcp://elsewhere ps",
        "--context other ps",
        "",
        "docker",
        "docker docker ps",
    ],
)
def test_other_commands_are_refused_with_what_is_possible(line: str) -> None:
    with pytest.raises(Refused, match="possible are: version, info, ps"):
        understand(line)


@pytest.mark.parametrize(
    "line",
    [
        "logs -f web",
        "logs",
        "logs a b",
        "ps x",
        "ps --format '{{.Names}}'",
        "ps --filter label=x",
        "ps -s",
        "inspect",
        "inspect --type=volume x",
        "inspect --format '{{.Config}}' x",
        "stop --time 100000 a",
        "stop --time -1 a",
        "stop ../a",
        "rm " + " ".join("abcdefghijklmnopqrstuvw"),
        "rm -l a",
        "run",
        "run --rm",
        "run ''",
        "run UPPER",
        "run ../x",
        "run -e",
        "images X",
        "images a b",
        "images -f dangling=true",
        "stats -q",
        "stats ../a",
        "top",
        "top a b",
        "top a -C dockerd",
        "top a auxe",
        "top a -eo pid,args e",
        "top -ef a",
        "port",
        "port a b",
        "port a 80/icmp",
        "port a 80 81",
        "start",
        "start -a a",
        "start -ai a",
        "start --checkpoint x a",
        "restart",
        "restart -s KILL a",
        "restart -t 1000 a",
        "stop --signal=KILL a",
        "ps -n many",
        "ps -n -2",
        "run -m 1t alpine",
        "run -m 0x10 alpine",
        "run --cpus 1e3 alpine",
        "run --cpus . alpine",
    ],
)
def test_what_a_command_does_not_take_is_refused(line: str) -> None:
    with pytest.raises(Refused):
        understand(line)


def test_a_refusal_gives_the_reason_and_the_flags_there_are() -> None:
    with pytest.raises(Refused, match=r"--privileged is refused: .*capabilities.*--detach"):
        understand("run --privileged alpine")


@given(st.text(max_size=200))
def test_any_line_is_understood_or_refused(line: str) -> None:
    try:
        understand(line)
    except Refused as e:
        assert str(e)
