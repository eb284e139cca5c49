"""The name of a pool's image comes to mean another image, on one host and on the other."""

from __future__ import annotations

import signal

import pytest

pytestmark = [pytest.mark.lab, pytest.mark.slow]

FOLDER = "/var/lib/poold-image"
IMAGE, BASE = "localhost/poold-renamed:1", "localhost/poold-lab/counter:latest"


def build(fleet, host, version):
    """Build another image under the name, as its operator would; return its id."""
    script = f"""
        mkdir -p /var/tmp/empty
        printf 'FROM {IMAGE}\\nLABEL version={version}\\n' |
            podman build --quiet --tag {IMAGE} --file - /var/tmp/empty
    """
    fleet.on(host, "sh", "-ec", script)
    return fleet.on(host, "podman", "image", "inspect", "--format", "{{.Id}}", IMAGE).strip()


def is_of(fleet, replica):
    """Return the id of the image that a replica's container is of."""
    argv = ("podman", "inspect", "--format", "{{.Image}}", replica.name)
    return fleet.on(replica.host, *argv).strip()


def note(fleet):
    (pool,) = fleet.client.pools()
    return pool.image_note


def reload(fleet, old, new):
    """Change the file and have it taken."""
    text = fleet.config.read_text()
    assert old in text
    fleet.config.write_text(text.replace(old, new))
    last = fleet.client.changes(limit=1)[0].id
    assert fleet.tell(signal.SIGHUP)
    fleet.until(
        "it is taken",
        lambda: [
            change
            for change in fleet.client.changes(limit=5)
            if change.id > last and (change.kind, change.state) == ("reload", "settled")
        ],
    )


@pytest.fixture
def fleet(make):
    """Make a pool whose image has a name of its own, which no host has afterwards."""
    for host in ("a", "b"):
        make.lab.exec(host, "podman", "image", "rm", "--force", "--ignore", IMAGE)
    make.lab.exec("a", "podman", "image", "tag", BASE, IMAGE)
    table = make.pool("app", command=make.application(), image=IMAGE, max=4, keep_generations=3)
    hosts = [make.host(name, agent_dir=FOLDER) for name in ("a", "b")]
    fleet = make.fleet(
        "image", [*hosts, table, "\n[pools.app.roll]\nauto = false\n"], agent_dir=FOLDER
    )
    fleet.deadline_seconds = 120.0
    yield fleet
    for host in ("a", "b"):
        make.lab.exec(host, "podman", "rm", "--force", "--time", "0", "--filter",
                      "label=io.poold.fleet=image")  # fmt: skip
        make.lab.exec(host, "podman", "image", "rm", "--force", "--ignore", IMAGE)
        make.lab.exec(host, "podman", "image", "prune", "--force")


def test_what_is_served_stays_until_it_is_rolled(fleet):
    """Said without auto; cold starts stay with the image that is served; with auto it rolls."""
    home = {one.name: one.host for one in fleet.scaled("app", 2)}
    assert set(home.values()) == {"a", "b"}
    first = is_of(fleet, fleet.client.replicas("app")[0])
    assert note(fleet) == ""

    # Other images under the name, another one on each host: only said.
    other = build(fleet, "b", "elsewhere")
    second = build(fleet, "a", "2")
    assert len({first, second, other}) == 3
    told = fleet.until("it is said", lambda: note(fleet))
    assert told.startswith(f"{IMAGE} means another image on a now ({second[:12]})")
    explained = [one.text for one in fleet.client.explain("app").because]
    assert told in explained
    assert {one.generation for one in fleet.client.replicas("app")} == {1}

    # A restore that fails on b: the cold start is of the image that is served.
    digest = fleet.client.generations("app")[0].digest.removeprefix("sha256:")
    archive = f"{FOLDER}/generations/{digest}/archive.tar"
    spoil = f"printf x | dd of={archive} bs=1 seek=500000 conv=notrunc status=none"
    fleet.on("b", "sh", "-c", spoil)
    fleet.settled(fleet.client.restore("app", host="b"))
    (cold,) = [one for one in fleet.ready("app", 3) if one.name not in home]
    assert (cold.host, cold.method) == ("b", "cold")
    assert is_of(fleet, cold) == first
    fleet.settled(fleet.client.remove(cold.name))

    # A checkpoint takes the image of the name; b gets it by its id, and keeps its own name.
    fleet.settled(fleet.client.checkpoint("app"))
    assert fleet.client.generations("app")[0].manifest.image_id == second
    assert note(fleet) == ""
    fleet.settled(fleet.client.roll("app"))
    assert {is_of(fleet, one) for one in fleet.ready("app", 2)} == {second}

    # The next one by itself, and back: what is held does not follow the name any more.
    reload(fleet, "auto = false", "auto = true")
    third = build(fleet, "a", "3")
    fleet.until(
        "all are of generation 3",
        lambda: {one.generation for one in fleet.client.replicas("app")} == {3},
    )
    (auto,) = [change for change in fleet.client.changes(limit=50) if change.actor == "auto"]
    assert fleet.settled(auto).reason == "the image changed"
    after = fleet.ready("app", 2)
    assert {one.name: one.host for one in after} == home
    assert {is_of(fleet, one) for one in after} == {third}
    fleet.settled(fleet.client.rollback("app"))
    assert note(fleet) == ""
    assert {is_of(fleet, one) for one in fleet.ready("app", 2)} == {second}
    assert fleet.client.generations("app")[0].number == 3
    fleet.scaled("app", 0)
    fleet.is_tidy()
