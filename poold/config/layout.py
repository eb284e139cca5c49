"""How the file is laid out, where that differs from how the values are.

Hosts, balancers and pools are named by the keys of their tables, and a pool's table is flat: the
application's keys stand beside the pool's own. It knows no rule beyond that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Literal, get_args

from poold.config.shape import Key, keys_of
from poold.config.values import DaemonConfig
from poold.model.application import Application
from poold.model.balancing import AnyBalancer, Haproxy
from poold.model.fleet import Host, Pool

REPLICA_NAME_KEY: Final = "name"

DAEMON_KEYS: Final[Mapping[str, Key]] = keys_of(DaemonConfig)
APPLICATION_KEYS: Final[Mapping[str, Key]] = keys_of(Application)
HOST_KEYS: Final[Mapping[str, Key]] = {
    name: key for name, key in keys_of(Host).items() if name != "name"
}
BALANCERS: Final[Mapping[str, type[AnyBalancer]]] = {
    get_args(keys_of(cls)["kind"].hint)[0]: cls for cls in get_args(AnyBalancer)
}


def balancer_keys(kind: object) -> Mapping[str, Key]:
    """Return the keys of a balancer's table; of what is no kind, those of the usual one."""
    cls: type = BALANCERS.get(kind, Haproxy) if isinstance(kind, str) else Haproxy
    keys = {name: key for name, key in keys_of(cls).items() if name != "name"}
    return {**keys, "kind": replace(keys["kind"], hint=Literal[tuple(BALANCERS)])}


def _pool_keys() -> Mapping[str, Key]:
    own = {name: key for name, key in keys_of(Pool).items() if name not in ("name", "application")}
    own[REPLICA_NAME_KEY] = own.pop("replica_name")
    for name in ("hosts", "builder", "replicas"):  # what they are by default depends on others
        own[name] = replace(own[name], default=_unsaid)
    return {**APPLICATION_KEYS, **own}


def _unsaid() -> Any:
    return None


POOL_KEYS: Final = _pool_keys()


def pool_from(name: str, values: dict[str, Any], all_hosts: tuple[str, ...]) -> Pool:
    """Build a pool from its table's values; what was left out depends on the rest."""
    application = {key: value for key, value in values.items() if key in APPLICATION_KEYS}
    own = {key: value for key, value in values.items() if key not in APPLICATION_KEYS}
    if own["hosts"] is None:
        own["hosts"] = all_hosts
    if own["builder"] is None:
        own["builder"] = own["hosts"][0] if own["hosts"] else ""
    if own["replicas"] is None:
        own["replicas"] = max(0, own["min"])
    own["replica_name"] = own["replica_name"] or name + "{n}"
    return Pool(name=name, application=Application(**application), **own)  # type: ignore[arg-type]
