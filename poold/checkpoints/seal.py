"""The daemon's word that it proved a generation: a signature that hosts keep beside it.

In: the key file. Out: seals, and whether one is this daemon's. A store that was lost takes with it
which generations were proven, of what pool, under which number; the hosts still have them and their
seals, and whatever bears a true one is in service again. Ed25519: equal words have equal seals.

A seal says nothing of the archive: the digest, which it covers, does. Who can write to the key or
to the daemon's memory can say anything; who can only write to a host cannot.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from poold.agent.messages import Seal
from poold.errors import Permanent, Refused
from poold.model.fleet import Digest, Generation, PoolName

_MEANING = b"poold: this generation was proven and numbered\n"


class Sealer:
    """Signs, and knows its own signatures."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._signed = lru_cache(maxsize=1024)(self._sign)

    def seal(self, generation: Generation) -> Seal:
        """Return the seal of a generation that the store has as proven."""
        said = {
            "pool": generation.pool,
            "number": generation.number,
            "builder": generation.builder,
            "proven_at": generation.proven_at,
        }
        return Seal(**said, signature=self._signed(_words(generation.digest, said)))  # type: ignore[arg-type]

    def is_own(self, digest: Digest, seal: Seal) -> bool:
        """Whether this daemon, in whatever life, sealed that very generation."""
        said = {
            "pool": PoolName(seal.pool),
            "number": seal.number,
            "builder": seal.builder,
            "proven_at": seal.proven_at,
        }
        with suppress(InvalidSignature, ValueError):
            signature = bytes.fromhex(seal.signature)
            self._key.public_key().verify(signature, _words(digest, said))
            return True
        return False

    def _sign(self, words: bytes) -> str:
        return self._key.sign(words).hex()


def _words(digest: Digest, said: Mapping[str, object]) -> bytes:
    text = json.dumps({**said, "digest": digest}, sort_keys=True, separators=(",", ":"))
    return _MEANING + text.encode()


def load_sealer(path: Path) -> Sealer:
    """Read the key, made at the first start; raises Refused when it is none or others can read it.

    A key that is gone is made anew: what hosts have is then nobody's, and is built again.
    """
    try:
        try:
            pem = _read(path)
        except FileNotFoundError:
            pem = _make(path)
    except OSError as error:
        raise Permanent(
            "seal.no-key",
            f"cannot use the seal key {path}: {error.strerror}",
            hint="let the daemon read it and write to its folder, or change daemon.seal_key_file",
        ) from error
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise _no_key(path) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path)
    return Sealer(key)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            raise Refused(
                "seal.open-key",
                f"cannot use the seal key {path}: others may read it",
                hint=f"chmod 600 {path}; if somebody else had it, remove it: a new one is made and"
                " checkpoints are built again",
            )
        return file.read()


def _make(path: Path) -> bytes:
    """Write a new key, whole or not at all; the one that a twin wrote first counts."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    with suppress(FileExistsError):
        os.link(part, path)
    part.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return _read(path)


def _no_key(path: Path) -> Refused:
    return Refused(
        "seal.bad-key",
        f"cannot use the seal key {path}: it is no Ed25519 private key in PEM",
        hint="put the daemon's key back; without it, remove the file: checkpoints are built again",
    )
