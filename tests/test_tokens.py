"""Tokens: what is accepted, and every way to be refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcpcp import keyring, limits
from mcpcp.config import loads
from mcpcp.errors import ConfigError, KeyRingError, TokenError
from mcpcp.keyring import SigningKey
from mcpcp.policy import NONE, Allowlist
from mcpcp.state import FileRevocations
from mcpcp.tokens import LONGEST, TokenSource, TokenVerifier, issue, read_claims

ALLOW = Allowlist.of({"mcp1": ["*"], "mcp3": ["echo"]})
NOW = 1_800_000_000
OWN_FIXTURES = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


class Clock:
    """The time of day, as a test sets it."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="session")
def made_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keys = tmp_path_factory.mktemp("ring") / "keys"
    keyring.ensure(keys, bits=2048)
    return keys


@pytest.fixture
def keys(made_keys: Path, tmp_path: Path) -> Path:
    """A key ring of the test's own."""
    copy = tmp_path / "keys"
    copy.mkdir()
    for path in made_keys.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
        (copy / path.name).chmod(0o600)
    return copy


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def key(keys: Path) -> SigningKey:
    return keyring.load_signing(keys)


@pytest.fixture
def revocations(tmp_path: Path, clock: Clock) -> FileRevocations:
    return FileRevocations(tmp_path / "revocations", clock)


@pytest.fixture
def verifier(keys: Path, revocations: FileRevocations, clock: Clock) -> TokenVerifier:
    return TokenVerifier(keys, revocations, clock)


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims with changes; a value of None takes the claim out."""
    good = {
        "iss": "https://mcpcp",
        "aud": "mcpcp-server",
        "sub": "me",
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 100,
        "jti": "id1",
        "allow": {"mcp1": ["*"]},
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(key: SigningKey, payload: str | dict[str, Any], header: str | None = None) -> str:
    """A token with exactly this text in it, signed well."""
    text = payload if isinstance(payload, str) else json.dumps(payload)
    head = header or json.dumps({"alg": "RS256", "kid": key.kid, "typ": "JWT"})
    signed = f"{b64(head.encode())}.{b64(text.encode())}"
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    return f"{signed}.{b64(key.key.sign(signed.encode(), PKCS1v15(), SHA256()))}"


def refusal(verifier: TokenVerifier, token: str) -> str:
    with pytest.raises(TokenError) as caught:
        verifier.verify(token)
    return caught.value.reason


def test_a_token_becomes_its_agent(verifier: TokenVerifier, key: SigningKey) -> None:
    agent = verifier.verify(issue(key, "me", ALLOW, ttl=100, now=NOW))
    assert (agent.name, agent.allow, agent.issuer) == ("me", ALLOW, "https://mcpcp")
    assert agent.expires_at == NOW + 100
    assert len(agent.token_id) == 32


def test_our_tokens_and_keys_are_everybodys(key: SigningKey, keys: Path) -> None:
    token = issue(key, "me", ALLOW, ttl=100)
    (jwk,) = jwt.PyJWKSet.from_json((keys / "jwks.json").read_text()).keys
    read = jwt.decode(token, jwk, ["RS256"], audience="mcpcp-server", issuer="https://mcpcp")
    assert (read["sub"], read["allow"]) == ("me", ALLOW.to_claim())
    assert jwt.get_unverified_header(token) == {"alg": "RS256", "kid": jwk.key_id, "typ": "JWT"}


def test_a_token_holds_limits_and_without_any_it_says_nothing_of_them(
    verifier: TokenVerifier, key: SigningKey
) -> None:
    claim = {
        "calls_per_minute": 30,
        "in_flight": 2,
        "arguments": {"mcp1:echo": {"properties": {"message": {"maxLength": 5}}}},
    }
    held = limits.parse(claim)
    token = issue(key, "me", ALLOW, ttl=100, now=NOW, held_to=held)
    assert read_claims(token)["limits"] == claim
    assert verifier.verify(token).limits == held
    free = issue(key, "me", ALLOW, ttl=100, now=NOW)
    assert "limits" not in read_claims(free)
    assert verifier.verify(free).limits is NONE
    assert verifier.verify(free).identity != verifier.verify(token).identity


def test_null_is_no_way_to_be_without_limits(verifier: TokenVerifier, key: SigningKey) -> None:
    text = json.dumps({**claims(), "limits": None})
    assert refusal(verifier, sign(key, text)) == "claims"


def test_two_tokens_differ_in_their_ids(key: SigningKey) -> None:
    ids = {read_claims(issue(key, "me", ALLOW, ttl=9))["jti"] for _ in range(2)}
    assert len(ids) == 2


def test_a_token_written_by_hand_is_accepted(verifier: TokenVerifier, key: SigningKey) -> None:
    assert verifier.verify(sign(key, claims())).name == "me"
    assert verifier.verify(sign(key, claims(extra={"a": [1]}))).name == "me"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": NOW - 31}, "expired"),
        ({"exp": NOW - 30}, "expired"),
        ({"nbf": NOW + 31}, "not_yet_valid"),
        ({"iat": NOW + 31}, "not_yet_valid"),
        ({"iss": "https://evil"}, "issuer"),
        ({"iss": ["https://mcpcp"]}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"aud": "other"}, "audience"),
        ({"aud": ["mcpcp-server", "other"]}, "audience"),
        ({"aud": ["mcpcp-server"]}, "audience"),
        ({"aud": None}, "audience"),
        ({"sub": None}, "claims"),
        ({"sub": ""}, "claims"),
        ({"sub": 1}, "claims"),
        ({"sub": "a\nb"}, "claims"),
        ({"sub": "x" * 129}, "claims"),
        ({"exp": None}, "claims"),
        ({"iat": None}, "claims"),
        ({"nbf": None}, "claims"),
        ({"jti": None}, "claims"),
        ({"jti": ""}, "claims"),
        ({"jti": 7}, "claims"),
        ({"exp": str(NOW + 100)}, "claims"),
        ({"exp": True}, "claims"),
        ({"exp": NOW + 0.5}, "claims"),
        ({"exp": 10**30}, "claims"),
        ({"iat": -1}, "claims"),
        ({"allow": None}, "claims"),
        ({"allow": ["mcp1"]}, "claims"),
        ({"allow": {"mcp1": "*"}}, "claims"),
        ({"allow": {"mcp1": [1]}}, "claims"),
        ({"limits": []}, "claims"),
        ({"limits": {"calls_per_minute": 0}}, "claims"),
        ({"limits": {"calls_per_minute": True}}, "claims"),
        ({"limits": {"calls_per_hour": 5}}, "claims"),
        ({"limits": {"arguments": {"mcp1:echo": {"$ref": "https://evil"}}}}, "claims"),
        ({"limits": {"arguments": {"mcp1": {}}}}, "claims"),
    ],
)
def test_claims_that_are_refused(
    verifier: TokenVerifier, key: SigningKey, changes: dict[str, Any], reason: str
) -> None:
    assert refusal(verifier, sign(key, claims(**changes))) == reason


@pytest.mark.parametrize("changes", [{"exp": NOW - 29}, {"nbf": NOW + 30}, {"iat": NOW + 30}])
def test_clocks_may_differ_by_half_a_minute(
    verifier: TokenVerifier, key: SigningKey, changes: dict[str, Any]
) -> None:
    assert verifier.verify(sign(key, claims(**changes))).name == "me"


def test_a_token_that_was_good_expires(
    verifier: TokenVerifier, key: SigningKey, clock: Clock
) -> None:
    token = sign(key, claims())
    verifier.verify(token)
    clock.now = NOW + 129
    verifier.verify(token)
    clock.now = NOW + 130
    assert refusal(verifier, token) == "expired"
    clock.now = NOW
    assert verifier.verify(token).name == "me"  # nothing stale was kept


def test_the_wrong_key_is_refused(verifier: TokenVerifier, key: SigningKey) -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert refusal(verifier, sign(SigningKey(key.kid, other), claims())) == "signature"


def test_a_changed_token_is_refused(verifier: TokenVerifier, key: SigningKey) -> None:
    head, _, signature = sign(key, claims()).split(".")
    forged = b64(json.dumps(claims(allow={"*": ["*"]})).encode())
    assert refusal(verifier, f"{head}.{forged}.{signature}") == "signature"


def test_an_unknown_kid_is_refused(verifier: TokenVerifier, key: SigningKey) -> None:
    assert refusal(verifier, sign(SigningKey("0" * 16, key.key), claims())) == "unknown_key"


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"alg": "none"}, "algorithm"),
        ({"alg": "None", "kid": "KID"}, "algorithm"),
        ({"alg": "RS384", "kid": "KID"}, "algorithm"),
        ({"alg": "PS256", "kid": "KID"}, "algorithm"),
        ({"alg": ["RS256"], "kid": "KID"}, "algorithm"),
        ({"kid": "KID"}, "algorithm"),
        ({"alg": "RS256"}, "unknown_key"),
        ({"alg": "RS256", "kid": "../../etc/passwd"}, "unknown_key"),
        ({"alg": "RS256", "kid": ["KID"]}, "unknown_key"),
        ({"alg": "RS256", "kid": "KID", "jku": "https://evil/jwks.json"}, "header"),
        ({"alg": "RS256", "kid": "KID", "jwk": {"kty": "RSA"}}, "header"),
        ({"alg": "RS256", "kid": "KID", "x5u": "https://evil"}, "header"),
        ({"alg": "RS256", "kid": "KID", "crit": ["exp"]}, "header"),
        ({"alg": "RS256", "kid": "KID", "b64": False}, "header"),
        ({"alg": "RS256", "kid": "KID", "typ": "at+jwt"}, "header"),
    ],
)
def test_headers_that_are_refused(
    verifier: TokenVerifier, key: SigningKey, header: dict[str, Any], reason: str
) -> None:
    text = json.dumps(header).replace("KID", key.kid)
    assert refusal(verifier, sign(key, claims(), text)) == reason


def test_no_signature_is_refused(verifier: TokenVerifier, key: SigningKey) -> None:
    unsigned = jwt.encode(claims(), "", "none", headers={"kid": key.kid})
    assert refusal(verifier, unsigned) == "malformed"
    head, body, _ = sign(key, claims()).split(".")
    assert refusal(verifier, f"{head}.{body}.AAAA") == "signature"


def test_the_public_key_is_no_shared_secret(
    verifier: TokenVerifier, key: SigningKey, keys: Path
) -> None:
    pem = key.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for secret in (pem, pem.strip(), (keys / "jwks.json").read_bytes()):
        signed = ".".join(
            b64(json.dumps(part).encode())
            for part in ({"alg": "HS256", "kid": key.kid, "typ": "JWT"}, claims())
        )
        tag = b64(hmac.new(secret, signed.encode(), hashlib.sha256).digest())
        assert refusal(verifier, f"{signed}.{tag}") == "algorithm"


def test_an_elliptic_curve_signature_is_refused(verifier: TokenVerifier, key: SigningKey) -> None:
    curve = ec.generate_private_key(ec.SECP256R1())
    token = jwt.encode(claims(), curve, "ES256", headers={"kid": key.kid})
    assert refusal(verifier, token) == "algorithm"


@pytest.mark.parametrize(
    "payload",
    [
        '{"sub": "me", "sub": "admin", REST}',
        '{"allow": {"mcp1": ["*"]}, REST}',
        '{"x": {"a": 1, "a": 2}, REST}',
        '{"\\u0073ub": "admin", REST}',
    ],
)
def test_duplicate_claims_are_refused(
    verifier: TokenVerifier, key: SigningKey, payload: str
) -> None:
    rest = json.dumps(claims())[1:-1]
    assert refusal(verifier, sign(key, payload.replace("REST", rest))) == "duplicate_keys"


def test_duplicate_header_keys_are_refused(verifier: TokenVerifier, key: SigningKey) -> None:
    header = f'{{"alg": "none", "alg": "RS256", "kid": "{key.kid}"}}'
    assert refusal(verifier, sign(key, claims(), header)) == "duplicate_keys"


@pytest.mark.parametrize(
    "payload",
    ["[]", "1", '"x"', "null", "{", "[" * 4000, '{"exp": NaN}', '{"exp": Infinity}', "{}x"],
)
def test_payloads_that_are_no_claims_are_refused(
    verifier: TokenVerifier, key: SigningKey, payload: str
) -> None:
    assert refusal(verifier, sign(key, payload)) == "malformed"


def test_long_tokens_are_refused_before_they_are_looked_at(
    verifier: TokenVerifier, key: SigningKey
) -> None:
    for token in ("x" * 2**20, "." * 2**20, sign(key, claims(pad="x" * 2**20))):
        assert refusal(verifier, token) == "too_long"
    assert len(sign(key, claims(pad="x" * LONGEST))) > LONGEST


def test_a_second_spelling_of_a_token_is_refused(verifier: TokenVerifier, key: SigningKey) -> None:
    token = sign(key, claims())
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    # 256 bytes of signature leave bits of the last character unused.
    twin = token[:-1] + alphabet[alphabet.index(token[-1]) + 1]
    assert base64.urlsafe_b64decode(twin.split(".")[2] + "==") == (
        base64.urlsafe_b64decode(token.split(".")[2] + "==")
    )
    assert refusal(verifier, twin) == "malformed"


@pytest.mark.parametrize(
    "change",
    [
        lambda t: "",
        lambda t: "x",
        lambda t: "..",
        lambda t: t + ".",
        lambda t: t + "." + t,
        lambda t: t + "=",
        lambda t: t + "==",
        lambda t: t + "\n",
        lambda t: " " + t,
        lambda t: "Bearer " + t,
        lambda t: t.replace(".", "\N{FULLWIDTH FULL STOP}"),
        lambda t: t.replace(".", ".\N{FULLWIDTH LATIN CAPITAL LETTER A}", 1),
        lambda t: t + "\udc80",
        lambda t: t.replace(".", "+.", 1),
        lambda t: t[: t.rindex(".")] + ".",
        lambda t: t[t.index(".") :],
        lambda t: t.replace(".", ".\0", 1),
    ],
)
def test_misspelled_tokens_are_refused(
    verifier: TokenVerifier, key: SigningKey, change: Callable[[str], str]
) -> None:
    token = sign(key, claims())
    verifier.verify(token)  # the good one is remembered, and does not help the others
    assert refusal(verifier, change(token)) == "malformed"


@settings(max_examples=300, suppress_health_check=OWN_FIXTURES)
@given(data=st.data())
def test_a_token_with_anything_changed_is_refused(
    verifier: TokenVerifier, key: SigningKey, data: st.DataObject
) -> None:
    token = sign(key, claims())
    at = data.draw(st.integers(0, len(token)))
    put = data.draw(st.text(max_size=4))
    cut = data.draw(st.integers(0, 4))
    changed = token[:at] + put + token[at + cut :]
    if changed != token:
        refusal(verifier, changed)


@settings(max_examples=50, suppress_health_check=OWN_FIXTURES)
@given(
    payload=st.text()
    | st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*claims()]), inner),
    ).map(json.dumps)
)
def test_signed_nonsense_is_refused(verifier: TokenVerifier, key: SigningKey, payload: str) -> None:
    refusal(verifier, sign(key, payload.encode("utf-8", "replace").decode()))


def test_a_refusal_says_no_more_than_it_should(verifier: TokenVerifier, key: SigningKey) -> None:
    with pytest.raises(TokenError) as caught:
        verifier.verify(sign(SigningKey("0" * 16, key.key), claims()))
    assert str(caught.value) == "the token is not accepted"


def test_a_revoked_token_is_refused_also_where_it_is_remembered(
    verifier: TokenVerifier, key: SigningKey, revocations: FileRevocations
) -> None:
    token, other = sign(key, claims()), sign(key, claims(jti="id2"))
    verifier.verify(token)
    revocations.revoke("id1", NOW + 100)
    assert refusal(verifier, token) == "revoked"
    assert verifier.verify(other).token_id == "id2"


def test_another_processs_revocation_is_seen_within_a_second(
    verifier: TokenVerifier, key: SigningKey, tmp_path: Path
) -> None:
    token = sign(key, claims())
    verifier.verify(token)
    FileRevocations(tmp_path / "revocations").revoke("id1", NOW + 10**9)
    assert _soon(lambda: _reason(verifier, token) == "revoked")


def test_rotation_reaches_a_running_verifier(
    verifier: TokenVerifier, key: SigningKey, keys: Path
) -> None:
    old = sign(key, claims())
    verifier.verify(old)
    new_kid = keyring.rotate(keys, bits=2048)
    new = sign(keyring.load_signing(keys), claims(jti="id2"))
    assert _soon(lambda: _reason(verifier, new) is None)
    assert verifier.verify(old).token_id == "id1"
    keyring.retire(keys, key.kid)
    assert _soon(lambda: _reason(verifier, old) == "unknown_key")
    assert verifier.verify(new).token_id == "id2"
    assert keyring.load_signing(keys).kid == new_kid


@pytest.mark.parametrize("damage", ["", "{", '{"keys": []}', '{"keys": [{"kid": "x"}]}'])
def test_a_broken_key_ring_leaves_the_last_good_one_in_force(
    verifier: TokenVerifier, key: SigningKey, keys: Path, damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    good = (keys / "jwks.json").read_bytes()
    (keys / "jwks.json").write_text(damage)

    def noticed() -> bool:
        assert verifier.verify(sign(key, claims(jti="fresh"))).name == "me"
        return any("the keys in force stay" in m for m in caplog.messages)

    assert _soon(noticed)
    (keys / "jwks.json").write_bytes(good)
    assert verifier.verify(sign(key, claims(jti="later"))).name == "me"


def test_verifying_needs_public_keys_only(
    key: SigningKey, keys: Path, revocations: FileRevocations, clock: Clock
) -> None:
    keyring.private_path(keys, key.kid).unlink()
    assert TokenVerifier(keys, revocations, clock).verify(sign(key, claims())).name == "me"


def test_a_verifier_without_keys_does_not_start(
    tmp_path: Path, revocations: FileRevocations
) -> None:
    with pytest.raises(KeyRingError, match="keys generate"):
        TokenVerifier(tmp_path / "none", revocations)


def test_verified_tokens_are_remembered_up_to_a_bound(
    verifier: TokenVerifier, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcpcp.tokens.CACHED", 3)
    tokens = [sign(key, claims(jti=f"id{n}")) for n in range(5)]
    assert [verifier.verify(t).token_id for t in tokens] == [f"id{n}" for n in range(5)]
    assert len(verifier._verified) == 3
    assert verifier.verify(tokens[0]).token_id == "id0"


def test_an_allowlist_that_fits_no_token_is_an_error(key: SigningKey) -> None:
    with pytest.raises(ConfigError, match="use patterns"):
        issue(key, "me", Allowlist.of({"a": [f"tool_{n}" for n in range(900)]}), ttl=9)


@pytest.mark.parametrize(("agent", "ttl"), [("a b", 9), ("", 9), ("me", 0), ("me", 1e9)])
def test_tokens_that_can_not_be_issued(key: SigningKey, agent: str, ttl: float) -> None:
    with pytest.raises(ConfigError):
        issue(key, agent, ALLOW, ttl=ttl)


def test_a_token_source_renews_in_time(
    keys: Path, tmp_path: Path, verifier: TokenVerifier, clock: Clock
) -> None:
    text = json.dumps({"mcpServers": {}, "agents": {"me": {"allow": {"mcp1": ["echo"]}}}})
    config = loads(text, tmp_path / "mcpcp.json", {})
    source = TokenSource(config, "me", ttl=90, clock=clock)
    first = source.token()
    clock.now += 59
    assert source.token() == first
    clock.now += 1
    second = source.token()
    assert second != first
    assert verifier.verify(second).identity == verifier.verify(first).identity
    assert verifier.verify(second).allow == Allowlist.of({"mcp1": ["echo"]})


def test_a_token_source_holds_the_agent_to_the_configs_limits(
    keys: Path, tmp_path: Path, verifier: TokenVerifier, clock: Clock
) -> None:
    me = {"allow": {"a": ["*"]}, "limits": {"in_flight": 3, "arguments": {"a:b": {}}}}
    text = json.dumps({"mcpServers": {"a": {"url": "http://x"}}, "agents": {"me": me}})
    config = loads(text, tmp_path / "mcpcp.json", {})
    agent = verifier.verify(TokenSource(config, "me", clock=clock).token())
    assert agent.limits == limits.parse(me["limits"])


def test_a_token_source_without_agent_or_key_says_so(keys: Path, tmp_path: Path) -> None:
    text = json.dumps({"mcpServers": {}, "agents": {"me": {"allow": {}}}})
    config = loads(text, tmp_path / "mcpcp.json", {})
    with pytest.raises(ConfigError, match=r"no agent 'you'; it has: me"):
        TokenSource(config, "you")
    for path in keys.glob("*.pem"):
        path.unlink()
    with pytest.raises(KeyRingError, match="no private key"):
        TokenSource(config, "me").token()


def _reason(verifier: TokenVerifier, token: str) -> str | None:
    try:
        verifier.verify(token)
    except TokenError as e:
        return e.reason
    return None


def _soon(condition: Callable[[], bool], deadline: float = 90.0) -> bool:
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        if condition():
            return True
    return False
