"""A store that was lost: replicas run on, and what bears the daemon's seal serves again."""

from __future__ import annotations

import asyncio
import json
import shutil

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from poold.agent.messages import GenerationFact
from poold.checkpoints.seal import Sealer
from poold.errors import Temporary
from poold.reconcile.sealing import Sealing


async def lose(fleet):
    """End the daemon's life, delete its store, begin the next one."""
    await fleet.end()
    shutil.rmtree(fleet.state_dir)
    fleet.begin()


def seal_of(host, digest):
    return host.blobs.get(f"generations/{digest[7:]}/seal.json")


def forge(host, digest, **fields):
    path = f"generations/{digest[7:]}/seal.json"
    host.blobs[path] = json.dumps({**json.loads(host.blobs[path]), **fields}).encode()


async def served(make_fleet, replicas=2, checkpoints=1):
    fleet = make_fleet(replicas=replicas)
    for _ in range(checkpoints - 1):
        fleet.now += 1.0
        fleet.control.checkpoint("hello", actor="t")
        await fleet.settle()
    await fleet.settle()
    await fleet.step()
    return fleet


def builds(fleet):
    return len(fleet.did("build"))


async def test_every_host_has_the_seal_of_what_it_holds(make_fleet):
    """The builder too, after the next listing; written once."""
    fleet = await served(make_fleet)
    (generation,) = fleet.store.generations("hello")
    seals = {seal_of(host, generation.digest) for host in fleet.hosts.values()}
    assert len(seals) == 1
    assert None not in seals
    assert json.loads(seals.pop())["number"] == 1


async def test_a_lost_store_gets_its_generations_back_and_keeps_the_replicas(make_fleet):
    """Nothing is built, nothing is started; numbers and the time of the proof are the same."""
    fleet = await served(make_fleet, checkpoints=3)
    before, there, done = fleet.store.generations("hello"), fleet.where(), builds(fleet)
    assert [g.number for g in before] == [2, 1]
    sources = [r.generation for r in fleet.world.replicas()]
    assert None not in sources
    await lose(fleet)
    await fleet.settle()
    assert fleet.where() == there
    assert fleet.store.generations("hello") == before
    assert builds(fleet) == done
    assert [r.generation for r in fleet.world.replicas()] == sources
    assert fleet.did("discard") == []
    kinds = [e.kind for e in fleet.store.events.newest(limit=100)]
    assert kinds.count("generation.adopted") == 2
    fleet.now += 1.0
    fleet.control.checkpoint("hello", actor="t")
    await fleet.settle()
    assert fleet.store.generations("hello")[0].number == 3, "numbers go on"


async def test_a_host_that_is_away_at_first_is_waited_for(make_fleet):
    """The builder lost its disk: no build before the other host was looked at."""
    fleet = await served(make_fleet)
    (generation,) = fleet.store.generations("hello")
    fleet["a"].blobs.clear()
    fleet["a"].staged.clear()
    fleet["b"].reached.clear()
    await lose(fleet)
    for _ in range(5):
        await fleet.step()
    assert builds(fleet) == 1
    fleet["b"].reached.set()
    await fleet.settle()
    assert builds(fleet) == 1
    assert fleet.store.generations("hello") == (generation,)
    await fleet.until(lambda: generation.digest in fleet["a"].staged)


async def test_what_bears_no_true_seal_is_never_restored(make_fleet):
    """Forged, of another key, missing: built anew; then those are removed, and an event says so."""
    for forged in ({"number": 9}, {"signature": "00" * 64}, None, "key"):
        fleet = await served(make_fleet)
        (old,) = fleet.store.generations("hello")
        for host in fleet.hosts.values():
            if forged is None:
                del host.blobs[f"generations/{old.digest[7:]}/seal.json"]
            elif forged == "key":
                stranger = Sealer(Ed25519PrivateKey.generate()).seal(old)
                forge(host, old.digest, signature=stranger.signature)
            else:
                forge(host, old.digest, **forged)
        for host in fleet.hosts.values():
            host.containers.clear()
            host.did.clear()
            host.images["hello:1"] = "sha256:newer"
        await lose(fleet)
        await fleet.settle()
        (new,) = fleet.store.generations("hello")
        assert new.digest != old.digest, forged
        await fleet.until(lambda fleet=fleet: len(fleet.did("discard")) == 2)
        assert set(fleet.did("discard")) == {old.digest}
        kinds = [e.kind for e in fleet.store.events.newest(limit=100)]
        assert kinds.count("generation.disowned") == 2
        assert "generation.adopted" not in kinds


async def test_what_does_not_fit_its_digest_is_not_taken_back(make_fleet):
    """A true seal beside another manifest vouches for nothing."""
    fleet = await served(make_fleet, replicas=0, checkpoints=2)
    (generation,) = fleet.store.generations("hello")
    for host in fleet.hosts.values():
        path = f"generations/{generation.digest[7:]}/manifest.json"
        host.blobs[path] = host.blobs[path].replace(b"hello:1", b"hello:2")
    await lose(fleet)
    await fleet.settle()
    assert fleet.store.generations("hello") == ()


async def test_a_retired_generation_does_not_come_back(make_fleet):
    """The store knows it: its seal, still true, changes nothing."""
    fleet = await served(make_fleet, replicas=0, checkpoints=2)
    (old,) = fleet.store.generations("hello")
    kept = {path: data for path, data in fleet["b"].blobs.items() if old.digest[7:] in path}
    fleet.change_pool(keep_generations=1)
    fleet.now += 1.0
    fleet.control.checkpoint("hello", actor="t")
    await fleet.settle()
    await fleet.until(lambda: fleet.store.garbage("hello") == ())
    fleet["b"].blobs.update(kept)  # a disk that was restored from a backup
    await fleet.step()
    await fleet.until(lambda: old.digest not in fleet["b"]._held())
    assert [g.number for g in fleet.store.generations("hello")] == [2]


async def test_a_host_that_cannot_be_written_is_sealed_later(make_fleet):
    """A failure to write a seal keeps nothing else from going on."""
    fleet = await served(make_fleet, replicas=0)
    fleet.control.checkpoint("hello", actor="t")
    await fleet.settle()
    (generation,) = fleet.store.generations("hello")
    for host in fleet.hosts.values():
        host.blobs.pop(f"generations/{generation.digest[7:]}/seal.json", None)
    fleet["a"].fail["write-blob"] = [Temporary("host.disk-full", "cannot write: disk full")]
    await fleet.step()
    await fleet.step()
    assert all(seal_of(host, generation.digest) for host in fleet.hosts.values())


async def test_two_hosts_that_are_listed_at_the_same_time_give_it_back_once(make_fleet):
    """Both have it and are looked at together: it is written down once, and nothing fails."""
    fleet = await served(make_fleet)
    before = fleet.store.generations("hello")
    await lose(fleet)
    heard = await asyncio.gather(*(fleet.loop.observe(name) for name in fleet.hosts))
    assert heard == [True, True]
    assert fleet.store.generations("hello") == before


class Retiring:
    """A host to which a seal is under way while its generation is retired and removed."""

    def __init__(self, fleet, host):
        self.fleet, self.host = fleet, host

    async def write_blob(self, path, **how):
        (generation,) = self.fleet.store.generations("hello")
        self.fleet.store.retire_generation("hello", 1, generation.digest, [self.host.name])
        self.fleet.store.drop_garbage(generation.digest, self.host.name)
        await self.host.write_blob(path, **how)


async def test_a_seal_that_comes_too_late_is_removed(make_fleet):
    """It would be a folder that no listing shows."""
    fleet = await served(make_fleet, replicas=0, checkpoints=2)
    (generation,) = fleet.store.generations("hello")
    sealing = Sealing(
        store=fleet.store, sealer=Sealer(Ed25519PrivateKey.generate()),
        link=lambda name: Retiring(fleet, fleet[name]), config=lambda: fleet.config,
        news=fleet.loop._news,
    )  # fmt: skip
    await sealing.put_on("b", [GenerationFact(generation.digest, "hello", staged=True, bytes=1)])
    (entry,) = fleet.store.garbage("hello")
    assert (entry.host, entry.digest) == ("b", generation.digest)
