"""Checkpoints: how many records there are and the chain's head, signed, beside the log."""

from __future__ import annotations

import base64
import hmac
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from mcpcp import keyring
from mcpcp.errors import KeyRingError
from mcpcp.files import write_atomically

HMAC_KEY = "audit.hmac.key"
HMAC = "HS256"
RSA = "RS256"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The chain had `count` records and this head at `ts`; `kid` is empty for an HMAC."""

    count: int
    head: str
    ts: float
    alg: str = ""
    kid: str = ""
    signature: str = ""

    def message(self, name: str) -> bytes:
        """What is signed; it can't be taken for a token's signing input."""
        return f"mcpcp audit checkpoint\n{name}\n{self.count}\n{self.head}\n{self.ts!r}".encode()


def checkpoint_path(log: Path) -> Path:
    """Where the checkpoint of a log lies."""
    return log.with_suffix(".checkpoint.json")


def write_checkpoint(log: Path, keys_dir: Path, count: int, head: str) -> None:
    """Sign and store: with the active private key where this user can read it, else by HMAC."""
    plain = Checkpoint(count, head, time.time())
    message = plain.message(log.name)
    try:
        key = keyring.load_signing(keys_dir)
    except KeyRingError:
        digest = hmac.digest(_make_hmac_key(log, keys_dir), message, "sha256")
        signed = Checkpoint(count, head, plain.ts, HMAC, "", _text(digest))
    else:
        signed = Checkpoint(count, head, plain.ts, RSA, key.kid, _text(_sign(key, message)))
    write_atomically(checkpoint_path(log), json.dumps(asdict(signed)).encode())


def read_checkpoint(log: Path) -> Checkpoint | None:
    """The stored checkpoint, unchecked; None where there is none that can be read."""
    try:
        values = json.loads(checkpoint_path(log).read_bytes())
        found = Checkpoint(**values)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    types_hold = type(found.count) is int and type(found.ts) is float
    texts = (found.head, found.alg, found.kid, found.signature)
    return found if types_hold and all(isinstance(t, str) for t in texts) else None


def why_not_signed(checkpoint: Checkpoint, log: Path, keys_dir: Path) -> str | None:
    """What is wrong with the signature, None where it holds."""
    checks: dict[str, Callable[[], str | None]] = {
        RSA: lambda: _check_rsa(checkpoint, log, keys_dir),
        HMAC: lambda: _check_hmac(checkpoint, log, keys_dir),
    }
    check = checks.get(checkpoint.alg)
    return check() if check else f"is signed by an unknown method {checkpoint.alg!r}"


def _check_rsa(checkpoint: Checkpoint, log: Path, keys_dir: Path) -> str | None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    key = keyring.load_public(keys_dir).get(checkpoint.kid)
    if key is None:
        return f"was signed by key {checkpoint.kid}, which is not in the key ring"
    try:
        signature = base64.b64decode(checkpoint.signature, validate=True)
        key.verify(signature, checkpoint.message(log.name), PKCS1v15(), SHA256())
    except (InvalidSignature, ValueError):
        return "does not have a good signature"
    return None


def _check_hmac(checkpoint: Checkpoint, log: Path, keys_dir: Path) -> str | None:
    path = _find_hmac_key(log, keys_dir)
    try:
        key = bytes.fromhex(path.read_text()) if path else b""
    except (OSError, ValueError):
        key = b""
    if not key:
        return f"can't be checked: {keys_dir / HMAC_KEY} can't be read"
    digest = hmac.digest(key, checkpoint.message(log.name), "sha256")
    good = hmac.compare_digest(_text(digest).encode(), checkpoint.signature.encode())
    return None if good else "does not have a good signature"


def _sign(key: keyring.SigningKey, message: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    return key.key.sign(message, PKCS1v15(), SHA256())


def hmac_key_paths(log: Path, keys_dir: Path) -> tuple[Path, Path]:
    """Where the HMAC key may lie: the second is for a read-only key folder, and proves less."""
    return (keys_dir / HMAC_KEY, log.parent / HMAC_KEY)


def _find_hmac_key(log: Path, keys_dir: Path) -> Path | None:
    return next((p for p in hmac_key_paths(log, keys_dir) if p.exists()), None)


def _make_hmac_key(log: Path, keys_dir: Path) -> bytes:
    path = _find_hmac_key(log, keys_dir)
    if path is not None:
        return bytes.fromhex(path.read_text())
    key = secrets.token_bytes(32)
    first, second = hmac_key_paths(log, keys_dir)
    try:
        write_atomically(first, key.hex().encode())
    except OSError:
        write_atomically(second, key.hex().encode())
    return key


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
