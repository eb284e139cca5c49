"""What a configuration means, and what is said about a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from poold.config import Config, InvalidConfig, load, parse
from poold.errors import Refused
from poold.model.application import (
    ExecHook,
    ExecProbe,
    HttpHook,
    HttpProbe,
    Limits,
    Liveness,
    TcpProbe,
    Volume,
    WarmupRequest,
)
from poold.model.balancing import Behind
from poold.model.fleet import HostName, PoolName, ReplicaName
from poold.model.scaling import Autoscale, Scaling

DAEMON = '[daemon]\nstate_dir = "/x"\n'
HOST_A = """\
[hosts.a]
address = "10.77.0.11"
key_file = "/x/key"
known_hosts_file = "/x/known_hosts"
"""
HOST_B = HOST_A.replace("hosts.a", "hosts.b").replace(".11", ".12")
POOL = '[pools.hello]\nimage = "i"\nport = 8080\n'
HERE = "# HERE"


def complaints(text: str) -> dict[str, str]:
    """Return the messages by path; whatever is marked must be the only line complained about."""
    with pytest.raises(InvalidConfig) as caught:
        parse(text, source="poold.toml")
    problems = caught.value.problems
    marked = {number for number, row in enumerate(text.split("\n"), 1) if HERE in row}
    if marked:
        assert {problem.line for problem in problems} == marked, problems
    return {problem.path: problem.message for problem in problems}


def test_reads_the_values_of_the_model() -> None:
    """A flat pool becomes a Pool with its Application, and hosts become Hosts."""
    config = parse(
        HOST_A
        + HOST_B
        + """
[pools.hello]
image = "localhost/wildfly:latest"
env = { A = "1" }
port = 8080
name = "web-{n}-x"
replicas = 2
min = 1
max = 8
hosts = ["b", "a"]
builder = "a"
keep_generations = 3
tmpfs = ["/tmp:size=64m"]
volumes = [{ source = "/srv", target = "/app", read_only = true }]
limits = { memory = "512m", cpus = 2 }
[pools.hello.readiness]
kind = "http"
path = "/hello/ready"
interval_ms = 5
deadline_seconds = 90
[[pools.hello.warmup]]
path = "/hello/"
repeat = 2
headers.Accept = "text/html"
[pools.hello.checkpoint]
scan_paths = ["/opt/wildfly/standalone"]
[pools.hello.before_checkpoint]
kind = "http"
path = "/gc"
[pools.hello.after_restore]
kind = "exec"
command = ["/opt/identity"]
""",
        source="x",
    )
    pool = config.pools[PoolName("hello")]
    app = pool.application
    assert pool.replica(3) == ReplicaName("web-3-x")
    assert (pool.hosts, pool.builder, pool.replicas, pool.keep_generations) == (
        ("b", "a"), "a", 2, 3,
    )  # fmt: skip
    assert app.env == {"A": "1"}
    assert app.volumes == (Volume("/srv", "/app", read_only=True),)
    assert app.limits == Limits(memory="512m", cpus=2.0)
    assert app.readiness == HttpProbe(path="/hello/ready", deadline_seconds=90.0)
    assert app.warmup == (WarmupRequest("/hello/", headers={"Accept": "text/html"}, repeat=2),)
    assert app.checkpoint.scan_paths == ("/opt/wildfly/standalone",)
    assert app.before_checkpoint == HttpHook("/gc")
    assert app.after_restore == ExecHook(("/opt/identity",))
    assert config.hosts[HostName("b")].published_at == "10.77.0.12"


def test_fills_in_what_depends_on_other_keys() -> None:
    """Hosts are all, the builder their first, names the pool's, replicas the minimum."""
    config = parse(HOST_B + HOST_A + POOL + "min = 2\n", source="x")
    pool = config.pools[PoolName("hello")]
    assert (pool.hosts, pool.builder) == (("b", "a"), "b")
    assert (pool.replica_name, pool.replicas) == ("hello{n}", 2)
    assert pool.application.readiness == TcpProbe()
    assert config.daemon.listen_address is None
    assert config.daemon.socket_permissions == 0o660


@pytest.mark.parametrize(
    ("listen", "address"),
    [("127.0.0.1:8470", ("127.0.0.1", 8470)), ("[::1]:80", ("::1", 80)), ("box:1", ("box", 1))],
)
def test_splits_the_listening_address(listen: str, address: tuple[str, int]) -> None:
    """The API's address over TCP is a host, without brackets, and a port."""
    text = f'[daemon]\nlisten = "{listen}"\ntoken_file = "/t"\n' + HOST_A
    assert parse(text, source="x").daemon.listen_address == address


def test_reads_toml_1_1() -> None:
    """Inline tables may span lines and end with a comma."""
    text = HOST_A + POOL + 'readiness = {\n  kind = "exec",\n  command = ["ok"],\n}\n'
    pool = parse(text, source="x").pools[PoolName("hello")]
    assert pool.application.readiness == ExecProbe(("ok",))


def test_reports_everything_at_once() -> None:
    """Mistakes of all kinds come together, ordered by line, each with path and line."""
    text = """\
[deamon]
[daemon]
listen = "0.0.0.0:8470"
reconcile_seconds = "10"
[hosts.a]
kind = "shh"
[hosts.b]
address = "10.0.0.1"
[pools.hello]
imgae = "x"
port = 99999
min = 3
max = 2
hosts = ["aa", "b"]
[pools.hello.readiness]
kind = "http"
path = "ready"
"""
    with pytest.raises(InvalidConfig) as caught:
        parse(text, source="f.toml")
    assert [(problem.line, problem.path) for problem in caught.value.problems] == [
        (1, "deamon"),
        (2, "daemon.token_file"),
        (4, "daemon.reconcile_seconds"),
        (6, "hosts.a.kind"),
        (7, "hosts.b.key_file"),
        (7, "hosts.b.known_hosts_file"),
        (9, "pools.hello.image"),
        (10, "pools.hello.imgae"),
        (11, "pools.hello.port"),
        (12, "pools.hello.min"),
        (14, "pools.hello.hosts[0]"),
        (17, "pools.hello.readiness.path"),
    ]
    assert caught.value.code == "config.invalid"
    assert str(caught.value).startswith("cannot use the configuration f.toml: 12 problems")
    assert caught.value.detail.splitlines()[0] == (
        "f.toml:1: deamon: cannot use this key, did you mean 'daemon'?"
    )


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        # shape
        (HOST_A + "adress = 'x' # HERE", "hosts.a.adress", "did you mean 'address'?"),
        (HOST_A + "port = '22' # HERE", "hosts.a.port", "be a string: an integer is needed"),
        (HOST_A + "port = true # HERE", "hosts.a.port", "be true or false: an integer"),
        (HOST_A + "port = 2.0 # HERE", "hosts.a.port", "be a number: an integer is needed"),
        (HOST_A + "user = 1 # HERE", "hosts.a.user", "be an integer: a string is needed"),
        (HOST_A + "user = 1979-05-27 # HERE", "hosts.a.user", "be a date or time: a string"),
        (HOST_A + "kind = 'locla' # HERE", "hosts.a.kind", "did you mean 'local'?: \"local\" or"),
        ("hosts = 3 # HERE", "hosts", "be an integer: a table is needed"),
        ("[hosts]\na = 3 # HERE", "hosts.a", "be an integer: a table is needed"),
        (HOST_A + POOL + "env = ['A=1'] # HERE", "pools.hello.env", "an array: a table is needed"),
        (HOST_A + POOL + "env = {A = 1} # HERE", "pools.hello.env.A", "a string is needed"),
        (HOST_A + POOL + "command = 'run' # HERE", "pools.hello.command", "an array is needed"),
        (HOST_A + POOL + "command = ['a',\n1, # HERE\n]", "pools.hello.command[1]", "a string is"),
        (HOST_A + POOL + "replica_name = 'a{n}' # HERE", "pools.hello.replica_name", "this key"),
        (HOST_A + "[pools.hello] # HERE\nport = 1", "pools.hello.image", "cannot be left out"),
        (HOST_A + POOL + "readiness = {} # HERE", "pools.hello.readiness.kind", "left out"),
        (HOST_A + POOL + "readiness = 'tcp' # HERE", "pools.hello.readiness", "a table is needed"),
        (
            HOST_A + POOL + "[pools.hello.readiness] # HERE\nkind = 'exec'",
            "pools.hello.readiness.command",
            "cannot be left out: an array is needed",
        ),
        (
            HOST_A + POOL + "[pools.hello.readiness]\nkind = 'tcp'\npath = '/' # HERE",
            "pools.hello.readiness.path",
            "cannot use this key",
        ),
        (
            HOST_A + POOL + "[pools.hello.after_restore]\nkind = 'htpp' # HERE",
            "pools.hello.after_restore.kind",
            "cannot be 'htpp', did you mean 'http'?: \"exec\" or \"http\" is needed",
        ),
        (
            HOST_A + POOL + "volumes = [{source = '/a', target = '/b', ro = true}] # HERE",
            "pools.hello.volumes[0].ro",
            "cannot use this key",
        ),
        # TOML itself
        ("[daemon]\nfleet = 'a'\nfleet = 'b' # HERE", "", "cannot read this as TOML"),
        ("[daemon]\n[daemon] # HERE", "", "cannot read this as TOML"),
        ("a = ] # HERE", "", "cannot read this as TOML"),
        # the daemon
        (HOST_A + "[daemon]\nstate_dir = 'x' # HERE", "daemon.state_dir", "an absolute path"),
        (HOST_A + "[daemon]\nsocket = '~/s' # HERE", "daemon.socket", "~ is not expanded"),
        (HOST_A + f"[daemon]\nsocket = '/{'x' * 107}' # HERE", "daemon.socket", "107 bytes"),
        (HOST_A + "[daemon]\nsocket_mode = '0999' # HERE", "daemon.socket_mode", "an octal mode"),
        (HOST_A + "[daemon]\nfleet = 'A b' # HERE", "daemon.fleet", "lower-case letters"),
        (HOST_A + "[daemon]\nlog_level = 'warn' # HERE", "daemon.log_level", "'warning'?"),
        (HOST_A + "[daemon]\nreconcile_seconds = 0 # HERE", "daemon.reconcile_seconds", "above 0"),
        (HOST_A + "[daemon]\nreconcile_seconds = inf # HERE", "daemon.reconcile_seconds", "finite"),
        (HOST_A + "[daemon] # HERE\nlisten = 'a:1'", "daemon.token_file", "left out with listen"),
        (
            HOST_A + "[daemon]\ntoken_file = '/t'\nlisten = '8470' # HERE",
            "daemon.listen",
            '"host:port" is needed',
        ),
        (
            HOST_A + "[daemon]\ntoken_file = '/t'\nlisten = 'a:70000' # HERE",
            "daemon.listen",
            "cannot be 70000",
        ),
        # hosts
        (DAEMON, "hosts", "cannot run anything without a host"),
        (HOST_A.replace("hosts.a", "hosts.A"), "hosts.A", "cannot be a host's name"),
        (HOST_A.replace("a]", "'-a']"), "hosts.-a", "cannot be a host's name"),
        (HOST_A.replace("a]", "'a b']"), 'hosts."a b"', "cannot be a host's name"),
        (HOST_A.replace("a]", '"\\u001b[2J"]'), 'hosts."\\u001b[2J"', "cannot be a host's name"),
        (HOST_A.replace("a]", "a" * 42 + "]"), "hosts." + "a" * 42, "cannot be a host's name"),
        ("[hosts.a] # HERE\nkey_file='/k'\nknown_hosts_file='/h'", "hosts.a.address", "left out"),
        (HOST_A.replace('"/x/key"', '"key" # HERE'), "hosts.a.key_file", "an absolute path"),
        (HOST_A + "port = 0 # HERE", "hosts.a.port", "a port is from 1 to 65535"),
        (HOST_A + "disk_reserve = '5 percent' # HERE", "hosts.a.disk_reserve", "a size such as"),
        ("[daemon]\ndisk_reserve = '100%' # HERE\n" + HOST_A, "daemon.disk_reserve", "a size such"),
        (HOST_A + "publish_ports = '9-1' # HERE", "hosts.a.publish_ports", "a range such as"),
        (HOST_A + "publish_ports = '1-70000' # HERE", "hosts.a.publish_ports", "a range such as"),
        (HOST_A + "publish_ports = '20000' # HERE", "hosts.a.publish_ports", "a range such as"),
        (HOST_A + "max_replicas = -1 # HERE", "hosts.a.max_replicas", "1 or more"),
        (HOST_A + "user = '-oProxyCommand=x' # HERE", "hosts.a.user", "no dash in front"),
        (HOST_A + "python = '' # HERE", "hosts.a.python", "cannot be empty"),
        (
            HOST_A + HOST_B.replace('.12"', '.11" # HERE'),
            "hosts.b.address",
            "host 'a' has that address already",
        ),
        (
            "[hosts.a]\nkind = 'local'\n[hosts.b]\nkind = 'local' # HERE",
            "hosts.b.kind",
            "host 'a' is this machine already",
        ),
        (
            HOST_A + HOST_B + "publish_address = '10.77.0.11'\npublish_ports = '1-20000' # HERE",
            "hosts.b.publish_ports",
            "cannot share ports with host 'a'",
        ),
        # pools
        (HOST_A + POOL.replace("hello", "Hello"), "pools.Hello", "cannot be a pool's name"),
        (HOST_A + POOL + "name = 'x' # HERE", "pools.hello.name", '"{n}" must be in it'),
        (HOST_A + POOL + "name = '{n}{n}' # HERE", "pools.hello.name", '"{n}" must be in it'),
        (HOST_A + POOL + "name = 'A{n}' # HERE", "pools.hello.name", "only lower-case"),
        (HOST_A + POOL + "name = 'poold-proof-{n}' # HERE", "pools.hello.name", "own names"),
        (
            HOST_A + POOL + POOL.replace("hello]", "hello1] # HERE"),
            "pools.hello1.name",
            "both could have a replica 'hello11'",
        ),
        (
            HOST_A + POOL + "name='x{n}'\n" + POOL.replace("hello", "b") + "name='x{n}' # HERE",
            "pools.b.name",
            "both could have a replica 'x1'",
        ),
        (HOST_A + POOL + "hosts = [] # HERE", "pools.hello.hosts", "cannot be empty"),
        (HOST_A + POOL + "hosts = ['a', 'a'] # HERE", "pools.hello.hosts[1]", "twice"),
        (
            HOST_A.replace("hosts.a", "hosts.alpha") + POOL + "hosts = ['alhpa'] # HERE",
            "pools.hello.hosts[0]",
            "cannot find a host 'alhpa', did you mean 'alpha'?",
        ),
        (HOST_A + POOL + "builder = 'c' # HERE", "pools.hello.builder", "one of the pool's hosts"),
        (
            HOST_A + HOST_B + POOL + "hosts = ['b']\nbuilder = 'a' # HERE",
            "pools.hello.builder",
            "one of the pool's hosts",
        ),
        (HOST_A + POOL + "replicas = 17 # HERE", "pools.hello.replicas", "above max = 16"),
        (HOST_A + POOL + "min = 2\nreplicas = 1 # HERE", "pools.hello.replicas", "below min = 2"),
        (HOST_A + POOL + "min = 17 # HERE", "pools.hello.min", "above max = 16"),
        (HOST_A + POOL + "min = -1 # HERE", "pools.hello.min", "0 or more"),
        (HOST_A + POOL + "keep_generations = 0 # HERE", "pools.hello.keep_generations", "1 or"),
        (HOST_A + POOL + "keep_days = 0 # HERE", "pools.hello.keep_days", "above 0"),
        (HOST_A + POOL + "spares = -1 # HERE", "pools.hello.spares", "0 or more"),
        (
            HOST_A + POOL + "spare_max_age_seconds = 0 # HERE",
            "pools.hello.spare_max_age_seconds",
            "above 0",
        ),
        (HOST_A + POOL + "keep_bytes = -1 # HERE", "pools.hello.keep_bytes", "above 0"),
        # applications
        (HOST_A + "[pools.p]\nport = 1\nimage = '' # HERE", "pools.p.image", "a reference"),
        (HOST_A + "[pools.p]\nimage = 'i'\nport = -1 # HERE", "pools.p.port", "from 1 to 65535"),
        (HOST_A + POOL + "extra_ports = [8080] # HERE", "pools.hello.extra_ports[0]", "twice"),
        (HOST_A + POOL + "user = '' # HERE", "pools.hello.user", "cannot be empty"),
        (HOST_A + POOL + "limits.memory = '5x' # HERE", "pools.hello.limits.memory", "a size such"),
        (HOST_A + POOL + "limits.cpus = nan # HERE", "pools.hello.limits.cpus", "above 0"),
        (HOST_A + POOL + "tmpfs = ['tmp'] # HERE", "pools.hello.tmpfs[0]", "an absolute path"),
        (
            HOST_A + POOL + "stop_timeout_seconds = -1 # HERE",
            "pools.hello.stop_timeout_seconds",
            "0",
        ),
        (
            HOST_A + POOL + "env = {'A=B' = ''} # HERE",
            'pools.hello.env."A=B"',
            "name of a variable",
        ),
        (
            HOST_A + POOL + "tmpfs = ['/t']\nvolumes = [{source = '/a', target = '/t/'}]",
            "pools.hello.tmpfs[0]",
            "cannot mount '/t' twice",
        ),
        (
            HOST_A + POOL + "volumes = [{source = './a', target = '/b'}] # HERE",
            "pools.hello.volumes[0].source",
            "an absolute path",
        ),
        (
            HOST_A + POOL + "volumes = [{source = '/a:b', target = '/b'}] # HERE",
            "pools.hello.volumes[0].source",
            "colons",
        ),
        (
            HOST_A + POOL + "checkpoint.scan_paths = ['/a',\n'b'] # HERE",
            "pools.hello.checkpoint.scan_paths[1]",
            "an absolute path",
        ),
        (
            HOST_A + POOL + "warmup = [{path = '/'},\n{path = 'x'}] # HERE",
            "pools.hello.warmup[1].path",
            'it must begin with "/"',
        ),
        (
            HOST_A + POOL + "warmup = [{path = '/', repeat = 0}] # HERE",
            "pools.hello.warmup[0].repeat",
            "1 or more",
        ),
        (
            HOST_A + POOL + "warmup = [{path = '/', method = 'GET / HTTP'}] # HERE",
            "pools.hello.warmup[0].method",
            "a method such as GET",
        ),
        (
            HOST_A + POOL + 'warmup = [{path = "/", headers.A = "b\\nC: d"}] # HERE',
            "pools.hello.warmup[0].headers.A",
            "a line break",
        ),
        (
            HOST_A + POOL + "readiness = {kind = 'tcp', interval_ms = 0} # HERE",
            "pools.hello.readiness.interval_ms",
            "above 0",
        ),
        (
            HOST_A + POOL + "readiness = {kind = 'exec', command = []} # HERE",
            "pools.hello.readiness.command",
            "cannot be empty",
        ),
        (
            "[daemon] # HERE\n" + HOST_A + POOL + "readiness = {kind='tcp', deadline_seconds=400}",
            "daemon.action_deadline_seconds",
            "the deadlines of pool 'hello' add up to 410 seconds",
        ),
        (
            HOST_A + POOL + "roll = {surge = 0} # HERE",
            "pools.hello.roll.unavailable",
            "cannot be 0 with surge = 0",
        ),
        (
            HOST_A + POOL + "roll = {surge = -1, unavailable = 1} # HERE",
            "pools.hello.roll.surge",
            "cannot be -1",
        ),
        (
            HOST_A + POOL + "liveness = {failures = 0} # HERE",
            "pools.hello.liveness.failures",
            "cannot be 0",
        ),
        (
            HOST_A + POOL + "liveness = {kind = 'tcp', path = '/'} # HERE",
            "pools.hello.liveness.path",
            'cannot be used with kind "tcp"',
        ),
        (
            HOST_A + POOL + "liveness = {kind = 'http', path = 'alive'} # HERE",
            "pools.hello.liveness.path",
            'must begin with "/"',
        ),
        (
            HOST_A + POOL + "liveness = {kind = 'exec'} # HERE",
            "pools.hello.liveness.command",
            "cannot be left out",
        ),
        (
            HOST_A + POOL + "liveness = {port = 1} # HERE",
            "pools.hello.liveness.port",
            "neither port nor in extra_ports",
        ),
        (
            HOST_A + POOL + "readiness = {kind = 'http', path = '/', port = 8081} # HERE",
            "pools.hello.readiness.port",
            "neither port nor in extra_ports",
        ),
        (
            HOST_A + POOL + "warmup = [{path = '/'}, {path = '/', port = 8081}] # HERE",
            "pools.hello.warmup[1].port",
            "neither port nor in extra_ports",
        ),
        (
            HOST_A + POOL + "before_checkpoint = {kind = 'http', path = '/', port = 1} # HERE",
            "pools.hello.before_checkpoint.port",
            "neither port nor in extra_ports",
        ),
        (
            HOST_A + POOL + "after_restore = {kind = 'http', path = '/', port = 1} # HERE",
            "pools.hello.after_restore.port",
            "neither port nor in extra_ports",
        ),
        (
            HOST_A + "[pools.p]\nimage = 'i'\nport = 'x' # HERE\n"
            "readiness = {kind = 'tcp', port = 8081}",
            "pools.p.port",
            "an integer is needed",
        ),
        (
            HOST_A + POOL + "liveness = {interval_seconds = 0} # HERE",
            "pools.hello.liveness.interval_seconds",
            "above 0",
        ),
    ],
)
def test_complains(text: str, path: str, message: str) -> None:
    """One mistake is one complaint: at its path and line, in words that help."""
    found = complaints(text)
    assert list(found) == [path]
    assert found[path].startswith("cannot ")
    assert message in found[path]


def test_extra_ports_can_be_asked() -> None:
    """Probes, warm-up and hooks may ask at any published port."""
    probe = "{kind = 'http', path = '/', port = 9990}"
    hooks = f"before_checkpoint = {probe}\nafter_restore = {probe}\n"
    asked = (
        f"readiness = {probe}\nwarmup = [{{path = '/', port = 9990}}]\nliveness = {{port = 9990}}"
    )
    read = parse(HOST_A + POOL + f"extra_ports = [9990]\n{hooks}{asked}", source="poold.toml")
    assert list(read.pools) == ["hello"]


def test_blames_no_default_that_stands_in_for_a_mistake() -> None:
    """A maximum of a wrong type says nothing about replicas that its default would refuse."""
    found = complaints(HOST_A + POOL + "replicas = 20\nmax = '30' # HERE\n")
    assert list(found) == ["pools.hello.max"]


def test_a_wrong_host_is_still_a_host() -> None:
    """A pool that names a host with a mistake is not told that there is none."""
    assert list(complaints("[hosts]\na = 1 # HERE\n" + POOL + "hosts = ['a']")) == ["hosts.a"]


def test_shows_no_value_that_may_be_a_secret() -> None:
    """Whatever is wrong with env, headers or the text itself, their values are not repeated."""
    secret = "hunter2"
    for text in (
        HOST_A + POOL + f"env = {{ A = ['{secret}'] }}",
        HOST_A + POOL + f'env = {{ A = "{secret}\\u0000" }}',
        HOST_A + POOL + f"env = '{secret}'",
        HOST_A + POOL + f"warmup = [{{path = '/', headers = {{A = \"{secret}\\r\"}}}}]",
        HOST_A + POOL + f"env = {{ A = '{secret}\n' }}",
    ):
        with pytest.raises(InvalidConfig) as caught:
            parse(text, source="x")
        assert secret not in f"{caught.value} {caught.value.detail} {caught.value.problems}"
        assert caught.value.__cause__ is None


def test_loads_a_file(tmp_path: Path) -> None:
    """A file with a byte order mark is read, and its name is in every complaint."""
    file = tmp_path / "poold.toml"
    file.write_bytes(b"\xef\xbb\xbf" + (HOST_A + POOL).encode())
    assert isinstance(load(file), Config)
    file.write_text("x = 1")
    with pytest.raises(InvalidConfig, match=str(file)) as caught:
        load(file)
    assert caught.value.lines()[0].startswith(f"{file}:1: ")


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "No such file"), (b"a = 'caf\xe9'", "byte 8 is not UTF-8")],
)
def test_refuses_what_is_no_text(tmp_path: Path, content: bytes | None, words: str) -> None:
    """A missing or garbled file is unreadable, not invalid."""
    file = tmp_path / "poold.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Refused, match=words) as caught:
        load(file)
    assert caught.value.code == "config.unreadable"


def test_the_annotated_example_explains_every_key() -> None:
    """The example is valid, and no key of any value is missing in it."""
    from poold.config.layout import BALANCERS, DAEMON_KEYS, HOST_KEYS, POOL_KEYS, balancer_keys
    from poold.config.shape import keys_of

    example = Path(__file__).parents[2] / "config" / "poold.toml"
    config = load(example)
    assert set(config.pools) == {"hello"}
    text = example.read_text()
    explained = {
        row.removeprefix("#").strip().split(" = ")[0] for row in text.split("\n") if " = " in row
    } | {row.strip("[] \n").split("]")[0].rpartition(".")[2] for row in text.split("\n")}
    nested = [
        Liveness,
        HttpProbe,
        TcpProbe,
        ExecProbe,
        HttpHook,
        ExecHook,
        WarmupRequest,
        Volume,
        Limits,
        Behind,
        Scaling,
        Autoscale,
    ]
    keys = {
        *DAEMON_KEYS,
        *HOST_KEYS,
        *(key for kind in BALANCERS for key in balancer_keys(kind)),
        *POOL_KEYS,
        *(key for cls in nested for key in keys_of(cls)),
    }
    assert keys - explained == set()


def test_the_example_shows_the_true_defaults() -> None:
    """What the example says in comments about the daemon is what the daemon does."""
    example = Path(__file__).parents[2] / "config" / "poold.toml"
    text = example.read_text()
    daemon_rows = text[text.index("[daemon]") : text.index("# -- hosts")].split("\n")
    shown = [row.removeprefix("# ") for row in daemon_rows if row.startswith("# ") and " = " in row]
    spoken = parse("[daemon]\n" + "\n".join(shown) + "\n" + HOST_A, source="x").daemon
    silent = parse(HOST_A, source="x").daemon
    different = {
        name
        for name in ("listen", "token_file", "state_dir", "socket", "socket_mode", "fleet",
                     "log_level", "reconcile_seconds", "action_deadline_seconds",
                     "build_deadline_seconds", "transfer_deadline_seconds")
        if getattr(spoken, name) != getattr(silent, name)
    }  # fmt: skip
    assert different == {"listen", "token_file"}
