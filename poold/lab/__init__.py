"""Throw-away hosts on one machine: small Debian systems with systemd as their PID 1."""

from poold.lab.lab import Lab

__all__ = ["Lab"]
