"""What the fleet in memory consists of: one pool, and replicas and generations as on hosts."""

from __future__ import annotations

import time

from poold.model.application import Application
from poold.model.fleet import (
    ActionId,
    Digest,
    Generation,
    HostName,
    Manifest,
    Memory,
    Pool,
    PoolName,
    Replica,
    ReplicaName,
)

HELLO = Pool(
    name=PoolName("hello"),
    application=Application(image="localhost/hello:1", port=8080),
    hosts=(HostName("a"), HostName("b")),
    builder=HostName("a"),
    replica_name="hello{n}",
    max=8,
)


def made_replica(pool: Pool, name: str, host: HostName) -> Replica:
    """Return a replica that is ready on a host."""
    return Replica(
        name=ReplicaName(name),
        pool=pool.name,
        state="ready",
        host=host,
        address=f"{host}:20000",
        container_id="c" * 64,
        method="restore",
        generation=1,
        started_at=time.time() - 90,
        seconds=0.34,
        phases={"restore": 0.3, "probe": 0.04},
        engine="oci",
        memory=Memory(100 << 20, 60 << 20, 20 << 20, 70 << 20),
    )


def made_generation(pool: Pool, number: int) -> Generation:
    """Return a generation that was proven a minute ago."""
    manifest = Manifest(
        pool=pool.name,
        build=ActionId(f"build-{number}"),
        fingerprint=pool.application.fingerprint(),
        image=pool.application.image,
        image_id="sha256:" + "1" * 64,
        archive_sha256="2" * 64,
        archive_bytes=296 << 20,
        packed_sha256="3" * 64,
        packed_bytes=72 << 20,
        engine="podman 5.8.6",
        runtime="runc 1.3.6",
        criu="4.2.1",
        kernel="6.18",
        machine="x86_64",
        cpu_flags=("sse2",),
        created_at=time.time() - 60,
        cold_seconds=6.2,
        phases={"cold": 6.2, "checkpoint": 1.4},
    )
    return Generation(
        pool=pool.name,
        number=number,
        digest=Digest(manifest.digest()),
        manifest=manifest,
        builder=pool.builder,
        proven_at=time.time() - 50,
    )
