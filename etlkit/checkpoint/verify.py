"""Reading every byte that checkpoints refer to.

Covers manifests, lists and runs. Parts lie with their sinks: ``etlkit verify`` checks them by the length and checksum that a
snapshot holds.
"""

from __future__ import annotations

from ..errors import CorruptStateError, StateError
from . import history, lists
from .manifest import Manifest, number_of
from .model import Problem
from .retention import floor_of
from .runs import RunReader
from .store import Store


def verify(store: Store) -> list[Problem]:
    """All problems, the fatal ones (the newest checkpoint cannot be used whole) first."""
    problems: dict[str, Problem] = {}
    try:
        newest = history.load(store)
    except (CorruptStateError, StateError) as error:
        name = error.name if isinstance(error, CorruptStateError) else "manifests"
        problems[name] = Problem(name, error.message, True)
        needed, first = set[str](), 0
    else:
        needed = {run.name for stage in newest.folding.stages({}).values() for run in stage.runs}
        first = newest.chain[0].base if newest.chain else 0
        for damaged in newest.damaged:
            problems[damaged.name] = Problem(damaged.name, damaged.message, True)
    checked: set[str] = set()
    floor = floor_of(store)
    for manifest in history.all_manifests(store):
        if isinstance(manifest, CorruptStateError):
            number = number_of(manifest.name) or 0
            if number >= floor:
                problems.setdefault(manifest.name, Problem(manifest.name, manifest.message, number >= first))
            continue
        if manifest.id < floor:
            continue  # a collection was interrupted: nobody needs it
        found = _verify_files(store, manifest, needed, checked)
        if found and manifest.id >= floor_of(store):  # else a live run has collected it meanwhile
            problems.update((problem.name, problem) for problem in found if problem.name not in problems)
    return sorted(problems.values(), key=lambda problem: (not problem.fatal, problem.name))


def _verify_files(store: Store, manifest: Manifest, needed: set[str], checked: set[str]) -> list[Problem]:
    problems = []
    for stage in manifest.stages.values():
        for run in stage.runs:
            if run.name in checked:
                continue
            checked.add(run.name)
            try:
                with RunReader(store, run) as reader:
                    reader.check()
            except StateError as error:
                problems.append(Problem(run.name, error.message, run.name in needed))
    for ref in (*manifest.part_lists, *manifest.large_facts.values()):
        if ref.name in checked:
            continue
        checked.add(ref.name)
        try:
            lists.read_list(store, ref)
        except StateError as error:
            problems.append(Problem(ref.name, error.message, False))
    return problems
