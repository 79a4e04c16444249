"""One end of a way that carries frames, as everything inside holds it.

Above: `init`, `maker`, `porter`.
"""

from __future__ import annotations

import os

from servers.sandboxing.inside import frames

MOST_DESCRIPTORS = 4096

_CHUNK = 65536
_LIFELINE_CUT = 125


class Link:
    """The way to the host: two descriptors, or one twice."""

    def __init__(self, reader: int, writer: int, kinds: bytes = frames.TO_SANDBOX) -> None:
        self._reader, self._writer = reader, writer
        self._decoder = frames.Decoder(kinds)
        self._frames: list[tuple[bytes, bytes]] = []

    def write(self, data: bytes) -> None:
        """All of it; ends the sandbox when nobody is there to take it."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._writer, view) :]
        except OSError:
            os._exit(_LIFELINE_CUT)

    def next(self) -> tuple[bytes, bytes]:
        """The next frame; ends the sandbox when the host lets go."""
        while not self._frames:
            data = os.read(self._reader, _CHUNK)
            if not data:
                os._exit(_LIFELINE_CUT)
            self._frames = self._decoder.feed(data)
        return self._frames.pop(0)

    @property
    def reader(self) -> int:
        """To wait for, unless something is `waiting`."""
        return self._reader

    @property
    def waiting(self) -> bool:
        """Whether a frame has come already, with the one before it."""
        return bool(self._frames)
