"""The routes as data: the server, the OpenAPI document and the tests read the same table."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta

from poold.api import (
    alert_messages,
    alertmanager,
    discovery,
    hook_messages,
    hooks,
    messages,
    stream,
    views,
)
from poold.api.ports import Ports
from poold.api.views import Answer, Call, Stream
from poold.model.events import Event, Explanation
from poold.model.fleet import Change, HostStatus, Replica

View = Callable[[Ports, Call], Coroutine[Any, Any, Answer | Stream]]
Method = Literal["GET", "PUT", "POST", "DELETE"]

LONGEST_WAIT_SECONDS = 60.0
MOST_CHANGES = 500
MOST_LOG_LINES = 10_000
MOST_EVENTS = 1000
IDEMPOTENCY_KEY = "Idempotency-Key"
IF_MATCH = "If-Match"


@dataclass(frozen=True)
class Query:
    """A query parameter; `kind` bounds it, `default` stands in where it is left out."""

    name: str
    kind: Any
    default: Any
    description: str


@dataclass(frozen=True)
class Route:
    """One method of one path, and everything there is to know about it.

    `answers` maps statuses to the type of the body; bytes mean text. `refusals` are the statuses
    of problems beyond those that every route may answer. `open` routes need no token on TCP.
    `streams` is the type of each server-sent event, `tagged` says that the answer has an ETag.
    """

    method: Method
    path: str
    view: View
    summary: str
    answers: dict[int, Any]
    body: Any = None
    largest_body_bytes: int | None = None  # None: what the server takes of any
    query: tuple[Query, ...] = ()
    refusals: tuple[int, ...] = ()
    open: bool = False
    asks: bool = False  # changes nothing, whatever its method
    streams: Any = None
    tagged: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """The request headers that it minds, and what they mean."""
        if self.changes_something:
            return {
                IDEMPOTENCY_KEY: "The same key and request within a day: the same change again.",
                IF_MATCH: "The ETag of the pool or host; another one by now is refused with 412.",
            }
        if self.streams is not None:
            return {stream.LAST_EVENT_ID: "Go on after this event; goes before `after`."}
        return {}

    @property
    def operation(self) -> str:
        """A stable name for generated clients."""
        return self.view.__name__

    @property
    def path_parameters(self) -> tuple[str, ...]:
        """The names in braces."""
        return tuple(part[1:-1] for part in self.path.split("/") if part.startswith("{"))

    @property
    def changes_something(self) -> bool:
        """Whether it accepts a wish."""
        return self.method != "GET" and not self.asks


_WISHED = {200: Change, 202: Change}
_POOL = Query("pool", str | None, None, "Only those of this pool.")
_REASON = Query("reason", str, "", "Why, for whoever reads the change later; one line.")

ROUTES: tuple[Route, ...] = (
    Route(
        "GET", "/v1/health", views.health, "The daemon lives; how its fleet is",
        {200: messages.Health}, open=True,
    ),
    Route("GET", "/metrics", views.metrics, "Metrics for Prometheus", {200: bytes}, open=True),
    Route(
        "GET", "/v1/doctor", views.doctor, "Examine every host; takes seconds",
        {200: messages.DoctorView},
    ),
    Route("GET", "/v1/pools", views.pools, "All pools", {200: messages.PoolList}),
    Route(
        "GET", "/v1/pools/{pool}", views.pool, "One pool with its replicas",
        {200: messages.PoolView}, refusals=(404,), tagged=True,
    ),
    Route(
        "GET", "/v1/pools/{pool}/scale", views.scale, "Replicas wished, ready and allowed",
        {200: messages.ScaleView}, refusals=(404,), tagged=True,
    ),
    Route(
        "PUT", "/v1/pools/{pool}/scale", views.put_scale, "Wish for a number of replicas",
        _WISHED, body=messages.ScaleRequest, refusals=(404, 409, 422),
    ),
    Route(
        "GET", "/v1/pools/{pool}/load", hooks.load,
        "Figures to scale by, for KEDA's metrics-api scaler for example",
        {200: hook_messages.LoadView}, refusals=(404,),
    ),
    Route(
        "GET", "/v1/job/{pool}/scale", hooks.job, "The pool as Nomad shows a job's scale",
        {200: hook_messages.JobScaleView}, refusals=(404,),
    ),
    Route(
        "POST", "/v1/job/{pool}/scale", hooks.scale_job,
        "Wish for a number of replicas as Nomad's scalers do, within the pool's limits",
        _WISHED, body=hook_messages.JobScaleRequest, refusals=(404, 409, 422),
    ),
    Route(
        "POST", "/v1/hooks/alertmanager", alertmanager.alertmanager,
        "Alertmanager's webhook: do what the alerts' annotations ask for, each once",
        {200: alert_messages.AlertsView}, body=alert_messages.AlertsRequest,
        largest_body_bytes=4 << 20,
    ),
    Route(
        "POST", "/v1/pools/{pool}/replicas", views.restore, "Wish for one more replica",
        _WISHED, body=messages.RestoreRequest, refusals=(404, 409, 422),
    ),
    Route(
        "POST", "/v1/pools/{pool}/checkpoints", views.checkpoint, "Wish for a new generation",
        _WISHED, body=messages.CheckpointRequest, refusals=(404, 409, 422),
    ),
    Route(
        "POST", "/v1/pools/{pool}/imports", views.import_archive,
        "Wish for a generation made of an archive that podman exported",
        _WISHED, body=messages.ImportRequest, refusals=(404, 409, 422),
    ),
    Route(
        "POST", "/v1/pools/{pool}/roll", views.roll,
        "Replace the replicas by those of the newest generation that fits, or of another one",
        _WISHED, body=messages.RollRequest, refusals=(404, 409, 422),
    ),
    Route(
        "POST", "/v1/pools/{pool}/rollback", views.rollback,
        "Replace the replicas by those of an older generation, and hold the pool there",
        _WISHED, body=messages.RollRequest, refusals=(404, 409, 422),
    ),
    Route(
        "GET", "/v1/pools/{pool}/generations", views.generations, "A pool's generations",
        {200: messages.GenerationList}, refusals=(404,),
    ),
    Route(
        "GET", "/v1/replicas", views.replicas, "All replicas, or a pool's",
        {200: messages.ReplicaList}, query=(_POOL,), refusals=(404,),
    ),
    Route(
        "GET", "/v1/replicas/{replica}", views.replica, "One replica",
        {200: Replica}, refusals=(404,),
    ),
    Route(
        "GET", "/v1/replicas/{replica}/ready", hooks.ready,
        "For balancers' checks: 200 while it takes traffic, 503 while it does not",
        {200: hook_messages.ReadyView}, refusals=(404,), open=True,
    ),
    Route(
        "DELETE", "/v1/replicas/{replica}", views.remove, "Wish for this replica to go",
        _WISHED, query=(_REASON,), refusals=(404, 409, 422),
    ),
    Route(
        "POST", "/v1/replicas/{replica}/move", views.move,
        "Wish for this replica to go on running on another host",
        _WISHED, body=messages.MoveRequest, refusals=(404, 409, 422),
    ),
    Route(
        "GET", "/v1/replicas/{replica}/logs", views.logs, "The last lines of its output",
        {200: messages.LogView},
        query=(
            Query(
                "tail", Annotated[int, Meta(ge=1, le=MOST_LOG_LINES)], 100, "How many lines."
            ),
        ),
        refusals=(404, 409),
    ),
    Route(
        "GET", "/v1/discovery/prometheus", discovery.prometheus,
        "Ready replicas as scrape targets, for Prometheus' http_sd",
        {200: tuple[discovery.TargetGroup, ...]},
    ),
    Route(
        "GET", "/v1/discovery/traefik", discovery.traefik,
        "A service for each pool, for Traefik's HTTP provider", {200: discovery.TraefikView},
    ),
    Route(
        "POST", "/v3/discovery:endpoints", discovery.envoy,
        "A cluster for each pool, for Envoy's endpoint discovery over REST",
        {200: discovery.DiscoveryView}, body=discovery.DiscoveryRequest, asks=True,
    ),
    Route("GET", "/v1/hosts", views.hosts, "All hosts", {200: messages.HostList}),
    Route(
        "GET", "/v1/hosts/{host}", views.host, "One host", {200: HostStatus}, refusals=(404,),
        tagged=True,
    ),
    Route(
        "GET", "/v1/changes", views.changes, "Changes, the newest first",
        {200: messages.ChangeList},
        query=(
            _POOL,
            Query("limit", Annotated[int, Meta(ge=1, le=MOST_CHANGES)], 50, "How many at most."),
        ),
    ),
    Route(
        "GET", "/v1/changes/{change}", views.change,
        "One change; with `wait` the answer comes when there is news of it",
        {200: Change},
        query=(
            Query(
                "wait", Annotated[float, Meta(ge=0, le=LONGEST_WAIT_SECONDS)], 0.0,
                "Seconds to wait for news at most.",
            ),
            Query(
                "after", Annotated[int, Meta(ge=-1)] | None, None,
                "News is a seq above this one; left out, only the change's end is news.",
            ),
        ),
        refusals=(404,),
    ),
    Route(
        "POST", "/v1/hosts/{host}/cordon", views.cordon,
        "Have no new replica placed on a host; those that run there stay",
        _WISHED, body=messages.HostRequest, refusals=(404, 409),
    ),
    Route(
        "POST", "/v1/hosts/{host}/uncordon", views.uncordon,
        "Have replicas placed on a host again",
        _WISHED, body=messages.HostRequest, refusals=(404, 409),
    ),
    Route(
        "POST", "/v1/hosts/{host}/pardon", views.pardon,
        "Have quarantined generations tried on a host again",
        _WISHED, body=messages.PardonRequest, refusals=(404, 409),
    ),
    Route(
        "POST", "/v1/hosts/{host}/fence", views.fence,
        "Take it that a host out of reach is dead: its replicas come up elsewhere",
        _WISHED, body=messages.LetGoRequest, refusals=(404, 409),
    ),
    Route(
        "POST", "/v1/hosts/{host}/remove", views.remove_host,
        "Forget a host that left the configuration: its replicas come up elsewhere",
        _WISHED, body=messages.LetGoRequest, refusals=(404, 409),
    ),
    Route(
        "GET", "/v1/pools/{pool}/explain", views.explain,
        "Why the pool is as it is and what it waits for",
        {200: Explanation}, refusals=(404,),
    ),
    Route(
        "GET", "/v1/events", stream.events,
        "What happens, as server-sent events; with `follow=0` a list of what happened",
        {200: messages.EventList},
        query=(
            _POOL,
            Query(
                "after", Annotated[int, Meta(ge=0, le=2**62)] | None, None,
                "Only those with a higher id; left out, a stream begins with what happens next"
                " and a list has the newest.",
            ),
            Query("follow", bool, True, "Whether to go on."),
            Query(
                "limit", Annotated[int, Meta(ge=1, le=MOST_EVENTS)], 100,
                "How many at most; a stream has no end.",
            ),
        ),
        streams=Event,
    ),
    Route(
        "GET", "/v1/audit", views.audit,
        "Accepted changing calls, the newest first: who, what, when, from where, why",
        {200: messages.CallList},
        query=(
            _POOL,
            Query("limit", Annotated[int, Meta(ge=1, le=MOST_CHANGES)], 50, "How many at most."),
        ),
    ),
)  # fmt: skip
