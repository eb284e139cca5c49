"""The daemon's seal on generations: true, false, and the key it is made with."""

from __future__ import annotations

import stat
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from poold.checkpoints.seal import Sealer, load_sealer
from poold.errors import Permanent, Refused
from poold.model.fleet import Generation, Manifest

MANIFEST = Manifest(
    pool="hello", build="b", fingerprint="f", image="i", image_id="i", archive_sha256="",
    archive_bytes=1, packed_sha256="", packed_bytes=1, engine="", runtime="", criu="", kernel="",
    machine="", cpu_flags=(), created_at=0.0,
)  # fmt: skip
GENERATION = Generation("hello", 7, MANIFEST.digest(), MANIFEST, "a", 1763900000.125)


def test_a_seal_is_true_for_its_generation_only():
    """Another digest, number, pool, builder, time or signature makes it false."""
    sealer = Sealer(Ed25519PrivateKey.generate())
    seal = sealer.seal(GENERATION)
    assert seal == sealer.seal(GENERATION)
    assert sealer.is_own(GENERATION.digest, seal)
    assert not sealer.is_own("sha256:other", seal)
    for change in (
        {"number": 8}, {"pool": "other"}, {"builder": "b"}, {"proven_at": 2.0},
        {"signature": ""}, {"signature": "no hex"}, {"signature": "00" * 64},
    ):  # fmt: skip
        assert not sealer.is_own(GENERATION.digest, replace(seal, **change)), change
    assert not Sealer(Ed25519PrivateKey.generate()).is_own(GENERATION.digest, seal)


def test_the_key_is_made_once_and_only_for_the_daemon(tmp_path):
    """Mode 0600, and the same one at the next start; no part of it is left beside it."""
    path = tmp_path / "state" / "seal.key"
    seal = load_sealer(path).seal(GENERATION)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_sealer(path).is_own(GENERATION.digest, seal)
    assert [file.name for file in path.parent.iterdir()] == ["seal.key"]


def test_a_key_that_cannot_be_used_is_a_clear_problem(tmp_path):
    """Open to others, no key, another kind of key, a folder: each with its way out."""
    path = tmp_path / "seal.key"
    load_sealer(path)
    path.chmod(0o640)
    for content, code in (
        (None, "seal.open-key"),
        (b"nothing", "seal.bad-key"),
        (
            X25519PrivateKey.generate().private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            ),
            "seal.bad-key",
        ),
    ):
        if content is not None:
            path.chmod(0o600)
            path.write_bytes(content)
        with pytest.raises(Refused) as refused:
            load_sealer(path)
        assert refused.value.code == code
        assert refused.value.hint
    with pytest.raises(Permanent) as problem:
        load_sealer(tmp_path)
    assert problem.value.code == "seal.no-key"
