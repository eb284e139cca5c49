"""Wishes, changes, assignments, intents, generations, moves: one SQLite file, one writer."""

from poold.store.hosts import HostMark, Released
from poold.store.records import Assignment, Garbage, Intent, Move, MoveStep, Wish
from poold.store.rolls import Hold, Roll
from poold.store.store import SeenPool, Store, name_taken, way_to_free

__all__ = [
    "Assignment",
    "Garbage",
    "Hold",
    "HostMark",
    "Intent",
    "Move",
    "MoveStep",
    "Released",
    "Roll",
    "SeenPool",
    "Store",
    "Wish",
    "name_taken",
    "way_to_free",
]
