"""HAProxy, through its runtime API.

A pipeline: `runtime` asks, `answers` reads, `plan` decides, `commands` writes; `balancer` is the
story. All but `runtime` and `balancer` are pure.
"""

from __future__ import annotations

from poold.balancers.haproxy.balancer import HaproxyBalancer
from poold.balancers.haproxy.runtime import Runtime, dial

__all__ = ["HaproxyBalancer", "Runtime", "dial"]
