"""Signed tokens <-> Agent: issuing, verifying on the hot path, renewing for local clients.

Below: `keyring` has the keys, `state` the revocations. Above: the frontends verify every message's
token, the CLI issues and revokes, the stdio relay and client.py hold a `TokenSource`.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcpcp import keyring, limits
from mcpcp.errors import ConfigError, KeyRingError, TokenError
from mcpcp.keyring import SigningKey
from mcpcp.policy import NONE, Agent, Allowlist, Limits
from mcpcp.state import CHECK_EVERY, Revocations

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    from mcpcp.config import Config

logger = logging.getLogger(__name__)

LONGEST_LIFE = 366 * 86400.0
"""Seconds that a token may be issued for."""

LEEWAY = 30.0
"""Seconds by which clocks may differ."""

LONGEST = 8192
"""Bytes of a token at most; proxies in front of us allow no longer headers either."""

CACHED = 4096
"""Verified tokens that are remembered; only tokens with a good signature get there."""

SHORT_LIFE = 900.0
"""Seconds that the tokens of a TokenSource live."""

_SEGMENT = re.compile(r"[A-Za-z0-9_-]+")
_SUBJECT = re.compile(r"[A-Za-z0-9_.@:+/-]{1,128}")
_LATEST_TIME = 2**53


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who may sign tokens for us, how, and which claims name the agent, its grants and limits."""

    name: str
    audience: str
    algorithms: tuple[str, ...]
    subject_claim: str = "sub"
    allow_claim: str = "allow"
    limits_claim: str = "limits"


OURS = Issuer(name="https://mcpcp", audience="mcpcp-server", algorithms=("RS256",))


def issue(
    key: SigningKey,
    agent: str,
    allow: Allowlist,
    *,
    ttl: float,
    now: float | None = None,
    held_to: Limits = NONE,
) -> str:
    """A token with which `agent` may use what `allow` grants, for `ttl` seconds, `held_to` limits.

    Raises ConfigError for what no token can say.
    """
    start = int(time.time() if now is None else now)
    claims = {
        "iss": OURS.name,
        "aud": OURS.audience,
        "sub": agent,
        "iat": start,
        "nbf": start,
        "exp": start + int(ttl),
        "jti": uuid.uuid4().hex,
        OURS.allow_claim: allow.to_claim(),
    }
    if held_to != NONE:
        claims[OURS.limits_claim] = limits.to_claim(held_to)
    if not _SUBJECT.fullmatch(agent):
        raise ConfigError(f"{agent!r} can't be an agent's name")
    if not 1 <= ttl <= LONGEST_LIFE:
        raise ConfigError("a token lives for a second at least and 366 days at most")
    token = _signed({"alg": "RS256", "kid": key.kid, "typ": "JWT"}, claims, key)
    if len(token) > LONGEST:
        raise ConfigError(
            f"the grants of {agent} make a token of {len(token)} bytes, {LONGEST} are allowed:"
            " use patterns instead of single tools, and shorter schemas"
        )
    return token


def _signed(header: Mapping[str, str], claims: Mapping[str, Any], key: SigningKey) -> str:
    """The compact form. PyJWT would do it too, but the relay can't wait for its import."""
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    signed = f"{_encode_object(header)}.{_encode_object(claims)}"
    return f"{signed}.{_encode(key.key.sign(signed.encode(), PKCS1v15(), SHA256()))}"


def _encode_object(value: Mapping[str, Any]) -> str:
    return _encode(json.dumps(value, separators=(",", ":")).encode())


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class TokenVerifier:
    """Turns a token into its Agent, or raises TokenError; follows changes of keys and revocations.

    It needs `jwks.json` alone. A token that was verified once costs a lookup, its end and its
    revocation are looked at every time; a changed key ring is read within half a second, and a
    broken one leaves the last good one in force.
    """

    def __init__(
        self,
        keys_dir: Path,
        revocations: Revocations,
        clock: Callable[[], float] = time.time,
        issuers: tuple[Issuer, ...] = (OURS,),
    ) -> None:
        self._keys_dir = keys_dir
        self._revocations = revocations
        self._clock = clock
        self._issuers = {issuer.name: issuer for issuer in issuers}
        self._verified: dict[str, Agent] = {}
        self._stamp = self._ring_stamp()
        self._keys: Mapping[str, RSAPublicKey] = keyring.load_public(keys_dir)
        self._next_check = time.monotonic() + CHECK_EVERY

    def verify(self, token: str) -> Agent:
        """Who presents this token; raises TokenError, whose `reason` is for the audit record."""
        if time.monotonic() >= self._next_check:
            self._refresh_keys()
        agent = self._verified.get(token)
        if agent is None:
            agent = self._verify_anew(token)
        if self._clock() >= agent.expires_at + LEEWAY:
            self._verified.pop(token, None)
            raise TokenError("expired", "the token has expired")
        if self._revocations.is_revoked(agent.token_id):
            raise TokenError("revoked", "the token has been revoked")
        return agent

    def _verify_anew(self, token: str) -> Agent:
        header, claims = _parse(token)
        issuer = self._issuers.get(_text(claims.get("iss")))
        if issuer is None:
            raise TokenError("issuer")
        if header.get("alg") not in issuer.algorithms:
            raise TokenError("algorithm")
        key = self._keys.get(_text(header.get("kid")))
        if key is None:
            raise TokenError("unknown_key")
        _check_signature(token, key, issuer)
        agent = _to_agent(claims, issuer, self._clock())
        if len(self._verified) >= CACHED:
            self._verified.pop(next(iter(self._verified)))
        self._verified[token] = agent
        return agent

    def _refresh_keys(self) -> None:
        self._next_check = time.monotonic() + CHECK_EVERY
        stamp = self._ring_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp  # a broken file is reported once, not twice a second
        try:
            self._keys = keyring.load_public(self._keys_dir)
        except KeyRingError as e:
            logger.error("%s; the keys in force stay", e)  # noqa: TRY400 - the message says it all
            return
        self._verified.clear()
        logger.info("key ring read: %s", ", ".join(self._keys))

    def _ring_stamp(self) -> tuple[int, int, int] | None:
        try:
            stat = (self._keys_dir / keyring.JWKS).stat()
        except OSError:
            return None
        return (stat.st_mtime_ns, stat.st_size, stat.st_ino)


class TokenSource:
    """Short-lived tokens for an agent of the config, made where the key can be read."""

    def __init__(
        self,
        config: Config,
        agent: str,
        *,
        ttl: float = SHORT_LIFE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if agent not in config.agents:
            known = ", ".join(config.agents) or "none"
            raise ConfigError(f"{config.path} has no agent {agent!r}; it has: {known}")
        self._keys_dir = config.keys_dir
        self._agent = agent
        self._allow = config.agents[agent]
        self._limits = config.agent_limits.get(agent, NONE)
        self._ttl = ttl
        self._clock = clock
        self._token = ""
        self._renew_at = float("-inf")

    def token(self) -> str:
        """A token that lives for at least a third of `ttl`; raises KeyRingError without a key."""
        now = self._clock()
        if now >= self._renew_at:
            key = keyring.load_signing(self._keys_dir)
            self._token = issue(
                key, self._agent, self._allow, ttl=self._ttl, now=now, held_to=self._limits
            )
            self._renew_at = now + self._ttl * 2 / 3
        return self._token


def read_claims(token: str) -> dict[str, Any]:
    """What a well-formed token says, with nothing proved about who signed it."""
    return _parse(token)[1]


def _parse(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a token, refusing every form in which two readers could differ."""
    if len(token) > LONGEST:
        raise TokenError("too_long")
    segments = token.split(".", 3)
    if len(segments) != 3:
        raise TokenError("malformed")
    header, claims, _ = (_decode_segment(s) for s in segments)
    parsed = _parse_object(header)
    if not (parsed.keys() <= {"alg", "kid", "typ"} and parsed.get("typ", "JWT") == "JWT"):
        raise TokenError("header")
    return parsed, _parse_object(claims)


def _decode_segment(segment: str) -> bytes:
    if not _SEGMENT.fullmatch(segment) or len(segment) % 4 == 1:
        raise TokenError("malformed")
    data = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    if _encode(data) != segment:
        raise TokenError("malformed")  # unused bits set: a second spelling of the same token
    return data


def _parse_object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(
            data.decode("utf-8", "strict"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
        )
    except (ValueError, RecursionError) as e:
        raise TokenError("malformed") from e
    if not isinstance(value, dict):
        raise TokenError("malformed")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise TokenError("duplicate_keys")
    return values


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _check_signature(token: str, key: RSAPublicKey, issuer: Issuer) -> None:
    import jwt

    try:
        jwt.decode(
            token,
            key,
            algorithms=list(issuer.algorithms),
            audience=issuer.audience,
            issuer=issuer.name,
            options={
                "strict_aud": True,
                # Checked by `_to_agent`, times against the clock given.
                "verify_sub": False,
                "verify_jti": False,
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
            },
        )
    except jwt.InvalidSignatureError as e:
        raise TokenError("signature") from e
    except (jwt.InvalidAudienceError, jwt.MissingRequiredClaimError) as e:
        raise TokenError("audience") from e
    except jwt.PyJWTError as e:
        raise TokenError("malformed") from e


def _to_agent(claims: Mapping[str, Any], issuer: Issuer, now: float) -> Agent:
    issued, begins, ends = (_time(claims.get(name)) for name in ("iat", "nbf", "exp"))
    if now >= ends + LEEWAY:
        raise TokenError("expired", "the token has expired")
    if max(issued, begins) > now + LEEWAY:
        raise TokenError("not_yet_valid", "the token is not valid yet")
    name, token_id = _text(claims.get(issuer.subject_claim)), _text(claims.get("jti"))
    if not (_SUBJECT.fullmatch(name) and 0 < len(token_id) <= 128):
        raise TokenError("claims")
    return Agent(
        name=name,
        allow=_allowlist(claims.get(issuer.allow_claim)),
        issuer=issuer.name,
        token_id=token_id,
        expires_at=float(ends),
        limits=_limits(claims, issuer),
    )


def _allowlist(claim: object) -> Allowlist:
    if not isinstance(claim, dict):
        raise TokenError("claims")
    for patterns in claim.values():
        if not (isinstance(patterns, list) and all(isinstance(p, str) for p in patterns)):
            raise TokenError("claims")
    return Allowlist.of(claim)


def _limits(claims: Mapping[str, Any], issuer: Issuer) -> Limits:
    """The claim's limits; a claim that can't be enforced, `null` too, is no good token."""
    if issuer.limits_claim not in claims:
        return NONE
    try:
        return limits.parse(claims[issuer.limits_claim])
    except ValueError as e:
        raise TokenError("claims") from e


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _time(value: object) -> int:
    if type(value) is not int or not 0 <= value < _LATEST_TIME:  # bool is an int, and no time
        raise TokenError("claims")
    return value
