"""Opening an SSH connection to a host, with nothing taken on trust.

Flows in: how the host is reached. Flows out: a connection, or a problem in the operator's words.
The host's key must be pinned in the known_hosts file beforehand, the client's key is the
configured file and nothing else: no agent, no ~/.ssh. It refuses to know what runs over it.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

import asyncssh

from poold.errors import Permanent, Problem
from poold.hosts.wire import unreachable
from poold.model.fleet import Host

# Second line behind the pings: for connections that carry only a file
_KEEPALIVE_SECONDS = 5
_KEEPALIVE_COUNT = 2
# First choice before asyncssh's own order: a checkpoint passes through this process twice, and
# ChaCha20, first there, was measured to carry two thirds of what AES-GCM does.
_FAST_CIPHERS = "^aes256-gcm@openssh.com,aes128-gcm@openssh.com"

asyncssh.set_log_level(logging.WARNING)


async def connect(host: Host, *, timeout_seconds: float) -> asyncssh.SSHClientConnection:
    """Connect and authenticate. Raises Temporary("host.unreachable") or a Permanent problem."""
    pinned = _pinned_keys(host)
    key = _client_key(host)
    options: dict[str, Any] = {
        "username": host.user,
        "known_hosts": pinned,
        "client_keys": [key],
        "preferred_auth": "publickey",
        "config": None,
        "agent_path": None,
        "compression_algs": None,
        "encryption_algs": _FAST_CIPHERS,
        "connect_timeout": timeout_seconds,
        "login_timeout": timeout_seconds,
        "keepalive_interval": _KEEPALIVE_SECONDS,
        "keepalive_count_max": _KEEPALIVE_COUNT,
    }
    try:
        return await asyncssh.connect(host.address, host.port, **options)
    except (asyncssh.Error, OSError, ValueError) as error:
        raise _translated(host, pinned, error) from error


def _pinned_keys(host: Host) -> asyncssh.SSHKnownHosts:
    file = host.known_hosts_file
    if not file:
        raise Permanent(
            "host.key-unknown",
            f"cannot reach host {host.name}: no known_hosts file is configured",
            hint=f"set known_hosts_file of host {host.name}",
        )
    try:
        return asyncssh.read_known_hosts(file)
    except (OSError, ValueError) as error:
        raise Permanent(
            "host.key-unknown",
            f"cannot reach host {host.name}: cannot read {file}: {_reason(error)}",
            hint=f"pin the host's key: {_scan(host)} >> {file}, and compare it",
        ) from error


def _client_key(host: Host) -> asyncssh.SSHKey:
    hint = f"set key_file of host {host.name} to an unencrypted private key that poold may read"
    if not host.key_file:
        raise Permanent(
            "host.auth", f"cannot reach host {host.name}: no key_file is configured", hint=hint
        )
    try:
        return asyncssh.read_private_key(host.key_file)
    except (OSError, ValueError, asyncssh.Error) as error:
        raise Permanent(
            "host.auth",
            f"cannot reach host {host.name}: cannot read the key {host.key_file}: {_reason(error)}",
            hint=hint,
        ) from error


def _translated(host: Host, pinned: asyncssh.SSHKnownHosts, error: Exception) -> Problem:
    if isinstance(error, asyncssh.PermissionDenied):
        return Permanent(
            "host.auth",
            f"cannot reach host {host.name}: it refuses the key {host.key_file} for {host.user}",
            hint=f"add the key's public half to authorized_keys of {host.user} on {host.address}",
        )
    if isinstance(error, asyncssh.HostKeyNotVerifiable) or _no_common_host_key(error):
        return _untrusted(host, pinned)
    if isinstance(error, (asyncssh.KeyExchangeFailed, asyncssh.ProtocolNotSupported)):
        return Permanent("host.ssh", f"cannot reach host {host.name} by SSH: {_reason(error)}")
    where = f"{host.address} port {host.port}"
    return unreachable(host.name, f"{where}: {_reason(error)}")


def _no_common_host_key(error: Exception) -> bool:
    """Only algorithms of pinned keys are offered: a host with other keys has none in common."""
    return isinstance(error, asyncssh.KeyExchangeFailed) and "host key" in str(error).lower()


def _untrusted(host: Host, pinned: asyncssh.SSHKnownHosts) -> Permanent:
    file = host.known_hosts_file
    keys, authorities, *_ = pinned.match(host.address, host.address, host.port)
    if not keys and not authorities:
        return Permanent(
            "host.key-unknown",
            f"cannot trust host {host.name}: {file} has no key for {host.address}",
            hint=f"pin its key: {_scan(host)} >> {file}, and compare it with the host's own",
        )
    return Permanent(
        "host.key-changed",
        f"cannot trust host {host.name}: {host.address} has another key than the one in {file}",
        hint="find out why; if the host was reinstalled, remove its old line from "
        f"{file} and pin the new key: {_scan(host)} >> {file}",
    )


def _scan(host: Host) -> str:
    return f"ssh-keyscan -p {host.port} {host.address}"


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)  # asyncio's own texts are about its calls
    return str(error) or type(error).__name__
