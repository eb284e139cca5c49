"""`poold doctor`: through the daemon, and without it."""

from __future__ import annotations

import json

import pytest

from poold.cli.session import Session


def _write_config(tmp_path, host=""):
    file = tmp_path / "poold.toml"
    file.write_text(
        f"""
[daemon]
state_dir = "{tmp_path}/state"
socket = "{tmp_path}/other.sock"
{host}
"""
    )
    return str(file)


def test_the_running_daemon_is_asked(poold):
    """Without a configuration the daemon examines; warnings alone are no failure."""
    ran = poold("doctor")
    assert ran.code == 0
    assert "warning" in ran.out
    assert "way out: run NTP" in ran.out
    assert ran.out.endswith("errors: 0, warnings: 2\n")


def test_without_a_daemon_the_way_out_is_a_configuration(poold, tmp_path):
    """Neither a daemon nor a configuration: the hint says how to examine without it."""
    session = Session(default_config=str(tmp_path / "none"))
    ran = poold("doctor", "--socket", str(tmp_path / "nobody"), session=session)
    assert ran.code == 3
    assert "poold doctor --config FILE" in ran.err


def test_a_broken_configuration_is_a_finding(poold, tmp_path):
    """Each mistake of the configuration is an error under "daemon", and the exit code is 1."""
    ran = poold("doctor", "--config", _write_config(tmp_path, "colour = 1\nsise = 2"), "--json")
    assert ran.code == 1
    findings = json.loads(ran.out)["hosts"]["daemon"]
    assert len(findings) >= 2
    assert {finding["level"] for finding in findings} == {"error"}
    assert any("colour" in finding["what"] for finding in findings)


def test_a_configuration_that_is_not_there_is_a_finding(poold, tmp_path):
    """A file that cannot be read is said to be so."""
    ran = poold("doctor", "--config", str(tmp_path / "none.toml"))
    assert ran.code == 1
    assert "cannot read the configuration" in ran.out


def test_without_a_daemon_its_usual_configuration_is_used(poold, tmp_path):
    """Where the packaged configuration is there, hosts are examined by it, and that is said."""
    session = Session(
        default_config=_write_config(tmp_path, "colour = 1"),
        default_socket=str(tmp_path / "nobody"),
        environment={},
    )
    ran = poold("doctor", session=session)
    assert ran.code == 1
    assert f"examining by {tmp_path}/poold.toml" in ran.err
    assert "colour" in ran.out


@pytest.mark.parametrize("option", ["--socket", "--url"])
def test_no_other_daemon_is_examined_than_the_one_that_was_named(poold, tmp_path, option):
    """A place that does not answer is said to be away; nothing else is looked at instead."""
    session = Session(default_config=_write_config(tmp_path, "colour = 1"))
    nobody = "http://127.0.0.1:1" if option == "--url" else str(tmp_path / "nobody")
    ran = poold("doctor", option, nobody, session=session)
    assert ran.code == 3
    assert "poold doctor --config FILE" in ran.err


def test_a_typed_socket_goes_before_the_environments_configuration(poold, daemon, tmp_path):
    """With POOLD_CONFIG set, --socket still names the daemon that is asked."""
    session = Session(environment={"POOLD_CONFIG": _write_config(tmp_path, "colour = 1")})
    ran = poold("doctor", "--socket", str(daemon.socket), session=session)
    assert ran.code == 0
    assert "way out: run NTP" in ran.out
