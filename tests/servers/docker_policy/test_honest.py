"""Command lines as people and models write them, on a real engine, and the containers they make."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from docker.errors import NotFound

from servers.docker_policy import container
from servers.docker_policy.answers import Answer, Settings
from servers.docker_policy.commands import DockerCommands
from servers.docker_policy.engine import Engine
from servers.docker_policy.hardening import Envelope
from servers.docker_policy.images import Allowlist
from servers.sandboxing import seccomp
from tests.engine import IMAGE, VOLUME_IMAGE, DockerEngine
from tests.servers.harness import DEADLINE, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

MIB = 1 << 20
SETTINGS = Settings(
    allowlist=Allowlist((IMAGE, VOLUME_IMAGE)), envelope=Envelope(memory=64 * MIB), seconds=DEADLINE
)
TMPFS = f"rw,nosuid,nodev,noexec,size={64 * MIB},nr_inodes=16384,uid=65534,gid=65534,mode=1777"

# Written out, so that a change of the policy has to be made here as well.
FORCED: Mapping[str, Any] = {
    "CapDrop": ["ALL"],
    "CgroupnsMode": "private",
    "Init": True,
    "IpcMode": "private",
    "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}},
    "Memory": 64 * MIB,
    "MemorySwap": 64 * MIB,
    "NanoCpus": 1_000_000_000,
    "NetworkMode": "none",
    "PidsLimit": 128,
    "ReadonlyRootfs": True,
    "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    "ShmSize": 16 * MIB,
    "Tmpfs": {"/tmp": TMPFS},
    "Ulimits": [
        {"Name": "core", "Hard": 1, "Soft": 1},
        {"Name": "nofile", "Hard": 1024, "Soft": 1024},
    ],
}
ENGINES_OWN = {"ConsoleSize", "Isolation", "MaskedPaths", "ReadonlyPaths", "Runtime", "SecurityOpt"}


@dataclass(frozen=True, slots=True)
class Line:
    """A command line, what its output has in it, and what its container has of its own."""

    text: str
    shows: str = ""
    code: int = 0
    own: Mapping[str, Any] = field(default_factory=dict)


def line(text: str, shows: str = "", code: int = 0, **own: Any) -> Line:
    return Line(text.replace("IMAGE", IMAGE), shows, code, own)


STORIES = {
    "one word after another": [
        line("run --rm IMAGE echo hello", r"\Ahello\n\Z"),
        line("docker run --rm IMAGE echo hello world", "hello world"),
        line("run --rm IMAGE echo 'a  b' \"c  d\"", "a  b c  d"),
        line("run --rm IMAGE sh -c 'echo out; echo err >&2'", "out"),
        line('run --rm IMAGE sh -c "exit 3"', code=3),
        line("run --rm IMAGE true"),
        line("run --rm IMAGE no-such-program", code=127),
        line("run \\\n  --rm \\\n  IMAGE \\\n  echo continued\n", "continued"),
        line("run --rm IMAGE sh -c 'echo one\necho two'", "one\ntwo"),
        line("container run --rm IMAGE echo long", "long"),
        line("run --rm IMAGE echo --privileged -v /:/host", "--privileged -v /:/host"),
        line("run --rm -- IMAGE echo dashed", "dashed"),
    ],
    "python in a container": [
        line("run --rm IMAGE python3 -c 'print(6 * 7)'", "42"),
        line('run --rm IMAGE python3 -c "import sys; sys.exit(4)"', code=4),
        line(
            "run --rm IMAGE python3 -c 'import os; print(os.getuid(), os.getgid())'", "65534 65534"
        ),
        line('run --rm IMAGE python3 -c \'open("/tmp/x", "w").write("y")\''),
        line('run --rm IMAGE python3 -c \'open("/x", "w")\'', code=1),
        line("run --rm IMAGE python3 -c 'print(input())'", code=1),
        line("run --rm -e N=5 IMAGE python3 -c 'import os; print(os.environ[\"N\"])'", "5"),
        line(
            'run --rm IMAGE python3 -c "import os; print(*os.listdir(f\\"/sys/class/net\\"))"',
            r"\Alo\n",
        ),
        line("run --rm IMAGE python3 -c 'for i in range(3):\n    print(i)'", "0\n1\n2\n"),
        line("run --rm IMAGE python3 --version", "Python 3"),
    ],
    "flags that lower or say what is so": [
        line("run --rm -m 32m IMAGE true", Memory=32 * MIB, MemorySwap=32 * MIB),
        line("run --rm --memory=33554432 IMAGE true", Memory=32 * MIB, MemorySwap=32 * MIB),
        line("run --rm --cpus=0.5 IMAGE true", NanoCpus=500_000_000),
        line("run --rm --cpus .25 IMAGE true", NanoCpus=250_000_000),
        line("run --rm --pids-limit 20 IMAGE true", PidsLimit=20),
        line("run --rm -m64m --cpus=1 --pids-limit=128 IMAGE true"),
        line("run --rm --network none --read-only --init --cap-drop ALL IMAGE true"),
        line("run --rm --security-opt no-new-privileges --restart=no --pull=never IMAGE true"),
        line("run --rm -q --no-healthcheck -u 65534:65534 IMAGE id -u", "65534"),
        line("run --rm -w /tmp IMAGE sh -c 'echo $PWD'", "/tmp"),
        line("run --rm --entrypoint echo IMAGE from the entrypoint", "from the entrypoint"),
        line(
            "run --rm -e A=1 --env B='two words' -eC=3 IMAGE sh -c 'echo $A $B $C'", "1 two words 3"
        ),
        line(
            f"run --rm {VOLUME_IMAGE} sh -c 'echo kept > /data/x && cat /data/x'",
            "kept",
            Tmpfs={"/tmp": TMPFS, "/data": TMPFS},
        ),
    ],
    "a service that is looked after": [
        line("run -d --name web IMAGE sh -c 'echo up; exec sleep 600'", r"\A[0-9a-f]{64}\n\Z"),
        line("ps", "web"),
        line("docker ps -a --no-trunc", "web"),
        line("ps -q", r"\A[0-9a-f]{12}\n\Z"),
        line("ps --filter name=web --format json", '"NAMES": "web"'),
        line("container ls -l", "web"),
        line("top web", "sleep 600"),
        line("stats --no-stream web", r"web +\d+\.\d\d% .*[KM]iB / 64.00MiB"),
        line("port web"),
        line("inspect web", '"Status": "running"'),
        line("restart -t 5 web", "web"),
        line("logs --tail 1 web", "up"),
        line("stop -t 5 web", "web"),
        line("ps -f status=exited", "web"),
        line("start web", "web"),
        line("rm web", code=1),
        line("rm -f web", "web"),
        line("ps -aq", r"\A\Z"),
    ],
    "several, and questions": [
        line("version", "Version: "),
        line("docker --version", "Version: "),
        line("info", "NCPU: "),
        line("system info --format json", '"Containers": 0'),
        line("images", "mcpcp-tests"),
        line("image ls -q", r"\A[0-9a-f]{12}\n"),
        line(f"images {IMAGE.partition(':')[0]}", "mcpcp-tests +latest"),
        line("run -d --rm --name gone IMAGE sleep 600", AutoRemove=True),
        line("run -d --name a IMAGE sleep 600"),
        line("run --name b IMAGE sh -c 'echo done; exit 2'", "done", 2),
        line("logs b", "done"),
        line("stats --format json", '"NAME": "a"'),
        line("container top a aux", "sleep 600"),
        line("inspect --type container --format json a b", '"ExitCode": 2'),
        line("stop --time=5 gone a", r"\Agone\na\n\Z"),
        line("container start a b", r"\Aa\nb\n\Z"),
        line("container rm --force --volumes a b", r"\Aa\nb\n\Z"),
        line("ps -a", r"\ACONTAINER ID   IMAGE   STATUS   NAMES\n\Z"),
    ],
}


ONLY_LOOKS = re.compile(
    "(docker |container |system |image )?(ps|ls|logs|top|stats|inspect|images|info|version)"
)


def test_there_are_sixty_of_them() -> None:
    assert sum(map(len, STORIES.values())) >= 60


def check(host: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """A HostConfig, as the engine tells it, is the forced one in every setting."""
    forced = {**FORCED, **own}
    assert {key: host.get(key) for key in forced} == forced
    assert {key for key, value in host.items() if value and key not in forced} <= ENGINES_OWN
    rules = host["SecurityOpt"]
    assert rules[0] == "no-new-privileges:true" and len(rules) == 2
    assert json.loads(rules[1].removeprefix("seccomp=")) == json.loads(seccomp.docker_profile())
    assert {"/proc/kcore", "/proc/keys"} <= set(host["MaskedPaths"])
    assert "/proc/sys" in host["ReadonlyPaths"]


@pytest.fixture
def before_start(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Mapping[str, Any]]]:
    """What the engine said of each container between its making and its start."""
    seen: list[Mapping[str, Any]] = []
    real = container._check

    def look(inspected: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
        seen.append(inspected)
        real(inspected, asked)

    monkeypatch.setattr(container, "_check", look)
    yield seen


@pytest.mark.parametrize("story", STORIES)
async def test_honest_lines_work_and_every_container_has_the_forced_settings(
    story: str,
    docker_engine: DockerEngine,
    monkeypatch: pytest.MonkeyPatch,
    before_start: list[Mapping[str, Any]],
) -> None:
    monkeypatch.setenv("DOCKER_HOST", docker_engine.host)
    docker = DockerCommands(Engine(), SETTINGS)
    owns: dict[str, Mapping[str, Any]] = {}
    async with docker.serving():
        for said in STORIES[story]:
            before_start.clear()
            answer = await answered(docker, said, story)
            assert answer.exit_code == said.code, (said.text, answer)
            assert re.search(said.shows, answer.stdout), (said.text, answer.stdout)
            for inspected in before_start:
                assert inspected["State"]["Status"] == "created"
                check(inspected["HostConfig"], said.own)
                owns[inspected["Id"]] = said.own
            assert bool(before_start) == bool(re.search(r"\brun\b", said.text))
            for inspected in left_of(docker_engine, story):
                check(inspected["HostConfig"], owns[inspected["Id"]])
    wait_until(lambda: not list(left_of(docker_engine, story)))


async def answered(docker: DockerCommands, said: Line, agent: str) -> Answer:
    """The answer; a line that only looks is said until it shows what the engine will have done."""
    answer = await docker.run(said.text, agent)
    with anyio.move_on_after(DEADLINE if ONLY_LOOKS.match(said.text) else 0):
        while not re.search(said.shows, answer.stdout):
            await anyio.sleep(0.05)
            answer = await docker.run(said.text, agent)
    return answer


def left_of(engine: DockerEngine, agent: str) -> Iterator[dict[str, Any]]:
    """The agent's containers, as the engine tells them to anybody; one may be going just now."""
    with engine.client() as client:
        for found in client.api.containers(all=True, filters={"label": f"mcpcp.agent={agent}"}):
            with suppress(NotFound):
                yield client.api.inspect_container(found["Id"])
