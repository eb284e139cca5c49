"""What a host has to be for a checkpoint to be restored there: pure.

In: the facts of the host that froze it, and those of the one that shall thaw it. Out: the reasons
why it cannot; no reason is no promise, but CRIU is not asked for what it is known to refuse. A fact
that is not known says nothing. Standard library only, Python 3.9.

The rules, and where they come from:

machine  the same: an image is the memory and the registers of one architecture.
runtime  the same program: runc and crun name the mounts of an image differently, and neither
         restores the other's ("No mapping for … mountpoint"). Its version does not matter.
engine   the same program: the archive is its format.
criu     not older than the one that froze it, by major and minor version: formats of images only
         grow, and an older CRIU misreads a newer one (4.2 counts pages in a field that 4.1 does not
         know: checkpoint-restore/criu#2847). Patch levels do not touch them.
kernel   not older, by major and minor version: CRIU carries the application over to another vDSO,
         but what a newer kernel gave the application (rseq, kinds of files, flags of mappings)
         cannot be made on an older one.
cpu      every instruction set that the application could have chosen by: libraries and JIT
         compilers choose once, and a thawed one dies of SIGILL at the first instruction that is not
         there. CRIU's own check (--cpu-cap) compares the same. Flags that the kernel makes up, or
         that only a hypervisor, the kernel or a profiler can use, do not matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Optional

from poold.model.fleet import Manifest

CPU_FLAGS = "cpu_flags"  # the fact that lists them, separated by spaces

# Made up by the kernel, or what it knows of clocks.
_MADE_UP = """
    aperfmperf arch_perfmon arat amd_lbr_v2 art bts constant_tsc cpuid cpuid_fault debug_swap
    extd_apicid hw_pstate hypervisor ida lahf_lm_hv mtherm nonstop_tsc nonstop_tsc_s3
    nopl overflow_recov pebs perfmon_v2 perfctr_core perfctr_llc perfctr_nb ptsc rep_good
    ring3mwait succor smca split_lock_detect topoext tsc_adjust tsc_deadline_timer
    tsc_known_freq tsc_reliable xtopology
"""
# Power and heat.
_POWER = """
    acc_power cpb dtherm epb est hfi hwp hwp_act_window hwp_epp hwp_notify hwp_pkg_req pln
    proc_feedback pts tm tm2
"""
# Mitigations, which come and go with microcode and kernel options.
_MITIGATIONS = """
    arch_capabilities bhi_ctrl flush_l1d ibpb ibpb_exit_to_user ibrs ibrs_enhanced intel_ppin
    invpcid_single l1tf_pteinv md_clear pti retpoline retpoline_amd retpoline_lfence rsb_ctxsw
    srbds_ctrl srso ssb_no ssbd stibp tsx_force_abort use_ibpb virt_ssbd zen verw_clear
"""
# Virtual machines.
_VIRTUAL = """
    avic decodeassists ept ept_ad flexpriority flushbyasid lbrv npt nrip_save pausefilter
    pfthreshold sev sev_es sev_snp svm svm_lock svme_addr_chk tdx_guest tpr_shadow tsc_scale
    v_spec_ctrl v_vmsave_vmload vgif vmcb_clean vme vmmcall vmx vnmi vpid x2avic
"""
# Of the kernel alone: paging, debugging, monitoring, machine checks.
_OF_KERNEL = """
    acpi apic bus_lock_detect cat_l2 cat_l3 cdp_l2 cdp_l3 cqm cqm_llc cqm_mbm_local
    cqm_mbm_total cqm_occup_llc dca de ds_cpl dtes64 dts ibs intel_pt invpcid la57 lbr lwp mba
    mca mce monitor mtrr mwaitx nx osvw pae pat pcid pdcm pdpe1gb pge pse pse36 rdt_a sme smap
    smep smx skinit ss tce umip wdt x2apic xtpr
"""
_NOT_OF_PROGRAMS = frozenset(f"{_MADE_UP}{_POWER}{_MITIGATIONS}{_VIRTUAL}{_OF_KERNEL}".split())
_RELEVANT = ("machine", "runtime", "engine", "criu", "kernel", CPU_FLAGS)
_VERSION = re.compile(r"(\d+)\.(\d+)")


def facts_of(manifest: Manifest) -> dict[str, str]:
    """Return what is known of the host that froze a generation, as a host tells its own facts."""
    return {
        "machine": manifest.machine,
        "runtime": manifest.runtime,
        "engine": manifest.engine,
        "criu": manifest.criu,
        "kernel": manifest.kernel,
        CPU_FLAGS: " ".join(manifest.cpu_flags),
    }


def relevant(facts: Mapping[str, str]) -> tuple[str, ...]:
    """Return what alone decides: hosts with equal ones can take the same."""
    return tuple(facts.get(name, "") for name in _RELEVANT)


def incompatible(made_with: Mapping[str, str], facts: Mapping[str, str]) -> tuple[str, ...]:
    """Return why what was frozen on one host cannot be thawed on another, a sentence part each."""
    return _reasons(relevant(made_with), relevant(facts))


def why_not_on(manifest: Manifest, facts: Mapping[str, str]) -> tuple[str, ...]:
    """Return why a host with these facts cannot take a generation; empty: it can."""
    return incompatible(facts_of(manifest), facts)


def class_of(facts: Mapping[str, str]) -> str:
    """Return hosts' class in words, as far as it matters here: "x86_64, runc, criu 4.2, …"."""
    criu, kernel = _version(facts.get("criu", "")), _version(facts.get("kernel", ""))
    parts = (
        facts.get("machine", ""),
        _program(facts.get("runtime", "")),
        f"criu {criu[0]}.{criu[1]}" if criu else "",
        f"linux {kernel[0]}.{kernel[1]}" if kernel else "",
    )
    return ", ".join(part for part in parts if part)


@lru_cache(maxsize=4096)  # hundreds of hosts ask the same of a few generations, every cycle
def _reasons(made_with: tuple[str, ...], facts: tuple[str, ...]) -> tuple[str, ...]:
    machine, runtime, engine, criu, kernel, flags = made_with
    its_machine, its_runtime, its_engine, its_criu, its_kernel, its_flags = facts
    reasons = []
    if machine and its_machine and machine != its_machine:
        reasons.append(f"it was made on {machine}, the host is {its_machine}")
    for was, is_ in ((runtime, its_runtime), (engine, its_engine)):
        if was and is_ and _program(was) != _program(is_):
            reasons.append(f"it was made with {_program(was)}, the host has {_program(is_)}")
    for name, was, is_ in (("CRIU", criu, its_criu), ("Linux", kernel, its_kernel)):
        needed, there = _version(was), _version(is_)
        if needed and there and there < needed:
            reasons.append(f"it was made with {name} {_dotted(needed)}, the host has the older"
                           f" {_dotted(there)}")  # fmt: skip
    missing = sorted({*flags.split()} - {*its_flags.split()} - _NOT_OF_PROGRAMS)
    if missing and its_flags:
        shown = " ".join(missing[:4]) + (f" and {len(missing) - 4} more" if missing[4:] else "")
        reasons.append(f"it may use {shown}, which the host's CPU lacks")
    return tuple(reasons)


def _program(text: str) -> str:
    return text.partition(" ")[0]


def _version(text: str) -> Optional[tuple[int, int]]:
    found = _VERSION.search(text)
    return (int(found.group(1)), int(found.group(2))) if found else None


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
