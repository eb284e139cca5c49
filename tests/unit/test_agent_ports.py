"""Ports for replicas: free ones, each handed out once."""

from __future__ import annotations

import socket

import pytest

from poold.agent.ports import PortRange, Ports, bind_address, is_free
from poold.errors import Problem, Refused


@pytest.fixture
def three() -> PortRange:
    """Return a range of three ports that were free a moment ago."""
    for first in range(23900, 24900, 3):
        if all(is_free("127.0.0.1", port) for port in range(first, first + 3)):
            return PortRange(first, first + 2)
    raise AssertionError("no three free ports in a row")


def test_a_range_is_read_or_refused() -> None:
    """A single port is a range too; what is no range is refused with an example."""
    assert PortRange.parse("20000-20999") == PortRange(20000, 20999)
    assert list(PortRange.parse("20000")) == [20000]
    for bad in ("", "x", "2-1", "0-5", "1-70000", "1-2-3"):
        with pytest.raises(Refused, match="cannot read the port range"):
            PortRange.parse(bad)


def test_two_reservations_at_once_never_share_a_port(three: PortRange) -> None:
    """What is reserved is passed over until it is given back."""
    ports = Ports()
    none: frozenset[int] = frozenset()
    with (
        ports.reserve(three, 1, address="127.0.0.1", taken=none) as first,
        ports.reserve(three, 2, address="127.0.0.1", taken=none) as others,
    ):
        assert sorted((*first, *others)) == list(three)
    with ports.reserve(three, 3, address="127.0.0.1", taken=none) as again:
        assert list(again) == list(three)


def test_recorded_and_strangers_ports_are_passed_over(three: PortRange) -> None:
    """A port on record is kept for its frozen replica; a listener is found by trying."""
    with socket.create_server(("127.0.0.1", three.first)):
        taken = frozenset({three.first + 1})
        with Ports().reserve(three, 1, address="127.0.0.1", taken=taken) as found:
            assert found == (three.last,)
        with (
            pytest.raises(Problem) as caught,
            Ports().reserve(three, 2, address="127.0.0.1", taken=taken),
        ):
            pass
    assert caught.value.code == "host.ports-exhausted"


def test_an_address_of_another_machine_means_all_addresses() -> None:
    """Behind a translating router the published address is not the host's own."""
    assert bind_address("127.0.0.1") == "127.0.0.1"
    assert bind_address("192.0.2.1") == ""
    assert bind_address("replicas.example.org") == ""
