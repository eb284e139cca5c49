"""What HAProxy answers is read whole or not at all."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from poold.balancers.haproxy.answers import (
    Connections,
    read_connections,
    read_figures,
    read_identity,
    read_old_workers,
    read_states,
    refusal,
)
from poold.errors import Permanent, Problem, Temporary

STATES = (
    "1\n"
    "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight"
    " srv_iweight srv_time_since_last_change srv_check_status srv_check_result"
    " srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn"
    " srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr"
    " srv_agent_port\n"
    "4 dyn 1 hello1 127.0.0.1 2 0 100 100 0 1 0 2 6 0 0 0 - 29090 - 0 0 - - 0\n"
    "4 dyn 2 six ::1 2 8 5 5 0 1 0 2 2 0 0 0 - 29091 - 0 0 - - 0\n"
    "5 slots 1 slot1 127.0.0.1 0 5 1 1 12 1 0 0 14 0 0 0 - 1 - 0 0 - - 0\n"
    "5 slots 2 slot2 127.0.0.1 2 4 100 1 1 15 3 4 6 0 0 0 - 29090 - 0 0 - - 0\n"
    "\n"
)
FIGURES = (
    "# pxname,svname,qcur,qmax,scur,smax,slim,stot,status,weight,type,check_desc,\n"
    'dyn,hello1,1,0,2,1,,5,UP 1/3,100,2,"a ""b"", c",\n'
    "dyn,BACKEND,7,0,,1,998,5,UP,100,1,,\n"
    "f,FRONTEND,,,0,1,998,5,OPEN,,0,,\n"
    "\n\n"
)
CONNECTIONS = (
    "# bkname/svname bkid/svid addr port - purge_delay used_cur used_max need_est unsafe_nb"
    " safe_nb idle_lim idle_cur idle_per_thr[2]\n"
    "dyn/hello1 4/1 127.0.0.1 29090 - 1000 2 2 2 0 0 0 0\n"
    "dyn/six 4/2 ::1 29091 - 1000 0 2 2 0 0 4 3 1 2\n"
    "\n"
)


def test_states_as_version_2_6_writes_them() -> None:
    """Addresses, weights and both kinds of state are found; how a slot began does not count."""
    one, six, free, taken = read_states(STATES)
    assert (one.name, one.address, one.port, one.weight) == ("hello1", "127.0.0.1", 29090, 100)
    assert (one.draining, one.in_maintenance, one.checks_are_off) == (False, False, False)
    assert (six.address, six.draining, six.checks_are_off) == ("::1", True, True)
    assert (free.in_maintenance, taken.in_maintenance) == (True, False)


def test_figures_of_servers_and_of_the_backend() -> None:
    """Sessions and queues are read, quoted commas are survived, frontends are left out."""
    server, backend = read_figures(FIGURES)
    assert (server.name, server.sessions, server.queue, server.requests) == ("hello1", 2, 1, 5)
    assert (server.status, server.is_backend) == ("UP 1/3", False)
    assert (backend.is_backend, backend.queue, backend.sessions) == (True, 7, 0)


def test_connections_whatever_the_number_of_threads() -> None:
    """The last header stands for none or many columns."""
    assert read_connections(CONNECTIONS) == (
        Connections(backend="dyn", name="hello1", used=2, idle=0),
        Connections(backend="dyn", name="six", used=0, idle=3),
    )


@pytest.mark.parametrize("text", [STATES, FIGURES, CONNECTIONS])
def test_a_list_that_was_cut_is_no_list(text: str) -> None:
    """Wherever an answer ends too early, nothing of it is believed."""
    read = {STATES: read_states, FIGURES: read_figures, CONNECTIONS: read_connections}[text]
    whole = text.rstrip("\n") + "\n\n"
    read(whole)
    for end in range(len(whole) - 1):
        with pytest.raises(Problem):
            read(whole[:end])


@pytest.mark.parametrize("read", [read_states, read_figures, read_connections])
@given(text=st.text(max_size=200) | st.text("1\n# ,-az", max_size=200))
def test_rubbish_is_a_problem(read: object, text: str) -> None:
    """Whatever is answered, there are values or a Problem, and no other failure."""
    assert callable(read)
    for answer in (text, f"1\n# {text}\n\n", f"{STATES[:-1]}{text}\n\n", f"# {text}\n\n"):
        with suppress(Temporary, Permanent):  # anything else fails
            read(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "\n",
        "",
        "New server registered.\n\n",
        "Server deleted.\n",
        "IP changed from '::1' to '::2', port changed from '1' to '2' by 'stats socket command'\n",
        "no need to change the addr, port changed from '1' to '2' by 'stats socket command'\n\n",
        "no need to change the addr by 'stats socket command'\n\n",
    ],
)
def test_what_is_no_refusal(answer: str) -> None:
    """Silence and what 2.6 says when it did as it was told."""
    assert refusal("set server b/s addr 127.0.0.1 port 2", answer) is None


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        ("Permission denied\n\n", Permanent, "balancer.denied"),
        ("Unknown command, but maybe one of …\n", Permanent, "balancer.too-old"),
        ("No such backend.\n", Permanent, "balancer.no-backend"),
        ("Can't find backend.\n\n", Permanent, "balancer.no-backend"),
        ("No such proxy.\n\n\n", Permanent, "balancer.no-backend"),
        ("unknown keyword 'frobnicate'.\n\n", Permanent, "balancer.bad-options"),
        ("No such server.\n", Temporary, "balancer.changed"),
        ("Already exists a server with the same name in backend.\n", Temporary, "balancer.changed"),
        (
            "Server still has connections attached to it, cannot remove it.\n",
            Temporary,
            "balancer.in-use",
        ),
        ("Can't find the target PID matching the prefix '@1'\n", Temporary, "balancer.unreachable"),
        ("Something new.\nand more\n", Temporary, "balancer.refused"),
    ],
)
def test_refusals_are_told_apart(answer: str, kind: type[Problem], code: str) -> None:
    """Whether trying again helps is known for what HAProxy is known to say."""
    problem = refusal("del server b/s", answer)
    assert isinstance(problem, kind)
    assert problem.code == code
    assert "del server b/s" in problem.message


def test_who_answers_is_told_from_others() -> None:
    """The process and when it began; an answer without them is none."""
    info = "Name: HAProxy\nPid: 12\nUptime: 0d 0h00m05s\nStart_time_sec: 1700000000\n\n"
    assert str(read_identity(info)) == "process 12 since 1700000000"
    for text in ("Pid: 12\n", "", "Permission denied\n"):
        with pytest.raises(Problem):
            read_identity(text)


def test_a_master_tells_which_workers_are_old() -> None:
    """Only those below their heading count."""
    text = (
        "#<PID>          <type>          <reloads>       <uptime>        <version>\n"
        "11              master          1               0d00h00m05s     2.6.12\n"
        "# workers\n"
        "14              worker          0               0d00h00m01s     2.6.12\n"
        "# old workers\n"
        "12              worker          1               0d00h00m05s     2.6.12\n"
        "# programs\n"
        "19              program         0               0d00h00m05s     -\n\n"
    )
    assert read_old_workers(text) == {12}
    with pytest.raises(Problem):
        read_old_workers("Unknown command: 'show proc'\n")
