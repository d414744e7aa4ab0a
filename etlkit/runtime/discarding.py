"""What ``--restart`` leaves of a run that is discarded: nothing.

The new run often has another id (other parameters, another input), so its sinks would never look into the staging folder of the old
one, and that would fill the output's volume for ever. Covers finding which runs this state knows, as far as its manifests can still be
read, and removing what they staged or showed. Folders of runs that this state does not know are another job's, and stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..checkpoint.history import readable
from ..checkpoint.store import Store
from ..errors import ConfigError
from ..io.folder_sink import discard_run
from ..io.sink import Sink


def discard(store: Store, sinks: Iterable[Sink], keep: str) -> int:
    """Remove the staging of every run of this state but ``keep``, whose sinks see to it themselves. Bytes removed.

    Looks below the outputs that the old runs wrote down, and below those of the new one. Errors: StateError."""
    here = {str(path) for sink in sinks if (path := sink.describe().get("path"))}
    removed = 0
    for run_id, folders in _runs(store).items():
        if run_id != keep:
            for folder in sorted(here | folders):
                try:
                    removed += discard_run(folder, run_id)
                except ConfigError:
                    continue  # a path that no folder sink of this version writes to
    return removed


def _runs(store: Store) -> Mapping[str, set[str]]:
    """Run ids and their output folders. What cannot be read any more is unknown."""
    found: dict[str, set[str]] = {}
    for manifest in readable(store):
        folders = found.setdefault(manifest.run_id, set())
        sinks = manifest.facts.get("sinks")
        for one in sinks if isinstance(sinks, list) else []:
            if isinstance(one, dict) and one.get("path"):
                folders.add(str(one["path"]))
    return found
