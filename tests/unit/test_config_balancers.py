"""What is said about balancers in a configuration, and about pools behind them."""

from __future__ import annotations

import pytest

from poold.config import InvalidConfig, parse
from poold.model.balancing import Behind, Caddy, Commanded, Haproxy, Hooked, Pulled, Rendered

HOST = """\
[hosts.a]
address = "10.77.0.11"
key_file = "/x/key"
known_hosts_file = "/x/known_hosts"
"""
FRONT = '[balancers.front]\nsocket = "/run/haproxy/admin.sock"\n'
POOL = '[pools.hello]\nimage = "i"\nport = 8080\n'
BEHIND = '[pools.hello.balancer]\nname = "front"\n'


def complaints(text: str) -> dict[str, str]:
    """Return the messages by path."""
    with pytest.raises(InvalidConfig) as caught:
        parse(text, source="poold.toml")
    return {problem.path: problem.message for problem in caught.value.problems}


def test_reads_a_balancer_and_a_pool_behind_it() -> None:
    """What is left out is there by default; a pool without the table is behind nothing."""
    config = parse(HOST + FRONT + POOL + BEHIND, source="x")
    assert config.balancers == {"front": Haproxy("front", "/run/haproxy/admin.sock")}
    assert config.pools["hello"].balancer == Behind("front")
    assert parse(HOST + POOL, source="x").pools["hello"].balancer is None


@pytest.mark.parametrize(
    ("lines", "path", "part"),
    [
        ('socket = "run/x"', "balancers.front.socket", "absolute path"),
        ('socket = ":9999"', "balancers.front.socket", "absolute path"),
        ('socket = "127.0.0.1:99999"', "balancers.front.socket", "port"),
        (f'socket = "/{"x" * 120}"', "balancers.front.socket", "kernel"),
        ("master = true", "balancers.front.socket", "cannot be left out"),
        ('socket = "/x"\nkind = "hapoxy"', "balancers.front.kind", "did you mean 'haproxy'"),
        ('socket = "/x"\nstate_file = "state"', "balancers.front.state_file", "absolute"),
        ('socket = "/x"\ntimeout_seconds = 0', "balancers.front.timeout_seconds", "above 0"),
        ('socket = "/x"\nsockets = 1', "balancers.front.sockets", "did you mean 'socket'"),
    ],
)
def test_mistakes_in_a_balancer(lines: str, path: str, part: str) -> None:
    """Each is told at its place."""
    found = complaints(f"{HOST}{POOL}{BEHIND}[balancers.front]\n{lines}\n")
    assert set(found) == {path}
    assert part in found[path]


@pytest.mark.parametrize(
    ("line", "key", "part"),
    [
        ('backend = "a;b"', "backend", "a name of HAProxy's"),
        ('slots = "s/"', "slots", "a name of HAProxy's"),
        ('options = "check; quit"', "options", "cannot have 'check;'"),
        ('options = "check weight 3"', "options", "poold says that itself"),
        ("weight = 0", "weight", "from 1 to 256"),
        ("weight = 257", "weight", "from 1 to 256"),
        ("drain_seconds = 0", "drain_seconds", "above 0"),
        ("drain_second = 3", "drain_second", "did you mean"),
    ],
)
def test_mistakes_in_a_place_behind_it(line: str, key: str, part: str) -> None:
    """Words that HAProxy would take for other commands are refused before anything runs."""
    found = complaints(HOST + FRONT + POOL + BEHIND + line + "\n")
    assert set(found) == {f"pools.hello.balancer.{key}"}
    assert part in found[f"pools.hello.balancer.{key}"]


def test_a_balancer_that_is_not_there() -> None:
    """A name that is close is offered."""
    found = complaints(HOST + FRONT + POOL + BEHIND.replace("front", "frnt"))
    assert "did you mean 'front'" in found["pools.hello.balancer.name"]
    found = complaints(HOST + POOL + BEHIND)
    assert "add [balancers.NAME]" in found["pools.hello.balancer.name"]


def test_hosts_of_such_a_pool_are_published_by_address() -> None:
    """A name would never be resolved by HAProxy; an address of its own is the way out."""
    named = HOST.replace("10.77.0.11", "a.example.com")
    found = complaints(named + FRONT + POOL + BEHIND)
    assert "publish_address" in found["hosts.a.address"]
    parse(named + 'publish_address = "2001:db8::1"\n' + FRONT + POOL + BEHIND, source="x")
    parse(named + FRONT + POOL, source="x")


def test_two_names_for_one_haproxy() -> None:
    """They would undo each other's work."""
    found = complaints(HOST + FRONT + FRONT.replace("front", "back") + POOL)
    assert "'front' has that one already" in found["balancers.back.socket"]


def test_two_pools_cannot_share_slots() -> None:
    """Servers that are named by replica can share a backend; slots cannot."""
    shared = BEHIND + 'backend = "web"\n'
    other = (POOL + shared).replace("hello", "other")
    parse(HOST + FRONT + POOL + shared + other, source="x")
    slots = 'slots = "slot"\n'
    found = complaints(HOST + FRONT + POOL + shared + slots + other + slots)
    assert "'hello' has those slots already" in found["pools.other.balancer.slots"]


NGINX = """\
[balancers.front]
kind = "file"
template = "/etc/poold/nginx.conf"
path = "/etc/nginx/poold/@pool@.conf"
command = ["nginx", "-s", "reload"]
"""


def test_reads_every_other_kind() -> None:
    """Each has keys of its own; hosts may be published by name there."""
    for text, cls in (
        (NGINX, Rendered),
        ('[balancers.front]\nkind = "command"\ncommand = ["/bin/tell"]\n', Commanded),
        ('[balancers.front]\nkind = "webhook"\nurl = "https://e.example/x"\n', Hooked),
        ('[balancers.front]\nkind = "caddy"\n', Caddy),
        ('[balancers.front]\nkind = "pull"\n', Pulled),
    ):
        named = HOST + 'publish_address = "a.example"\n'
        config = parse(named + text + POOL + BEHIND, source="x")
        assert isinstance(config.balancers["front"], cls)


@pytest.mark.parametrize(
    ("text", "path", "part"),
    [
        (NGINX.replace("/etc/poold/", ""), "balancers.front.template", "absolute"),
        (NGINX.replace("@pool@", "pool"), "balancers.front.path", "put @pool@ into it"),
        (NGINX.replace('["nginx", "-s", "reload"]', "[]"), "balancers.front.command", "empty"),
        (NGINX + 'socket = "/x"\n', "balancers.front.socket", "cannot use this key"),
        (
            '[balancers.front]\nkind = "webhook"\nurl = "edge"\n',
            "balancers.front.url",
            "http://",
        ),
    ],
)
def test_mistakes_in_other_kinds(text: str, path: str, part: str) -> None:
    """Each is told at its place; one file for two pools is refused."""
    other = POOL.replace("hello", "web") + BEHIND.replace("hello", "web")
    found = complaints(HOST + POOL + BEHIND + other + text)
    assert set(found) == {path}
    assert part in found[path]


def test_autoscaling_needs_an_haproxy() -> None:
    """Whoever does not tell what is under way cannot be counted at, nor can nobody."""
    scale = "[pools.hello.autoscale]\npanic_seconds = 90\ntarget = 0\n"
    found = complaints(HOST + POOL + scale)
    assert "without a balancer" in found["pools.hello.autoscale"]
    assert "longer than the window" in found["pools.hello.autoscale.panic_seconds"]
    assert "above 0" in found["pools.hello.autoscale.target"]
    found = complaints(HOST + NGINX + POOL + BEHIND + "[pools.hello.autoscale]\n")
    assert "only an HAProxy" in found["pools.hello.autoscale"]
    assert parse(HOST + FRONT + POOL + BEHIND + "[pools.hello.autoscale]\n", source="x")


def test_slots_are_haproxy_s() -> None:
    """A pool elsewhere has none."""
    found = complaints(HOST + NGINX + POOL + BEHIND + 'slots = "slot"\n')
    assert "is no HAProxy" in found["pools.hello.balancer.slots"]
