"""The demo's run: one lab, one daemon, the article's commands and poold's beside each other.

Flows in: a lab that is up and the address of poold's API. Flows out: `Results`. Every step is
said on standard error as it happens.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from poold.bench.http import get
from poold.client import Client
from poold.demo.article import Article, Took
from poold.demo.report import Counted, Moved, OtherWay, Results
from poold.errors import Permanent, Temporary, problem_from_json
from poold.model.fleet import Change, Replica

COUNT_PATH = "/hello/"
_CHANGE_DEADLINE_SECONDS = 600.0
_NAME_OF_RUN = "article"
_WITHOUT_PERCENT = re.compile(r" \d+ %$")


def say(text: str) -> None:
    """Tell the reader what happens next."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """The demo over one pool. `runs` is how often each way of starting is measured."""

    app: str
    pool: str
    client: Client
    article: Article
    runs: int
    tmpfs_pool: str | None = None  # the same application, what it writes on tmpfs
    say: Callable[[str], None] = say

    def tell(self) -> Results:
        """Run everything in order; what fails stops it and leaves the lab for a look."""
        self.article.prepare()
        self.say(f"\n1. {self.app} by hand: podman run, podman container checkpoint -e")
        cold = [self._cold_start()]
        checkpoint = self.article.checkpoint(_NAME_OF_RUN)
        self.say(f"   cold start {cold[0].seconds:.2f} s, checkpoint {checkpoint:.2f} s")

        self.say("\n2. poold: a warm checkpoint and three replicas on two hosts")
        self._settle(self.client.scale(self.pool, replicas=3))
        counted = [self._count(_restored(one)) for one in self.client.replicas(self.pool)]
        for one in counted:
            numbers = ", ".join(map(str, one.counters))
            self.say(f"   {one.name} on {one.host} at {one.address} counts {numbers}, …")

        self.say(f"\n3. the same start three ways, in turn, {self.runs} times")
        by_article, by_poold = [], []
        for run in range(self.runs):
            if run:
                cold.append(self._cold_start())
                self.article.remove(_NAME_OF_RUN)
            by_article.append(self.article.restore(f"{_NAME_OF_RUN}{run}"))
            self.article.remove(f"{_NAME_OF_RUN}{run}")
            by_poold.append(self._restore_once())
            self.say(
                f"   cold {cold[-1].seconds:.2f} s   article {by_article[-1].seconds:.2f} s"
                f"   poold {by_poold[-1].seconds:.2f} s"
            )
        article_bytes = self.article.archive_bytes()
        self.article.clean()

        manifest = self.client.generations(self.pool)[0].manifest
        return Results(
            app=self.app,
            cold_seconds=[took.seconds for took in cold],
            article_seconds=[took.seconds for took in by_article],
            restore_seconds=[took.seconds for took in by_poold],
            cold_phases=[took.phases for took in cold],
            article_phases=[took.phases for took in by_article],
            restore_phases=[took.phases for took in by_poold],
            article_checkpoint_seconds=checkpoint,
            build_phases=dict(manifest.phases),
            checkpoint_bytes=manifest.archive_bytes,
            packed_bytes=manifest.packed_bytes,
            article_bytes=article_bytes,
            replicas=counted,
            move=self._move(counted[0]),
            on_tmpfs=self._other_way(self.tmpfs_pool) if self.tmpfs_pool else None,
        )

    def _cold_start(self) -> Took:
        self.article.remove(_NAME_OF_RUN)
        return self.article.start_cold(_NAME_OF_RUN)

    def _restore_once(self) -> Took:
        """Restore one more replica, ask it once, and remove it again.

        The seconds are from the call of the API to the news that it answered its probe at its
        published address.
        """
        before = {replica.name for replica in self.client.replicas(self.pool)}
        began = time.monotonic()
        self._settle(self.client.restore(self.pool, host=self.article.host), quiet=True)
        seconds = time.monotonic() - began
        (new,) = [one for one in self.client.replicas(self.pool) if one.name not in before]
        get(_address(_restored(new)), COUNT_PATH)
        self._settle(self.client.remove(new.name), quiet=True)
        return Took(seconds=seconds, phases=dict(new.phases))

    def _count(self, replica: Replica) -> Counted:
        counters = [int(get(_address(replica), COUNT_PATH)) for _ in range(2)]
        return Counted(
            name=replica.name,
            host=replica.host or "",
            address=_address(replica),
            counters=counters,
        )

    def _move(self, replica: Counted) -> Moved:
        target = next(host.name for host in self.client.hosts() if host.name != replica.host)
        self.say(f"\n4. poold move {replica.name} --to {target}, while it runs")
        before = int(get(replica.address, COUNT_PATH))
        change = self._settle(self.client.move(replica.name, to=target))
        (moved,) = [one for one in self.client.replicas(self.pool) if one.name == replica.name]
        after = int(get(_address(moved), COUNT_PATH))
        if after != before + 1:
            raise Permanent(
                "demo.count-lost",
                f"cannot call {replica.name} moved: it said {before} and then {after}",
                hint="look at its output: poold logs",
            )
        phases = dict(change.phases)
        downtime = phases.pop("downtime")
        self.say(
            f"   {replica.name} said {before} on {replica.host} and {after} on {moved.host};"
            f" it was away for {downtime:.2f} s"
        )
        return Moved(
            name=replica.name,
            source=replica.host,
            target=moved.host or "",
            before=before,
            after=after,
            downtime_seconds=downtime,
            phases=phases,
        )

    def _other_way(self, pool: str) -> OtherWay:
        """Let one replica be made of a pool whose application writes to tmpfs only."""
        self.say(f"\n5. the other way: what {self.app} writes is on tmpfs, inside the checkpoint")
        self._settle(self.client.scale(pool, replicas=1))
        (replica,) = map(_restored, self.client.replicas(pool))
        counted = self._count(replica)
        manifest = self.client.generations(pool)[0].manifest
        self.say(
            f"   {replica.name} on {replica.host} counts {counted.counters[0]},"
            f" {counted.counters[1]}, …; restored in {replica.seconds or 0:.2f} s"
        )
        self._settle(self.client.scale(pool, replicas=0), quiet=True)
        return OtherWay(
            pool=pool,
            cold_seconds=manifest.cold_seconds,
            restore_seconds=replica.seconds or 0.0,
            checkpoint_bytes=manifest.archive_bytes,
            counters=counted.counters,
        )

    def _settle(self, change: Change, *, quiet: bool = False) -> Change:
        """Follow a change until it is settled, telling its news; raises its problem."""
        deadline = time.monotonic() + _CHANGE_DEADLINE_SECONDS
        said: set[str] = set()
        while change.state == "pending" and time.monotonic() < deadline:
            change = self.client.change(change.id, wait_seconds=20, after_seq=change.seq)
            news = _WITHOUT_PERCENT.sub("", change.progress)
            if not quiet and news and news not in said:
                said.add(news)
                self.say(f"   {news}")
        if change.state == "pending":
            raise Temporary(
                "demo.not-settled",
                f"cannot wait longer for change {change.id}: {change.progress}",
                hint=f"it goes on: poold changes {change.id} --wait",
            )
        if change.state == "failed":
            raise problem_from_json(change.problem)
        return change


def _restored(replica: Replica) -> Replica:
    """Return the replica if it came up from the checkpoint; nothing else is shown as a restore."""
    if replica.method != "restore":
        raise Permanent(
            "demo.not-restored",
            f"cannot show {replica.name} as restored: it came up by {replica.method}",
            hint=replica.reason,
        )
    return replica


def _address(replica: Replica) -> str:
    if replica.address is None:
        raise Permanent(
            "demo.no-address",
            f"cannot ask {replica.name}: it is {replica.state} and has no address",
            hint=replica.reason,
        )
    return replica.address
