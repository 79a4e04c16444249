"""An image for sandboxes from a registry: asked for, consented to, pulled by digest, pinned."""

from __future__ import annotations

import io
import os
import secrets
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import anyio
import docker
import pytest
from docker.errors import ImageNotFound

from servers.sandboxing import candidates, choosing, pinning, pull, pulling
from servers.sandboxing.backend import Backend, run_once
from servers.sandboxing.conversation import Job
from servers.sandboxing.outcome import Limits
from servers.sandboxing.pinning import Pin
from servers.sandboxing.selftest import weaknesses
from servers.sandboxing.settings import USUAL_IMAGES, Settings
from tests.engine import IMAGE, Dockerd, DockerEngine, import_image
from tests.registry import Registry, forget, open_registry
from tests.servers.harness import DEADLINE
from tests.terminal import Terminal, terminal

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

PROMPT = "let sandboxes use it? [y/N]"
DIGEST = "sha256:" + "a" * 64


class Done(NamedTuple):
    """How the program ended."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Place:
    """An engine, a registry that it reaches, and the folder that a pin goes to."""

    client: docker.DockerClient
    registry: Registry
    data: Path
    host: str
    monkeypatch: pytest.MonkeyPatch

    def offer(self, tag: str = "1") -> tuple[str, str]:
        """Put a new image into the registry; its name and digest. The engine has it no more."""
        local = f"mcpcp-tests-pulled-{secrets.token_hex(6)}:latest"
        mark = self.data.with_name(f"mark-{secrets.token_hex(6)}")
        mark.write_text(local)

        def fill(tar: tarfile.TarFile) -> None:
            tar.add(mark, "mark")

        import_image(self.client, local, fill)
        digest = self.registry.push(self.client, local, f"team/python:{tag}")
        forget(self.client, local)
        return f"{self.registry.address}/team/python:{tag}", digest

    def has(self, image: str, digest: str) -> bool:
        """Whether the engine has the image of that digest."""
        try:
            self.client.images.get(Pin(image, digest).reference)
        except ImageNotFound:
            return False
        return True

    @property
    def pin(self) -> Pin | None:
        return pinning.read(self.data)

    def environment(self, **more: str) -> dict[str, str]:
        own = {"DOCKER_HOST": self.host, "SANDBOX_DATA": str(self.data)}
        return {**os.environ, **own, "TERM": "xterm", **more}

    def run(self, *words: str, **more: str) -> Done:
        """Where there is nobody to ask."""
        out, err = io.StringIO(), io.StringIO()
        with self.monkeypatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for name, value in self.environment(**more).items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdin", io.StringIO())
            code = 0
            try:
                pull.main(words)
            except SystemExit as e:
                code = int(e.code or 0)
        return Done(code, out.getvalue(), err.getvalue())

    @contextmanager
    def asked(self, image: str) -> Iterator[tuple[Terminal, subprocess.Popen[bytes]]]:
        """In a terminal that shows the question."""
        with terminal(160, 40) as screen:
            process = subprocess.Popen(
                [sys.executable, "-m", "servers.sandboxing.pull", "--image", image],
                env=self.environment(),
                stdin=screen.descriptor,
                stdout=screen.descriptor,
                stderr=screen.descriptor,
                start_new_session=True,
            )
            try:
                screen.wait_for(PROMPT)
                yield screen, process
            finally:
                process.kill()
                process.wait(DEADLINE)


@pytest.fixture
def place(
    docker_engine: DockerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    with (
        open_registry(tmp_path / "registry") as registry,
        docker_engine.client() as client,
    ):
        yield Place(client, registry, tmp_path / "data", docker_engine.host, monkeypatch)


@pytest.mark.timeout(1800)  # it is pushed, pulled and unpacked: 80 MB
def test_an_image_that_our_script_made_is_pulled_pinned_and_used(
    sandbox_image: tuple[str, str],
    empty_engine: Dockerd,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (
        open_registry(tmp_path / "registry") as registry,
        DockerEngine(sandbox_image[0]).client() as maker,
        DockerEngine(empty_engine.host).client() as client,
    ):
        name = f"{registry.address}/team/sandbox:1"
        digest = registry.push(maker, sandbox_image[1], "team/sandbox:1")
        place = Place(client, registry, tmp_path / "data", empty_engine.host, monkeypatch)
        pulled = place.run("--image", name, "--yes")
        assert pulled.returncode == 0, pulled.stderr
        assert f"digest    {digest}" in pulled.stdout and "MB came" in pulled.stdout
        assert place.pin == Pin(name, digest)
        assert [i.tags for i in client.images.list()] == [["mcpcp-sandbox:pulled"]], (
            "prune keeps it"
        )
        registry.stop()
        monkeypatch.setenv("DOCKER_HOST", empty_engine.host)
        backend = next(candidates.candidates(docker_only(place)))
        assert backend.image == f"{pinning.repository(name)}@{digest}"  # type: ignore[attr-defined]
        assert anyio.run(proven, backend) == ([], "[0.0, 1.0]")


async def proven(backend: Backend) -> tuple[list[str], str | None]:
    """What its self-test finds, and what numpy computes in it."""
    weak = await weaknesses(backend)
    code = "import numpy\nnumpy.arange(2.0).tolist()"
    outcome = await run_once(backend, Job(code, Limits(timeout=DEADLINE)))
    await backend.close()
    return weak, outcome.result


def test_a_person_is_shown_what_it_is_before_anything_is_pulled(place: Place) -> None:
    image, digest = place.offer()
    with place.asked(image) as (screen, process):
        shown = "\n".join(screen.lines())
        for text in (image, digest, "linux/", "run_python_code", str(place.data)):
            assert text in shown
        assert not place.has(image, digest)
        screen.type(b"y\n")
        screen.wait_for(f"pinned    {pinning.repository(image)}@{digest}")
        assert process.wait(DEADLINE) == 0
    assert place.has(image, digest) and place.pin == Pin(image, digest)


@pytest.mark.parametrize("answer", [b"\n", b"no\n", b"\x04"], ids=repr)
def test_without_consent_nothing_is_pulled(answer: bytes, place: Place) -> None:
    image, digest = place.offer()
    with place.asked(image) as (screen, process):
        screen.type(answer)
        screen.wait_for("not pulled, and nothing was pinned")
        assert process.wait(DEADLINE) == 1
    assert not place.has(image, digest) and place.pin is None


def test_where_nobody_can_be_asked_consent_is_a_word(place: Place) -> None:
    image, digest = place.offer()
    refused = place.run("--image", image)
    assert refused.returncode == 1 and "--yes" in refused.stderr
    assert not place.has(image, digest) and place.pin is None
    assert place.run("--image", image, "--yes").returncode == 0
    assert place.has(image, digest) and place.pin == Pin(image, digest)


def test_what_was_consented_to_is_pulled_whatever_has_the_name_by_then(place: Place) -> None:
    image, digest = place.offer()
    with place.asked(image) as (screen, process):
        other = place.offer()
        assert other[0] == image and other[1] != digest
        screen.type(b"y\n")
        assert process.wait(DEADLINE) == 0, screen.lines()
    assert place.pin == Pin(image, digest)
    assert place.has(image, digest) and not place.has(*other)


def test_what_the_registry_has_lost_meanwhile_is_not_replaced(place: Place) -> None:
    image, _ = place.offer()
    with place.asked(image) as (screen, process):
        place.registry.lose()
        screen.type(b"y\n")
        screen.wait_for("the registry has no")
        assert process.wait(DEADLINE) == 1
    assert place.pin is None


def test_ctrl_c_ends_a_pull_and_what_was_pinned_stays(place: Place) -> None:
    before = Pin("python:3.13-slim", DIGEST)
    pinning.write(place.data, before)
    image, digest = place.offer()
    with place.asked(image) as (screen, process), place.registry.standing_still():
        screen.type(b"y\n")
        screen.wait_for("pulling")
        os.killpg(process.pid, signal.SIGINT)
        screen.wait_for("stopped: nothing was pinned")
        assert process.wait(DEADLINE) == 130
    assert place.pin == before and not place.has(image, digest)


def test_a_registry_that_is_away_is_told_from_one_that_refuses(
    place: Place, tmp_path: Path
) -> None:
    absent = place.run("--image", f"{place.registry.address}/team/none:1", "--yes")
    assert absent.returncode == 1 and "the registry has no 127.0.0.1" in absent.stderr
    with open_registry(tmp_path / "closed", closed=True) as closed:
        refused = place.run("--image", f"{closed.address}/team/python:1", "--yes")
    assert refused.returncode == 1
    assert "refuses" in refused.stderr and f"docker login {closed.address}" in refused.stderr
    away = place.run("--image", f"{closed.address}/team/python:1", "--yes")
    assert away.returncode == 1 and "does not reach the registry" in away.stderr
    assert place.pin is None


def test_without_an_engine_the_way_to_one_is_said(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "servers.sandboxing.pull", "--yes"],
        env={**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/none", "SANDBOX_DATA": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 1 and "no Docker engine answers" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_name_that_is_none_is_told(place: Place) -> None:
    for name in ("-", "UPPER/case", "127.0.0.1:1/y z"):
        done = place.run(f"--image={name}", "--yes")
        assert (done.returncode, place.pin) == (1, None), done
        assert "Traceback" not in done.stderr and done.stderr.strip()


def why_not(place: Place, settings: Settings) -> list[str]:
    """What a server would say of its candidates, each thing once: an engine has several ways."""
    place.monkeypatch.setenv("DOCKER_HOST", place.host)
    found = candidates.candidates(settings)
    said = (b.why if isinstance(b, choosing.Unusable) else "usable" for b in found)
    return list(dict.fromkeys(said))


def docker_only(place: Place, *images: str) -> Settings:
    return Settings(backend="docker", images=images or USUAL_IMAGES, data=place.data)


def test_an_image_with_the_name_of_the_pinned_one_is_not_used(place: Place) -> None:
    image, digest = place.offer()
    assert place.run("--image", image, "--yes").returncode == 0
    settings = docker_only(place)
    assert why_not(place, settings) == ["usable"]
    assert next(candidates.candidates(settings)).image == Pin(image, digest).reference  # type: ignore[attr-defined]

    # the tag moves on, and the pinned image goes
    repository, _, tag = image.rpartition(":")
    place.client.images.get(IMAGE).tag(repository, tag)
    try:
        assert why_not(place, settings) == ["usable"], "as long as it is there"
        forget(place.client, Pin(image, digest).reference)
        (why,) = why_not(place, settings)
        assert "another image than the pinned one" in why and digest in why
        assert f"mcpcp sandbox pull --image {repository}@{digest}" in why
    finally:
        forget(place.client, image)
    (why,) = why_not(place, settings)
    assert "has lost the pinned image" in why

    # and is had again, under the name that was asked for
    again = place.run("--image", f"{repository}@{digest}", "--yes")
    assert again.returncode == 0, again.stderr
    assert place.pin == Pin(image, digest)
    assert why_not(place, settings) == ["usable"]


def test_an_engine_without_an_image_is_told_from_no_engine(place: Place) -> None:
    settings = docker_only(place, "surely/absent:1")
    (why,) = why_not(place, settings)
    assert why == "the engine has no image surely/absent:1: `mcpcp sandbox pull` gets one"


def test_an_operator_who_names_images_is_not_overruled(place: Place) -> None:
    image, _ = place.offer()
    refused = place.run("--image", image, "--yes", SANDBOX_IMAGE=IMAGE)
    assert refused.returncode == 1 and "SANDBOX_IMAGE names" in refused.stderr
    assert place.run("--image", image, "--yes", SANDBOX_IMAGE=f"{IMAGE},{image}").returncode == 0
    (chosen,) = candidates_of(place, IMAGE)
    assert chosen == IMAGE, "the pin is of another image"
    (chosen,) = candidates_of(place, IMAGE, image)
    assert chosen == place.pin.reference if place.pin else False


def candidates_of(place: Place, *images: str) -> list[str]:
    place.monkeypatch.setenv("DOCKER_HOST", place.host)
    found = candidates.candidates(docker_only(place, *images))
    return list(dict.fromkeys(backend.image for backend in found))  # type: ignore[attr-defined]


def test_a_pin_can_be_taken_back(place: Place) -> None:
    pinning.write(place.data, Pin("python:3.13-slim", DIGEST))
    done = place.run("--unpin")
    assert done.returncode == 0 and "nothing is pinned any more" in done.stdout
    assert place.pin is None
    assert "nothing was pinned" in place.run("--unpin").stdout


def test_a_pin_that_can_t_be_read_lets_no_image_in(place: Place) -> None:
    image, digest = place.offer()
    place.data.mkdir()
    for broken in ("{", "[]", '{"image": "x"}', '{"image": "x", "digest": "latest"}', '"x"'):
        (place.data / "image.json").write_text(broken)
        (why,) = why_not(place, docker_only(place, IMAGE))
        assert "mcpcp sandbox pull" in why and "mcpcp sandbox unpin" in why
    assert place.run("--image", image, "--yes").returncode == 0
    assert place.pin == Pin(image, digest)


# Without an engine: what a name means, what is asked, what is said.


@pytest.mark.parametrize(
    ("image", "repository"),
    [
        ("python:3.13-slim", "python"),
        ("python", "python"),
        (f"python@{DIGEST}", "python"),
        (f"python:3@{DIGEST}", "python"),
        ("127.0.0.1:5000/team/python", "127.0.0.1:5000/team/python"),
        ("127.0.0.1:5000/team/python:1", "127.0.0.1:5000/team/python"),
    ],
)
def test_a_pin_s_reference_is_the_name_without_its_tag(image: str, repository: str) -> None:
    assert Pin(image, DIGEST).reference == f"{repository}@{DIGEST}"


def offered(*platforms: str) -> pulling.Offer:
    return pulling.Offer("python:3.13-slim", DIGEST, platforms, "linux/arm64")


def test_an_image_for_other_processors_does_not_fit() -> None:
    assert offered("linux/amd64", "linux/arm64").fits
    assert not offered("linux/amd64").fits
    assert offered().fits, "a registry may not say"


def test_progress_is_what_has_come_of_what_is_known() -> None:
    progress = pulling.Progress()
    said: list[Mapping[str, object]] = [
        {"status": "Pulling from team/python", "id": "1"},
        {"status": "Downloading", "id": "a", "progressDetail": {"current": 10, "total": 100}},
        {"status": "Downloading", "id": "b", "progressDetail": {"current": 5, "total": 50}},
        {"status": "Extracting", "id": "b", "progressDetail": {"current": 1, "total": 50}},
        {"status": "Download complete", "id": "a", "progressDetail": {}},
        {"status": "Already exists", "id": "c", "progressDetail": {}},
    ]
    for event in said:
        progress.heard(event)
    assert (progress.done, progress.total) == (105, 150)


@pytest.mark.parametrize(
    ("said", "way_out"),
    [
        ("write /var/lib/docker/tmp/x: no space left on device", "docker system df"),
        ("toomanyrequests: You have reached your pull rate limit", "docker login docker.io"),
        ("pull access denied for python, repository does not exist", "docker login docker.io"),
        ("no basic auth credentials", "docker login docker.io"),
        ("manifest unknown: manifest unknown", "look at its name and tag"),
        ("no matching manifest for linux/arm64/v8 in the manifest list", "--image"),
        ("dial tcp: lookup registry-1.docker.io: no such host", "proxy settings"),
        ("net/http: TLS handshake timeout", "proxy settings"),
        ("('Connection aborted.', FileNotFoundError(2, 'No such file'))", "no Docker engine"),
        ("", "did not get python:3.13-slim"),
    ],
)
def test_what_an_engine_says_of_a_failure_gets_a_way_out(said: str, way_out: str) -> None:
    assert way_out in pulling.in_words("python:3.13-slim", said)


def test_what_a_registry_says_can_t_drive_a_terminal() -> None:
    shown = pulling.in_words("x", "denied \x1b]0;title\x07\u202e" + "y" * 9999)
    assert "\x1b" not in shown and "\u202e" not in shown and len(shown) < 1000
