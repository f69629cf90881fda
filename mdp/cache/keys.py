"""Every name the roles use in Redis, in one place (`docs/redis.md`).

`Keys(prefix)` makes keys and channels; nobody else puts one together. A cluster places a key by its
*hash tag*, the text between the first `{` and the next `}`, or by all of it where there is none. Braces in
the names below are meant literally and are such tags:

- all of a partition carries its number: `mdq:trades:{3}`, `mdp:lease:partition:{3}`,
  `mdp:epoch:partition:{3}`, `mdp:checkpoint:{3}`. So one XREAD reads a partition's queues, and the script
  that writes a checkpoint compares the epoch.
- a lease and its epoch carry the lease's name: `mdp:lease:{publisher}`.
- what belongs to a feed carries the whole plain key of the feed, prefix included: `mdp:events:{halts}` lies
  in the slot of the plain key `halts` (with a prefix `x:`, `x:mdp:events:{x:halts}` in that of `x:halts`).

Channels need no tags: plain pub/sub reaches every node of a cluster.
"""

from __future__ import annotations

from mdp.events import HALT_NOTICES, QUEUES

#: Names of leases that are no partition's.
LISTENER = "listener"
PUBLISHER = "publisher"
SCANNER = "scanner"
REFERENCE = "reference"
_PARTITION = "partition:"


def partition_name(partition: int) -> str:
    """The name of a partition's lease."""
    return f"{_PARTITION}{partition}"


class Keys:
    """Names under one prefix. Only `stream`, `value` and `bus` are called often; keep what they return.

    Args:
        prefix: Put before every name, as it is; without braces (they would move hash tags).

    Raises:
        ValueError: The prefix holds braces.
    """

    def __init__(self, prefix: str = "") -> None:
        if "{" in prefix or "}" in prefix:
            raise ValueError("a key prefix without braces is needed: they are hash tags")
        self.prefix = prefix
        self._bus = f"{prefix}mdp:bus:"
        #: String: the number of partitions everybody has to start with.
        self.partitions = f"{prefix}mdq:partitions"
        #: Sorted set: member id of a processor by Redis time (ms) of its last sign of life.
        self.members = f"{prefix}mdp:members:processor"
        #: The same of listeners, so that the active one knows whether another stands by.
        self.listeners = f"{prefix}mdp:members:listener"
        #: Channel: `released {name}`, `joined {id}`.
        self.control = f"{prefix}mdp:control"
        #: Channel: `+pattern`, `-pattern`.
        self.interest_channel = f"{prefix}mdp:interest"
        #: Hash: the state of the active listener.
        self.listener = f"{prefix}mdp:listener"
        #: String: the version of feeds' payloads, while somebody writes a higher one than 1.
        self.schema = f"{prefix}mdp:schema"
        #: String: when the next request to the provider's REST API may start (us, Redis's clock).
        self.rest = f"{prefix}mdp:rest"

    # --- streams of events, partitions ---

    def stream(self, queue: str, partition: int) -> str:
        """Stream of a queue's events of one partition; `queue` is one of `mdp.events.QUEUES`."""
        return f"{self.prefix}mdq:{queue}:{{{partition}}}"

    def streams(self, partition: int) -> dict[str, str]:
        """All streams of a partition, queue by key: those of `QUEUES` in order, then notices of halts."""
        return {self.stream(queue, partition): queue for queue in (*QUEUES, HALT_NOTICES)}

    def checkpoint(self, partition: int) -> str:
        """String: a partition's state and the last entries it contains."""
        return f"{self.prefix}mdp:checkpoint:{{{partition}}}"

    def windows(self, partition: int) -> str:
        """Hash: the windows of trades that belong to the checkpoint."""
        return f"{self.prefix}mdp:windows:{{{partition}}}"

    # --- leases ---

    def lease(self, name: str) -> str:
        """String: the owner's id. `name`: LISTENER, PUBLISHER, SCANNER, REFERENCE or `partition_name(p)`."""
        return f"{self.prefix}mdp:lease:{_tagged(name)}"

    def epoch(self, name: str) -> str:
        """Counter of a lease's acquisitions, in the slot of `lease(name)`."""
        return f"{self.prefix}mdp:epoch:{_tagged(name)}"

    # --- feeds: all in the slot of the plain key ---

    def value(self, feed: str) -> str:
        """The plain key: the bare payload as JSON, or a list of them. Also the plain channel's name."""
        return self.prefix + feed

    def place(self, feed: str) -> str:
        """Hash `epoch seq ts v` of a feed's value."""
        return f"{self.prefix}mdp:place:{{{self.prefix}{feed}}}"

    def fence(self, feed: str) -> str:
        """Hash: by owner, the highest epoch that wrote the feed, for scripts that write it."""
        return f"{self.prefix}mdp:fence:{{{self.prefix}{feed}}}"

    def events(self, feed: str) -> str:
        """Stream of an event feed."""
        return f"{self.prefix}mdp:events:{{{self.prefix}{feed}}}"

    def counter(self, feed: str) -> str:
        """Hash: the own epoch of an event feed (`e`) and the last seq given out (`s`)."""
        return f"{self.prefix}mdp:counter:{{{self.prefix}{feed}}}"

    def parts(self, feed: str) -> str:
        """Hash lease's name -> `[schema, epoch, number, content]`: parts of a feed of the whole market."""
        return f"{self.prefix}mdp:parts:{{{self.prefix}{feed}}}"

    def limits(self, feed: str) -> str:
        """Hash lease's name -> rows: how much of its own the publisher asks of its holder."""
        return f"{self.prefix}mdp:limits:{{{self.prefix}{feed}}}"

    def bus(self, feed: str) -> str:
        """Channel of a feed's messages with their place."""
        return self._bus + feed

    def feed_of_bus(self, channel: str) -> str:
        """The feed of a `bus` channel.

        Raises:
            ValueError: It is none of ours.
        """
        if not channel.startswith(self._bus):
            raise ValueError(f"no channel of the bus: {channel[:100]!r}")
        return channel[len(self._bus) :]

    # --- others ---

    def answer(self, number: str) -> str:
        """List with one item: the answer to a question (`mdp.cache.asking`)."""
        return f"{self.prefix}mdp:answer:{number}"

    def interest(self, wds_id: str) -> str:
        """Set: the patterns that clients of one wds replica want."""
        return f"{self.prefix}mdp:interest:{wds_id}"

    def reference(self, day: str) -> str:
        """String: the reference values of a trading day (ISO date), compressed."""
        return f"{self.prefix}mdp:reference:{{{day}}}"


def _tagged(name: str) -> str:
    if name.startswith(_PARTITION):
        return f"{_PARTITION}{{{name[len(_PARTITION) :]}}}"
    return f"{{{name}}}"
