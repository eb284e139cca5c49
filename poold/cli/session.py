"""Where the daemon is, as said by options, environment or a configuration file.

Flows in: what the user said. Flows out: a client. It reads no more of a configuration than the
socket's path, so that a mistake elsewhere in it does not keep anybody from asking.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from poold.client import DEFAULT_SOCKET, Client, Where
from poold.errors import Refused

if TYPE_CHECKING:  # imported where it is needed: asking for `ps` does not need it
    from pathlib import Path

DEFAULT_CONFIG = "/etc/poold/poold.toml"  # where the packaged daemon has its own


@dataclass
class Session:
    """The options that hold for every command; None where an option was not given."""

    socket: str | None = None
    url: str | None = None
    token_file: str | None = None
    config: str | None = None
    key: str | None = None
    if_revision: int | None = None
    default_config: str = DEFAULT_CONFIG
    default_socket: str = DEFAULT_SOCKET
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def client(self) -> Client:
        """Return a client for the daemon that is meant; connects to nothing."""
        return Client(self.where(), key=self.key or "", if_revision=self.if_revision)

    def where(self) -> Where:
        """Resolve: what was typed goes before the environment, that before the default."""
        url, socket, config = self._named()
        if url:
            token_file = self.token_file or self.environment.get("POOLD_TOKEN_FILE") or ""
            return Where(url=url, token_file=token_file)
        if socket:
            return Where(socket=socket)
        return Where(socket=socket_of(config) if config else self.default_socket)

    def names_a_daemon(self) -> bool:
        """Tell whether it was said which daemon is meant."""
        return any(self._named())

    def named_config(self) -> Path | None:
        """Return the configuration by which the daemon is named, None where it is not."""
        from pathlib import Path

        _, _, config = self._named()
        return Path(config) if config else None

    def served_config(self) -> Path:
        """Return the configuration of the daemon that is to be run."""
        from pathlib import Path

        return Path(self.config or self.environment.get("POOLD_CONFIG") or self.default_config)

    def _named(self) -> tuple[str | None, str | None, str | None]:
        """Return URL, socket and configuration as typed; as inherited where none was typed."""
        typed = (self.url, self.socket, self.config)
        if any(typed):
            return typed
        said = self.environment.get
        return (said("POOLD_URL"), said("POOLD_SOCKET"), said("POOLD_CONFIG"))


def socket_of(config: str) -> str:
    """Return the socket that a configuration names."""
    from pathlib import Path

    import tomli

    try:
        tree = tomli.loads(Path(config).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise Refused(
            "config.unreadable",
            f"cannot read the configuration {config}: {error.strerror}",
            hint="--socket names the daemon's socket without it",
        ) from error
    except ValueError as error:
        raise Refused(
            "config.invalid",
            f"cannot read the configuration {config}: {error}",
            hint=f"poold config check {config}",
        ) from error
    daemon = tree.get("daemon", {})
    named = daemon.get("socket") if isinstance(daemon, dict) else None
    return named if isinstance(named, str) else DEFAULT_SOCKET
