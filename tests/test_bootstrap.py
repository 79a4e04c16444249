"""The environment that the launcher makes for itself: real venvs, real pip, a tiny project."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mcpcp.bootstrap import STAMP, UNFINISHED, Environment, ensure
from mcpcp.errors import FleetError
from mcpcp.pipoutput import explain
from tests.fleet import PATIENCE

pytestmark = pytest.mark.timeout(1500)
INSTALLING = 600.0
"""Seconds for an environment and an install into it: ten, on a machine with nothing else to do."""

# A build backend of the project's own: nothing has to be fetched to install it.
BACKEND = """
import os, zipfile
def get_requires_for_build_editable(config_settings=None): return []
def build_editable(folder, config_settings=None, metadata_directory=None):
    if os.environ.get("STUCK"):
        open(os.environ["STUCK"], "w").close()
        import time; time.sleep(600)
    name, info = "tiny-1.0-py3-none-any.whl", "tiny-1.0.dist-info/"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.writestr("tiny.py", "")
        about = "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0\\n"
        wheel.writestr(info + "METADATA", about + NEEDS)
        tags = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        wheel.writestr(info + "WHEEL", tags)
        wheel.writestr(info + "RECORD", "")
    return name
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """Of a project without requirements, and with no package index to be reached."""
    write(tmp_path)
    for name, value in {
        "PIP_INDEX_URL": "http://127.0.0.1:1/",
        "PIP_FIND_LINKS": "",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_RETRIES": "1",  # pip tells the reason when it tries again
    }.items():
        monkeypatch.setenv(name, value)
    return Environment(tmp_path)


def write(project: Path, needs: str = "") -> None:
    lines = f"Requires-Dist: {needs}\n" if needs else ""
    (project / "backend.py").write_text(f"NEEDS = {lines!r}\n{BACKEND}")
    (project / "pyproject.toml").write_text(PYPROJECT)
    (project / "setup.cfg").write_text(f"# needs {needs}\n")


def has_tiny(environment: Environment) -> bool:
    command = [str(environment.python), "-c", "import tiny"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_first_start_installs_and_the_next_one_only_looks(environment: Environment) -> None:
    ensure(environment)
    assert has_tiny(environment)
    stamp = (environment.folder / STAMP).stat()
    environment.python.unlink()
    environment.python.write_text("who runs this is told that it is no program\n")
    ensure(environment)
    assert (environment.folder / STAMP).stat().st_mtime_ns == stamp.st_mtime_ns


def test_changed_requirements_are_installed_and_the_extras_stay(environment: Environment) -> None:
    ensure(environment, "dev")
    before = (environment.folder / STAMP).read_text()
    (environment.project / "setup.cfg").write_text("# changed\n")
    ensure(environment)
    after = (environment.folder / STAMP).read_text()
    assert before != after
    assert '"extras": ["dev"]' in after


def start_and_get_stuck(environment: Environment) -> list[psutil.Process]:
    """An install whose build hangs: the starter, its pip, and pip's build."""
    reached = environment.project / "reached"
    program = (
        "from pathlib import Path; from mcpcp.bootstrap import *; "
        f"ensure(Environment(Path({str(environment.project)!r})))"
    )
    starter = psutil.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "STUCK": str(reached)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + INSTALLING
    while not reached.exists():
        assert time.monotonic() < deadline
        assert starter.poll() is None
        time.sleep(0.02)
    below = starter.children(recursive=True)
    assert len(below) >= 2
    return [starter, *below]


def test_an_install_that_was_killed_is_built_afresh(environment: Environment) -> None:
    stuck = start_and_get_stuck(environment)
    for process in stuck:
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end with the one before
            process.kill()
    psutil.wait_procs(stuck, PATIENCE)
    assert (environment.folder / UNFINISHED).exists()
    half = environment.folder / "half-written"
    half.touch()
    ensure(environment)
    assert has_tiny(environment)
    assert not half.exists()
    assert not (environment.folder / UNFINISHED).exists()


def test_sigterm_ends_pip_and_its_build_too(environment: Environment) -> None:
    stuck = start_and_get_stuck(environment)
    stuck[0].terminate()
    _, alive = psutil.wait_procs(stuck, PATIENCE)
    assert not alive


def test_an_index_out_of_reach_is_named_with_the_way_out(environment: Environment) -> None:
    write(environment.project, needs="something-else")
    with pytest.raises(FleetError, match=r"index can't be reached.*PIP_INDEX_URL"):
        ensure(environment)
    write(environment.project)
    ensure(environment)  # pip had rolled back: nothing to clear
    assert has_tiny(environment)


def test_a_python_without_ensurepip_borrows_the_base_pythons_pip(environment: Environment) -> None:
    program = (
        "import sys; sys.modules['ensurepip'] = None\n"
        "from pathlib import Path; from mcpcp.bootstrap import *\n"
        f"ensure(Environment(Path({str(environment.project)!r})))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert has_tiny(environment)
    assert not list(environment.folder.glob("lib/*/site-packages/pip"))


def test_a_python_without_venv_says_what_to_install(environment: Environment) -> None:
    program = (
        "import sys; sys.modules['venv'] = None\n"
        "from pathlib import Path; from mcpcp.bootstrap import *\n"
        f"ensure(Environment(Path({str(environment.project)!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "can't make a virtual environment" in done.stderr


def test_a_full_disk_is_named_whatever_said_so() -> None:
    said = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    assert "disk is full" in explain(said, "installing")


def test_a_python_that_is_too_old_is_told_so(project: Path) -> None:
    program = (
        "import sys; sys.version_info = (3, 9, 2); sys.argv = ['launch_servers.py']\n"
        f"import runpy; runpy.run_path({str(project / 'launch_servers.py')!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "needs Python 3.11 or newer, and this is 3.9.2" in done.stderr


def test_without_bootstrap_and_without_the_requirements_it_says_what_to_do(project: Path) -> None:
    command = [sys.executable, "-S", str(project / "launch_servers.py"), "--no-bootstrap"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is not installed for" in done.stderr
    assert "pip install -e ." in done.stderr


def test_help_teaches_without_an_environment(project: Path) -> None:
    command = [sys.executable, "-I", "-S", str(project / "launch_servers.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for word in (
        "--only mcp1,mcp3",
        "--plain",
        "--json",
        "--no-bootstrap",
        "--config",
        "client.py",
    ):
        assert word in done.stdout
