"""Which host can take what another one froze."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from poold.agent.freezing import cpu_flags
from poold.model.compat import CPU_FLAGS, class_of, incompatible

HERE = {
    "machine": "x86_64", "runtime": "runc 1.3.6", "engine": "podman 5.8.6", "criu": "criu 4.2.1",
    "kernel": "6.12.41-amd64", CPU_FLAGS: "avx avx2 constant_tsc fpu hypervisor sse2 vmx",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"machine": "aarch64"}, "made on x86_64, the host is aarch64"),
        ({"runtime": "crun 1.28"}, "made with runc, the host has crun"),
        ({"runtime": "runc 1.1.0"}, None),
        ({"engine": "docker 28"}, "made with podman, the host has docker"),
        ({"engine": "podman 5.4.2"}, None),
        ({"criu": "criu 4.1.1"}, "made with CRIU 4.2, the host has the older 4.1"),
        ({"criu": "criu 4.2"}, None),
        ({"criu": "criu 5.0"}, None),
        ({"kernel": "6.6.3"}, "made with Linux 6.12, the host has the older 6.6"),
        ({"kernel": "6.12.0-rc1"}, None),
        ({"kernel": "7.0.1"}, None),
        ({CPU_FLAGS: "fpu sse2 avx"}, "it may use avx2, which the host's CPU lacks"),
        ({CPU_FLAGS: "avx avx2 avx512f fpu sse2"}, None),
        ({CPU_FLAGS: ""}, None),
        ({"criu": "", "runtime": "", "kernel": ""}, None),
    ],
)
def test_the_rules(change, reason):
    """Same machine, runtime, engine; CRIU and kernel not older; no instruction set less."""
    reasons = incompatible(HERE, {**HERE, **change})
    assert len(reasons) == (reason is not None)
    assert reason is None or reason in reasons[0]


def test_all_reasons_are_said_and_many_flags_are_counted():
    """A sentence that stays short."""
    old = {**HERE, "criu": "criu 3.17", "kernel": "5.10", CPU_FLAGS: "fpu"}
    made = {**HERE, CPU_FLAGS: "fpu a1 b2 c3 d4 e5 f6"}
    reasons = incompatible(made, old)
    assert len(reasons) == 3
    assert "a1 b2 c3 d4 and 2 more" in reasons[2]


def test_a_host_takes_what_it_made_itself():
    """With this machine's own flags."""
    facts = {**HERE, CPU_FLAGS: " ".join(cpu_flags())}
    assert incompatible(facts, facts) == ()
    assert incompatible(facts, {}) == ()
    assert incompatible({}, facts) == ()


FLAGS = st.frozensets(st.sampled_from(["avx", "avx2", "sse2", "vmx", "pti"])).map(" ".join)
FACTS = st.fixed_dictionaries(
    {
        "machine": st.sampled_from(["x86_64", "aarch64"]),
        "runtime": st.sampled_from(["runc 1.3", "crun 1.28"]),
        "engine": st.just("podman 5.8"),
        "criu": st.sampled_from(["criu 4.1", "criu 4.2.1", "criu 4.2.2"]),
        "kernel": st.sampled_from(["6.1.1", "6.12.1", "6.12.9"]),
        CPU_FLAGS: FLAGS.map(lambda flags: f"fpu {flags}"),
    }
)


@given(FACTS, FACTS, FACTS)
def test_fitting_is_an_order(one, two, three):
    """Every host fits itself, and what fits by a host between fits at once."""
    assert incompatible(one, one) == ()
    if not incompatible(one, two) and not incompatible(two, three):
        assert incompatible(one, three) == ()


def test_a_class_in_words():
    """Versions as far as they matter."""
    assert class_of(HERE) == "x86_64, runc, criu 4.2, linux 6.12"
    assert class_of({}) == ""
