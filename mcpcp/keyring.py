"""The key ring on disk: `KID.key.pem` signs, `jwks.json` holds what tokens are checked against.

The first key of `jwks.json` whose private half is here is the active one. Every change writes the
private key first, then replaces `jwks.json` whole, then removes what is no longer needed: a crash
between two steps leaves a ring that works.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcpcp.errors import KeyRingError
from mcpcp.files import locked, write_atomically

if TYPE_CHECKING:  # cryptography is slow to import, and paths and names are often all one needs
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

logger = logging.getLogger(__name__)

JWKS = "jwks.json"
BITS = 3072
WEAKEST = 2048


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The active private key."""

    kid: str
    key: RSAPrivateKey


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What may be shown of one key of the ring."""

    kid: str
    bits: int
    active: bool
    signs: bool


def private_path(keys_dir: Path, kid: str) -> Path:
    """Where the private half of `kid` lies."""
    return keys_dir / f"{kid}.key.pem"


def load_public(keys_dir: Path) -> Mapping[str, RSAPublicKey]:
    """The keys that tokens are checked against, by kid, the newest first; raises KeyRingError."""
    return {entry["kid"]: _public_key(entry) for entry in _read_entries(keys_dir)}


def load_signing(keys_dir: Path) -> SigningKey:
    """The active private key; raises KeyRingError where this user has none or may not read it."""
    entries = _read_entries(keys_dir)
    kid = _active(keys_dir, entries)
    if kid is None:
        raise KeyRingError(
            f"{keys_dir} has no private key: run `python -m mcpcp keys generate`, or use a token"
        )
    path = private_path(keys_dir, kid)
    key = _read_private(path)
    public = next(_public_key(e) for e in entries if e["kid"] == kid)
    if key.public_key() != public:
        raise KeyRingError(f"{path} is not the private half of {kid} in {keys_dir / JWKS}")
    return SigningKey(kid, key)


def can_sign(keys_dir: Path) -> bool:
    """Whether this user can read an active private key (its content is not looked at)."""
    try:
        kid = _active(keys_dir, _read_entries(keys_dir))
    except KeyRingError:
        return False
    return kid is not None and os.access(private_path(keys_dir, kid), os.R_OK)


def list_keys(keys_dir: Path) -> list[KeyInfo]:
    """Every key of the ring, the newest first."""
    entries = _read_entries(keys_dir)
    active = _active(keys_dir, entries)
    return [
        KeyInfo(
            kid=e["kid"],
            bits=_public_key(e).key_size,
            active=e["kid"] == active,
            signs=private_path(keys_dir, e["kid"]).exists(),
        )
        for e in entries
    ]


def ensure(keys_dir: Path, bits: int = BITS) -> str | None:
    """Make the first key where there is no ring yet; returns its kid, None where one was there."""
    if (keys_dir / JWKS).exists():
        return None
    with _changing(keys_dir):
        if (keys_dir / JWKS).exists():
            return None  # another process was faster
        return _add(keys_dir, [], bits)


def rotate(keys_dir: Path, *, retire: bool = False, bits: int = BITS) -> str:
    """Make a new active key and return its kid.

    Tokens of the earlier keys stay good until those are retired, at once with `retire`; their
    private halves are deleted either way, since nothing is signed with them any more.
    """
    with _changing(keys_dir):
        old = _read_entries(keys_dir) if (keys_dir / JWKS).exists() else []
        kid = _add(keys_dir, [] if retire else old, bits)
        for entry in old:
            private_path(keys_dir, entry["kid"]).unlink(missing_ok=True)
    return kid


def retire(keys_dir: Path, kid: str) -> None:
    """Take `kid` out of the ring: every token that it signed is refused from now on."""
    with _changing(keys_dir):
        entries = _read_entries(keys_dir)
        if kid not in {e["kid"] for e in entries}:
            known = ", ".join(e["kid"] for e in entries)
            raise KeyRingError(f"{keys_dir / JWKS} has no key {kid!r}; it has {known}")
        if kid == _active(keys_dir, entries):
            raise KeyRingError(f"{kid} is the active key: `keys rotate` makes another one first")
        _write_entries(keys_dir, [e for e in entries if e["kid"] != kid])
        private_path(keys_dir, kid).unlink(missing_ok=True)


def _changing(keys_dir: Path) -> Any:
    try:
        keys_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        return locked(keys_dir / ".lock")
    except OSError as e:
        raise KeyRingError(f"{keys_dir} can't be written: {e.strerror}") from e


def _add(keys_dir: Path, old: list[dict[str, str]], bits: int) -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    entry = _entry(key.public_key())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        write_atomically(private_path(keys_dir, entry["kid"]), pem, 0o600)
        _write_entries(keys_dir, [entry, *old])
    except OSError as e:
        raise KeyRingError(f"{keys_dir} can't be written: {e.strerror}") from e
    return entry["kid"]


def _entry(key: RSAPublicKey) -> dict[str, str]:
    numbers = key.public_numbers()
    core = {"e": _encode(numbers.e), "kty": "RSA", "n": _encode(numbers.n)}
    # RFC 7638's thumbprint, in hex and shortened: it names files on systems that ignore case.
    thumbprint = hashlib.sha256(json.dumps(core, separators=(",", ":")).encode()).hexdigest()
    return {"kid": thumbprint[:16], "alg": "RS256", "use": "sig", **core}


def _encode(number: int) -> str:
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> int:
    padded = text + "=" * (-len(text) % 4)
    return int.from_bytes(base64.b64decode(padded, altchars=b"-_", validate=True), "big")


def _write_entries(keys_dir: Path, entries: list[dict[str, str]]) -> None:
    text = json.dumps({"keys": entries}, indent=2) + "\n"
    write_atomically(keys_dir / JWKS, text.encode(), 0o644)


def _read_entries(keys_dir: Path) -> list[dict[str, str]]:
    path = keys_dir / JWKS
    try:
        entries = json.loads(path.read_bytes())["keys"]
    except FileNotFoundError as e:
        raise KeyRingError(
            f"{path} does not exist: `python -m mcpcp keys generate` makes the keys"
        ) from e
    except OSError as e:
        raise KeyRingError(f"{path} can't be read: {e.strerror}") from e
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise KeyRingError(f'{path} is not a JWKS: it needs {{"keys": [...]}}') from e
    if not (isinstance(entries, list) and all(_is_entry(e) for e in entries) and entries):
        raise KeyRingError(f"{path} must hold RSA keys with kid, n and e, at least one")
    if len({e["kid"] for e in entries}) != len(entries):
        raise KeyRingError(f"{path} holds two keys of one kid")
    return entries


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and all(isinstance(entry.get(key), str) for key in ("kid", "n", "e"))
        and entry.get("kty") == "RSA"
        and entry.get("alg", "RS256") == "RS256"
        and "d" not in entry  # a private key has no business here
        and entry["kid"].replace("-", "").replace("_", "").isalnum()
    )


def _public_key(entry: Mapping[str, Any]) -> RSAPublicKey:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

    try:
        key = RSAPublicNumbers(_decode(entry["e"]), _decode(entry["n"])).public_key()
    except ValueError as e:
        raise KeyRingError(f"key {entry['kid']} is not a usable RSA public key") from e
    if key.key_size < WEAKEST:
        raise KeyRingError(
            f"key {entry['kid']} is too weak: RSA of {WEAKEST} bits or more is needed"
        )
    return key


def _active(keys_dir: Path, entries: list[dict[str, str]]) -> str | None:
    return next((e["kid"] for e in entries if private_path(keys_dir, e["kid"]).exists()), None)


def _read_private(path: Path) -> RSAPrivateKey:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        # Proving the primes again takes 80 ms, and the file is as good as who may write it.
        key = load_pem_private_key(
            path.read_bytes(), password=None, unsafe_skip_rsa_key_validation=True
        )
        exposed = sys.platform != "win32" and path.stat().st_mode & 0o077
    except OSError as e:
        raise KeyRingError(f"{path} can't be read: {e.strerror}") from e
    except (ValueError, TypeError) as e:
        raise KeyRingError(f"{path} is not an unencrypted PEM private key") from e
    if not isinstance(key, RSAPrivateKey) or key.key_size < WEAKEST:
        raise KeyRingError(f"{path} is too weak: RSA of {WEAKEST} bits or more is needed")
    if exposed:
        logger.warning("%s can be read by others: chmod 600 it", path)
    return key
