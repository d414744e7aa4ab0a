"""Checkpoints: immutable, numbered, durable, and the fence between writers. ``docs/checkpoint-format.md`` is the format."""

from __future__ import annotations

from .compaction import choose_compaction, compact
from .intervals import Intervals
from .local import LocalStore
from .model import (
    Committed,
    Delta,
    Json,
    Phase,
    Problem,
    RunRef,
    Section,
    Snapshot,
    StageDelta,
    StageState,
)
from .runs import RunReader, RunWriter
from .state_dir import StateDir
from .store import Store, open_store

__all__ = [
    "Committed",
    "Delta",
    "Intervals",
    "Json",
    "LocalStore",
    "Phase",
    "Problem",
    "RunReader",
    "RunRef",
    "RunWriter",
    "Section",
    "Snapshot",
    "StageDelta",
    "StageState",
    "StateDir",
    "Store",
    "choose_compaction",
    "compact",
    "open_store",
]
