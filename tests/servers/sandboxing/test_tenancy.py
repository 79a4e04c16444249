"""What the porter of a container says, and what of it the host believes."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from servers.docker_policy.engine import Engine
from servers.docker_policy.hardening import Envelope
from servers.sandboxing.hosted import Hosted
from servers.sandboxing.inside import frames
from servers.sandboxing.kept import Tenancy

WORDS = st.one_of(
    st.binary(min_size=1, max_size=40).map(lambda data: (frames.THROUGH, data)),
    st.just((frames.NEXT, b"")),
    st.booleans().map(lambda b: (frames.ENDED, json.dumps({"out_of_memory": b}).encode())),
)


@given(words=st.lists(WORDS), sizes=st.lists(st.integers(1, 30)))
def test_what_one_sandbox_said_is_never_heard_from_the_next(
    words: list[tuple[bytes, bytes]], sizes: list[int]
) -> None:
    engine = Engine()
    tenancy = Tenancy(Hosted(engine, "none", set()), (Envelope(), {}))
    said = b"".join(frames.encode(kind, payload) for kind, payload in words)
    for size in sizes:
        piece, said = said[:size], said[size:]
        if piece:
            tenancy.hear(piece)
    if said:
        tenancy.hear(said)
    last = max((n for n, (kind, _) in enumerate(words) if kind == frames.NEXT), default=-1)
    now = words[last + 1 :]
    assert b"".join(tenancy.said) == b"".join(p for k, p in now if k == frames.THROUGH)
    assert tenancy.has_ended == any(kind == frames.ENDED for kind, _ in now)
    engine.close()


@given(noise=st.binary(min_size=1))
def test_a_porter_that_talks_nonsense_is_let_go(noise: bytes) -> None:
    engine = Engine()
    tenancy = Tenancy(Hosted(engine, "none", set()), (Envelope(), {}))
    tenancy.hear(b"?" + noise)
    tenancy.hear(frames.encode(frames.ENDED, noise))
    assert tenancy.has_ended or len(noise) < 4
    engine.close()
