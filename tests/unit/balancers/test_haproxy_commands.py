"""No name, address or option becomes another command."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from poold.balancers.haproxy import commands
from poold.errors import Refused
from poold.model.haproxy_words import why_no_options

ANY = st.text(max_size=20) | st.text("a1; \\\n\r\0/@<:.", max_size=20)


@given(backend=ANY, server=ANY, address=ANY, options=ANY)
def test_a_line_is_one_command(backend: str, server: str, address: str, options: str) -> None:
    """Whatever the words are, there is one line of printable words or a refusal."""
    made = [
        lambda: commands.add(backend, server, "10.0.0.1", 80, weight=1, options=options),
        lambda: commands.add("b", "s", address, 80, weight=1, options="check"),
        lambda: commands.move(backend, server, address, 80),
        lambda: commands.move("b", "s", address, 80),
        lambda: commands.ready(backend, server),
        lambda: commands.delete("b", server),
        lambda: commands.show_states(backend),
    ]
    for make in made:
        with suppress(Refused):
            line = make()
            assert line.isascii()
            assert line.isprintable()
            assert not set(line) & set(";\\<")


@pytest.mark.parametrize(
    ("address", "written"),
    [("10.0.0.1", "10.0.0.1:80"), ("2001:DB8::1", "[2001:db8::1]:80")],
)
def test_addresses_of_both_kinds(address: str, written: str) -> None:
    """IPv6 goes into brackets."""
    line = commands.add("b", "s", address, 80, weight=5, options=" check  inter 1s ")
    assert line == f"add server b/s {written} check inter 1s weight 5"


@pytest.mark.parametrize("address", ["web1.example.com", "", "10.0.0", "fe80::1%eth0", "10.0.0.1;"])
def test_names_are_no_addresses(address: str) -> None:
    """HAProxy would take a name, and never resolve it."""
    with pytest.raises(Refused) as caught:
        commands.endpoint(address, 80)
    assert caught.value.code == "balancer.bad-address"


@pytest.mark.parametrize(
    "options", ["weight 3", "check disabled", "track a/b", "check;quit", "a\tb"]
)
def test_words_that_are_not_the_operators_to_say(options: str) -> None:
    """What poold says itself, and what is no word, is refused."""
    assert why_no_options(options)
