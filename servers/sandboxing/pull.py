"""Gets an image for sandboxes from a registry, after a person's consent, and pins it.

    python -m servers.sandboxing.pull [--image NAME] [--yes]
    python -m servers.sandboxing.pull --unpin

`mcpcp sandbox` runs this in the environment of the server that it is for.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from servers.docker_policy.engine import Engine, EngineAway
from servers.sandboxing import pinning, pulling
from servers.sandboxing.outcome import MIB
from servers.sandboxing.pinning import BadPin, Pin
from servers.sandboxing.pulling import Offer, PullFailed
from servers.sandboxing.settings import USUAL_IMAGES, BadSetting, Settings, settings

_INTERRUPTED = 130
_NO_LIBRARIES = (
    "It has Python's standard library and no numpy, pandas or matplotlib. An image of yours that"
    " has them, and python3, can be named with --image; on Linux `python -m"
    " servers.sandboxing.image` makes one of this machine's own, without a registry."
)


@dataclass(frozen=True, slots=True)
class Words:
    """The command line: `image` is None where the usual one is meant."""

    image: str | None
    yes: bool
    unpin: bool


def parse(argv: Sequence[str]) -> Words:
    """Exits with 2 and the usage where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m servers.sandboxing.pull",
        description="Get an image for sandboxes from a registry, and pin it by its digest.",
    )
    usual = f"name:tag or name@digest (the one that is pinned, else {USUAL_IMAGES[-1]})"
    parser.add_argument("--image", metavar="NAME", help=usual)
    parser.add_argument("--yes", action="store_true", help="consent in advance, for scripts")
    parser.add_argument("--unpin", action="store_true", help="pin none: SANDBOX_IMAGE decides")
    parsed = parser.parse_args(argv)
    return Words(parsed.image, parsed.yes, parsed.unpin)


def main(argv: Sequence[str] | None = None) -> None:
    """Exits with 1 where nothing was pinned, 2 for a wrong word or setting, 130 after Ctrl+C."""
    words = parse(sys.argv[1:] if argv is None else argv)
    console = Console(highlight=False, soft_wrap=True)
    try:
        wanted = settings("pull")
        if words.unpin:
            _unpin(wanted, console)
        else:
            _pull(words, wanted, console)
    except BadSetting as e:
        _fail(str(e), 2)
    except (PullFailed, EngineAway) as e:
        _fail(str(e), 1)
    except OSError as e:
        _fail(f"the pin in {wanted.data} can't be written: {e.strerror or e}", 1)
    except KeyboardInterrupt:
        _fail("stopped: nothing was pinned, and sandboxes use what they used before", _INTERRUPTED)


def _fail(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"{message}\n")
    raise SystemExit(code)


def _unpin(wanted: Settings, console: Console) -> None:
    removed = pinning.remove(wanted.data)
    what = "nothing is pinned any more" if removed else "nothing was pinned"
    console.print(f"{what}: sandboxes use the first of {' or '.join(wanted.images)}", markup=False)


def _pull(words: Words, wanted: Settings, console: Console) -> None:
    before = _pinned(wanted)
    image = words.image or _usual(wanted, before)
    _object(image, wanted, before)
    engine = Engine()
    with closing(engine):
        client = engine.client()
        offer = pulling.ask(client, image)
        if not offer.fits:
            raise PullFailed(
                f"{image} is for {', '.join(offer.platforms)}, and the engine is {offer.mine}: name"
                " another image with --image"
            )
        console.print(describe(offer, wanted), markup=False)
        if not (words.yes or _consents(console)):
            raise PullFailed("not pulled, and nothing was pinned")
        _show(pulling.pull(client, offer), console)
        pin = before if before and before.reference == offer.pin.reference else offer.pin
        size = pulling.keep(client, pin)
    pinning.write(wanted.data, pin)
    console.print(_result(pin, size), markup=False)


def _pinned(wanted: Settings) -> Pin | None:
    try:
        return pinning.read(wanted.data)
    except BadPin:  # it is about to be replaced
        return None


def _usual(wanted: Settings, before: Pin | None) -> str:
    """What has the pinned one's name now; else the last that is looked for: the first is ours."""
    counts = before is not None and pinning.concerns(before, wanted.images, USUAL_IMAGES)
    return before.image if before and counts else wanted.images[-1]


def _object(image: str, wanted: Settings, before: Pin | None) -> None:
    """Raises PullFailed where what was pulled would not be used."""
    again = before is not None and image == before.reference
    pin = before if before is not None and again else Pin(image, "")
    if not pinning.concerns(pin, wanted.images, USUAL_IMAGES):
        raise PullFailed(
            f"SANDBOX_IMAGE names {' and '.join(wanted.images)}, so {image} would not be used:"
            " name it there, or unset SANDBOX_IMAGE"
        )


def describe(offer: Offer, wanted: Settings) -> str:
    """What a person consents to."""
    lines = [
        f"image     {offer.image}",
        f"digest    {offer.digest}",
        f"platform  {offer.mine}",
        "size      shown as soon as it comes: engines do not tell it before",
        "",
        "Code that agents run with run_python_code and execute_code runs in containers of this"
        " image, without network, as user 65534. Only the image of this digest is used from then"
        f" on, whatever gets the name later. It is noted in {wanted.data}.",
    ]
    if offer.image in USUAL_IMAGES:
        lines += ["", _NO_LIBRARIES]
    return "\n".join(lines)


def _consents(console: Console) -> bool:
    """Raises PullFailed where there is nobody to ask."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise PullFailed(
            "nobody can be asked here, so nothing was pulled: run it in a terminal, or consent in"
            " advance with --yes"
        )
    try:
        answer = console.input("\nPull it, and let sandboxes use it? \\[y/N] ")
    except EOFError:
        return False
    return answer.strip().lower() in ("y", "yes")


def _show(progress: Iterable[pulling.Progress], console: Console) -> None:
    """A bar on a terminal, a line elsewhere."""
    columns = (TextColumn("pulling"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("pulling", total=None)
        total = 0
        for step in progress:
            total = step.total
            bar.update(task, completed=step.done, total=total or None)
    came = f"{total / MIB:.1f} MB came" if total else "the engine had all of it"
    console.print(f"pulled: {came}", markup=False)


def _result(pin: Pin, size: int) -> str:
    return (
        f"pinned    {pin.reference}, {size / MIB:.0f} MB on disk\n"
        "`mcpcp doctor` tries it; servers that had no sandbox take it within 15 seconds, others at"
        " their next start (mcpcp restart NAME). `mcpcp sandbox unpin` takes it back."
    )


if __name__ == "__main__":
    main()
