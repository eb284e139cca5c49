"""A configuration written out reads as the same one."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings, strategies as st

from poold.config import Config, DaemonConfig, parse, to_json, to_toml
from poold.model.application import (
    Application,
    CheckpointSettings,
    ExecHook,
    ExecProbe,
    Hook,
    HttpHook,
    HttpProbe,
    Limits,
    Probe,
    TcpProbe,
    Volume,
    WarmupRequest,
)
from poold.model.balancing import (
    AnyBalancer,
    BalancerName,
    Behind,
    Commanded,
    Haproxy,
    Hooked,
    Pulled,
)
from poold.model.fleet import Host, Pool, RollSettings
from poold.model.scaling import Scaling

WILD = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=8)
NAMES = st.from_regex(r"[a-z][a-z-]{0,8}[a-z]", fullmatch=True)
PATHS = st.from_regex(r"/[a-zA-Z0-9 ._é\"\\-]{0,12}", fullmatch=True)
PORTS = st.integers(1, 65535)
SECONDS = st.floats(0.001, 20, allow_nan=False) | st.integers(1, 20).map(float)
COMMANDS = st.lists(WILD.filter(bool), min_size=1, max_size=3).map(tuple)
VARIABLES = st.dictionaries(WILD.filter(lambda name: not {*name} & {"=", "\n"} and name), WILD)
TIMES = {"timeout_seconds": SECONDS, "deadline_seconds": SECONDS}
HEADERS = st.dictionaries(st.sampled_from(["Accept", "X.Y", "cookie"]), st.text("a \"'#é"))
BEHIND = st.builds(
    Behind,
    name=st.sampled_from([BalancerName("front"), BalancerName("back")]),
    backend=st.sampled_from(["", "be_1", "x:y.z"]),
    options=st.sampled_from(["", "check", "check inter 1s"]),
    weight=st.integers(1, 256),
    drain_seconds=SECONDS,
)


def probes(ports: st.SearchStrategy[int | None]) -> st.SearchStrategy[Probe]:
    """Draw probes at published ports."""
    return st.one_of(
        st.builds(HttpProbe, path=PATHS, port=ports, **TIMES),
        st.builds(TcpProbe, port=ports, interval_ms=st.integers(1, 99), **TIMES),
        st.builds(ExecProbe, command=COMMANDS, **TIMES),
    )


def hooks(ports: st.SearchStrategy[int | None]) -> st.SearchStrategy[Hook | None]:
    """Draw hooks at published ports, commands, and none."""
    return st.one_of(
        st.none(),
        st.builds(ExecHook, command=COMMANDS, timeout_seconds=SECONDS),
        st.builds(HttpHook, path=PATHS, method=st.sampled_from(["POST", "PUT"]), port=ports),
    )


@st.composite
def applications(draw: st.DrawFn) -> Application:
    """Draw any valid application."""
    port, *extra = draw(st.lists(PORTS, min_size=1, max_size=3, unique=True))
    asked = st.none() | st.sampled_from([port, *extra])
    request = st.builds(
        WarmupRequest,
        path=PATHS,
        body=WILD,
        headers=HEADERS,
        repeat=st.integers(1, 9),
        port=asked,
    )
    mounts = draw(st.lists(st.from_regex(r"/[a-z]{1,4}", fullmatch=True), max_size=4, unique=True))
    memory = st.none() | st.sampled_from(["512m", "1.5g", "1GiB"])
    return Application(
        image=draw(
            st.from_regex(r"[a-z0-9./:-]{1,20}", fullmatch=True).filter(lambda s: s[0] != "-")
        ),
        port=port,
        extra_ports=tuple(extra),
        command=draw(st.just(()) | COMMANDS),
        env=draw(VARIABLES),
        user=draw(st.none() | NAMES),
        volumes=tuple(Volume(f"/src{path}", path, read_only=True) for path in mounts[:2]),
        tmpfs=tuple(mounts[2:]),
        limits=Limits(memory=draw(memory), cpus=draw(st.none() | SECONDS), pids=draw(PORTS)),
        readiness=draw(probes(asked)),
        warmup=tuple(draw(st.lists(request, max_size=2))),
        before_checkpoint=draw(hooks(asked)),
        after_restore=draw(hooks(asked)),
        checkpoint=CheckpointSettings(
            scan_paths=tuple(draw(st.lists(PATHS, max_size=2))),
            timeout_seconds=draw(SECONDS),
        ),
    )


@st.composite
def configurations(draw: st.DrawFn) -> Config:
    """Draw any valid configuration."""
    host_names: list[Any] = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    hosts = {
        name: Host(
            name=name,
            address=f"10.0.0.{number}",
            port=draw(PORTS),
            key_file=draw(PATHS),
            known_hosts_file=draw(PATHS),
            max_replicas=draw(PORTS),
        )
        for number, name in enumerate(host_names)
    }
    pools = {}
    for number, name in enumerate(draw(st.lists(NAMES, max_size=2, unique=True))):
        chosen = draw(st.lists(st.sampled_from(host_names), min_size=1, unique=True))
        low, wish, high = sorted(draw(st.tuples(*[st.integers(0, 99)] * 3)))
        pools[name] = Pool(
            name=name,
            application=draw(applications()),
            hosts=tuple(chosen),
            builder=draw(st.sampled_from(chosen)),
            replica_name=f"r{'abc'[number]}{{n}}",
            replicas=wish,
            min=low,
            max=high,
            keep_generations=draw(st.integers(1, 9)),
            roll=RollSettings(surge=1, unavailable=draw(PORTS), auto=draw(st.booleans())),
            keep_days=draw(st.none() | st.integers(1, 99).map(float)),
            keep_bytes=draw(st.none() | st.integers(1, 10**12)),
            balancer=draw(st.none() | BEHIND),
            scaling=Scaling(draw(st.none() | PORTS), draw(SECONDS), draw(SECONDS)),
        )
    balancers: dict[BalancerName, AnyBalancer] = {
        BalancerName(name): Haproxy(
            name=BalancerName(name),
            socket=f"{draw(PATHS)}{number}",
            master=draw(st.booleans()),
            state_file=draw(st.none() | PATHS),
            timeout_seconds=draw(SECONDS),
        )
        for number, name in enumerate(("front", "back"))
    }
    tell = BalancerName("tell")
    balancers[tell] = draw(
        st.builds(Commanded, st.just(tell), st.just("command"), COMMANDS, SECONDS)
        | st.builds(Hooked, st.just(tell), st.just("webhook"), st.just("http://e"), PATHS)
        | st.builds(Pulled, st.just(tell), st.just("pull"))
    )
    daemon = DaemonConfig(
        state_dir=draw(PATHS),
        socket_mode=draw(st.sampled_from(["0600", "0660", "666"])),
        listen=draw(st.none() | st.just("[::1]:80")),
        token_file=draw(PATHS),
        reconcile_seconds=draw(SECONDS),
        log_level=draw(st.sampled_from(["debug", "error"])),
    )
    return Config(daemon=daemon, hosts=hosts, balancers=balancers, pools=pools)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(configurations())
def test_toml_reads_as_the_same_configuration(config: Config) -> None:
    """Whatever a configuration holds, `config show --show-secrets` parses back to it."""
    assert parse(to_toml(config, show_secrets=True), source="shown") == config


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(configurations())
def test_masked_output_is_still_a_configuration(config: Config) -> None:
    """Masking changes values that may be secrets, nothing else, and can be read again."""
    masked = parse(to_toml(config), source="shown")
    assert masked.hosts == config.hosts
    for name, pool in config.pools.items():
        assert masked.pools[name].application.env.keys() == pool.application.env.keys()
        assert set(masked.pools[name].application.env.values()) <= {"***"}
    assert parse(to_toml(masked), source="again") == masked


SECRETIVE = """\
[hosts.here]
kind = "local"
[pools.web]
image = "i"
port = 80
env = { PASSWORD = "hunter2" }
[[pools.web.warmup]]
path = "/"
body = "token=hunter2"
headers = { Authorization = "hunter2" }
"""


def test_masks_what_may_be_a_secret() -> None:
    """Values of env, headers and bodies do not appear unless asked for, and the TOML says so."""
    config = parse(SECRETIVE, source="x")
    assert "hunter2" not in to_toml(config)
    assert b"hunter2" not in to_json(config)
    assert to_toml(config).startswith("# Values that may be secrets")
    assert to_toml(config, show_secrets=True).count("hunter2") == 3
    assert to_json(config, show_secrets=True).count(b"hunter2") == 3


def test_says_nothing_of_secrets_where_there_are_none() -> None:
    """Output that nothing is hidden in is the same configuration, and has no note."""
    config = parse('[hosts.here]\nkind = "local"\n', source="x")
    assert to_toml(config).startswith("[daemon]\n")
    assert parse(to_toml(config), source="shown") == config


def test_json_has_the_layout_of_the_file() -> None:
    """JSON has the file's keys, every one, with null for what is not set."""
    shown = json.loads(to_json(parse(SECRETIVE, source="x")))
    assert shown["daemon"]["listen"] is None
    assert shown["hosts"]["here"]["python"] == "python3"
    assert shown["pools"]["web"]["name"] == "web{n}"
    assert shown["pools"]["web"]["readiness"]["kind"] == "tcp"
    assert "application" not in shown["pools"]["web"]
