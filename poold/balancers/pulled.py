"""Balancers that ask poold: nobody has to be told, the API's discovery routes answer them.

In: the set. Out: whether it is another one; what is shown of it is what the routes answer.
"""

from __future__ import annotations

from poold.balancers.base import Server
from poold.model.fleet import Pool


class PullTeller:
    """Tells nobody."""

    async def tell(self, pool: Pool, servers: tuple[Server, ...], *, anew: bool) -> bool:
        """See `Teller.tell`."""
        del pool, servers
        return anew
