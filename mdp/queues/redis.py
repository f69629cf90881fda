"""The queues over Redis Streams (`docs/redis.md`): the listener writes, processors read."""

from __future__ import annotations

from mdp.queues.entry import EntryError, Header, NewerEntry, partition_of
from mdp.queues.stream_reader import Cursor, Delivery, ReaderCounters, StreamReader
from mdp.queues.stream_writer import StreamWriter, WriterCounters
from mdp.queues.streams import PartitionsDiffer, settle_partitions

__all__ = [
    "Cursor",
    "Delivery",
    "EntryError",
    "Header",
    "NewerEntry",
    "PartitionsDiffer",
    "ReaderCounters",
    "StreamReader",
    "StreamWriter",
    "WriterCounters",
    "partition_of",
    "settle_partitions",
]
