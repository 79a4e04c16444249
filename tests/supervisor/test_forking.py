import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mcpcp.supervisor.forking import is_forkable

PROGRAMS = Path(__file__).resolve().parents[1] / "programs"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forking is for Linux")


def drill(name: str) -> Any:
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / "nursery.py"), name],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_forked_server_finds_everything_as_a_spawned_one_does() -> None:
    answer = drill("same")
    for forked, spawned in zip(answer["forked"], answer["spawned"], strict=True):
        assert forked.pop("forked")
        assert not spawned.pop("forked")
        for key in ("rest", "ours"):
            forked.pop(key)
            spawned.pop(key)
        assert forked == spawned
    exited, raised, plain, module = answer["forked"]
    assert module["name"] == "__main__"
    assert (exited["code"], raised["code"], plain["code"]) == (7, 1, 0)
    assert plain["secret"] == "secret\n"
    assert plain["is_child"]
    assert plain["leads_session"]
    assert plain["pdeathsig"] == 9
    assert plain["env"]["ENTRY"] == "a b=c\n"


def test_an_uncaught_error_is_told_as_by_python_itself() -> None:
    answer = drill("same")
    assert answer["forked"][1]["rest"][-1] == "RuntimeError: as asked"


def test_a_server_lives_on_without_its_zygote_and_others_are_spawned_meanwhile() -> None:
    assert drill("outlives") == {"lived": True, "meanwhile": False, "code": -9}


def test_a_zygote_that_hangs_is_replaced_and_the_server_spawned() -> None:
    assert drill("hangs") == {"forked": False, "code": 0}


def test_a_zygote_with_a_thread_is_not_used() -> None:
    assert drill("threads") == {"forked": False, "code": 0}


SCRIPT = (sys.executable, "server.py", "--port", "1")


@pytest.mark.parametrize(
    ("argv", "env", "forkable"),
    [
        (SCRIPT, {}, True),
        (SCRIPT, {"BACKEND_URL": "x"}, True),
        (SCRIPT, {"PYTHONPATH": "/x"}, False),
        (SCRIPT, {"LD_PRELOAD": "x.so"}, False),
        (SCRIPT, {"TZ": "Asia/Tokyo"}, False),
        (SCRIPT, {"LANG": "de_DE.UTF-8"}, False),
        ((sys.executable, "-m", "server"), {}, True),
        ((sys.executable, "-m"), {}, False),
        ((sys.executable, "-c", "pass"), {}, False),
        ((sys.executable,), {}, False),
        (("/usr/bin/other-python", "server.py"), {}, False),
        (("node", "server.js"), {}, False),
    ],
)
def test_only_what_a_fork_can_be_is_forked(
    argv: tuple[str, ...], env: dict[str, str], forkable: bool
) -> None:
    base = {"PATH": "/bin", "LC_ALL": "C"}
    assert is_forkable(argv, {**base, **env}, base) is forkable


def test_what_the_zygote_was_started_with_as_well_does_not_matter() -> None:
    assert is_forkable(SCRIPT, {"TZ": "UTC"}, {"TZ": "UTC"})
    assert not is_forkable(SCRIPT, {}, {"TZ": "UTC"})
