"""One manifest: what ``manifests/00000042.json`` says, to bytes and back.

A **base** holds the whole state; a **delta** what one commit added to the manifest before it, which it names by number and
digest. Covers one file; folding a chain is ``history.py``'s. Every field is described in ``docs/checkpoint-format.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any

from ..errors import CorruptStateError, StateError
from ..io.sink import Part
from ..lazyclass import dataclass
from .document import digest_of, unwrap, wrap
from .intervals import Intervals
from .model import Json, Phase, RunRef, StageDelta

FORMAT = 1


@dataclass(frozen=True, slots=True)
class ListRef:
    """A JSON document below ``lists/`` that a manifest names: many parts, or one large fact. ``entries`` counts parts."""

    name: str
    length: int
    sha256: str
    entries: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    id: int
    epoch: int
    base: int
    """The number of the base that this one builds on; its own if it is one."""
    begun: int
    """The number of the manifest with which this run began."""
    writer: str
    at: str
    reason: str
    phase: Phase
    run_id: str
    stages: Mapping[int, StageDelta]
    """In a base the whole state, in the same shape."""
    previous: str = ""
    """Digest of the manifest before it in the chain; empty in a base."""
    twin: bool = False
    """A second copy of the base before it (see the format's "Falling back")."""
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    """In a delta empty: it can't change within a run."""
    facts: Mapping[str, Json] = field(default_factory=dict)
    large_facts: Mapping[str, ListRef] = field(default_factory=dict)
    removed_facts: tuple[str, ...] = ()
    part_lists: tuple[ListRef, ...] = ()
    """Base only: documents that hold parts besides the ones in ``stages``."""
    digest: str = field(default="", compare=False)
    length: int = field(default=0, compare=False)

    @property
    def is_base(self) -> bool:
        return self.base == self.id


def name_of(number: int) -> str:
    return f"manifests/{number:08d}.json"


def number_of(name: str) -> int | None:
    """The number of a manifest or of a claim on one; None for any other file."""
    stem, dot, ending = name.rpartition("/")[2].partition(".")
    return int(stem) if dot and ending in ("json", "claim") and stem.isdecimal() and len(stem) >= 8 else None


def encode_part(part: Part) -> list[Any]:
    return [part.split, part.name, part.final, part.rows, part.length, part.crc32]


def _encode_run(run: RunRef) -> list[Any]:
    return [run.name, run.level, run.length, run.rows, run.bytes, run.index_crc32]


def _encode_list(ref: ListRef) -> list[Any]:
    return [ref.name, ref.length, ref.sha256, ref.entries]


def _encode_stage(stage: StageDelta) -> dict[str, Json]:
    said: dict[str, Json] = {
        "finished": stage.finished.to_json(),
        "runs": [_encode_run(run) for run in stage.runs],
        "dropped": list(stage.dropped),
        "parts": [[sink, *encode_part(part)] for sink, part in stage.parts],
        "rows_in": stage.rows_in,
        "rows_out": stage.rows_out,
    }
    return {key: value for key, value in said.items() if value}


def encode(manifest: Manifest) -> bytes:
    """``TypeError`` for facts that are not JSON."""
    body: dict[str, Json] = {
        "format": FORMAT,
        "id": manifest.id,
        "epoch": manifest.epoch,
        "base": manifest.base,
        "previous": manifest.previous,
        "twin": manifest.twin,
        "begun": manifest.begun,
        "writer": manifest.writer,
        "at": manifest.at,
        "reason": manifest.reason,
        "phase": manifest.phase.value,
        "run_id": manifest.run_id,
        "fingerprint": dict(manifest.fingerprint),
        "facts": dict(manifest.facts),
        "large_facts": {key: _encode_list(ref) for key, ref in manifest.large_facts.items()},
        "removed_facts": list(manifest.removed_facts),
        "stages": {str(number): _encode_stage(stage) for number, stage in manifest.stages.items()},
        "part_lists": [_encode_list(ref) for ref in manifest.part_lists],
    }
    return wrap(body)


def _decode_stage(number: int, said: Mapping[str, Any]) -> StageDelta:
    return StageDelta(
        finished=Intervals.from_json(said.get("finished", ())),
        runs=tuple(RunRef(name, number, *rest) for name, *rest in said.get("runs", ())),
        dropped=tuple(said.get("dropped", ())),
        parts=decode_parts(said.get("parts", ())),
        rows_in=said.get("rows_in", 0),
        rows_out=said.get("rows_out", 0),
    )


def decode_parts(said: Iterable[Any]) -> tuple[tuple[int, Part], ...]:
    return tuple((sink, Part(*part)) for sink, *part in said)


def decode(document: bytes, number: int) -> Manifest:
    """``CorruptStateError`` naming the file; ``StateError`` for a newer format."""
    name = name_of(number)
    body = unwrap(document, name)
    try:
        if body["format"] > FORMAT:
            raise StateError(
                f"{name} was written in format {body['format']}, and this etlkit reads formats up to {FORMAT}",
                "use the version of etlkit that wrote it, or a later one; or start over with --restart",
            )
        if body["id"] != number:
            raise CorruptStateError(f"{name} holds the manifest numbered {body['id']}", _SWAPPED, name=name)
        return Manifest(
            id=body["id"],
            epoch=body["epoch"],
            base=body["base"],
            previous=body["previous"],
            twin=body["twin"],
            begun=body["begun"],
            writer=body["writer"],
            at=body["at"],
            reason=body["reason"],
            phase=Phase(body["phase"]),
            run_id=body["run_id"],
            fingerprint=body["fingerprint"],
            facts=body["facts"],
            large_facts={key: ListRef(*ref) for key, ref in body["large_facts"].items()},
            removed_facts=tuple(body["removed_facts"]),
            stages={int(key): _decode_stage(int(key), stage) for key, stage in body["stages"].items()},
            part_lists=tuple(ListRef(*ref) for ref in body["part_lists"]),
            digest=digest_of(document),
            length=len(document),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptStateError(f"{name} is not a manifest: {error!r}", _SWAPPED, name=name) from error


_SWAPPED = (
    "files of a state directory must not be renamed or copied over each other; `etlkit verify` lists what is damaged"
)
