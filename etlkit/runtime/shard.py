"""Which share of a fan-out this process is. Standard library only: it is read before pyarrow is."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..errors import UsageError
from ..layout import share_folder
from ..lazyclass import dataclass

INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
"""Kubernetes sets it in every container of an Indexed Job's pods."""
MOST = 1000


@dataclass(frozen=True, slots=True)
class Shard:
    root: str
    index: int
    of: int
    round: int = 0

    @property
    def state(self) -> str:
        return f"{self.root}/{share_folder(self.round, self.index)}"

    @property
    def name(self) -> str:
        """The mark of its staged files: no other share may take them for its own orphans."""
        return f"r{self.round}i{self.index}"


def shard_from(
    root: str, shards: str | None, index: str | None, round_: str | None, environ: Mapping[str, str] = os.environ
) -> Shard | None:
    """From the options of ``run``; None without ``--shards``. Errors: UsageError."""
    if shards is None:
        if index is not None or round_ is not None:
            raise UsageError("--index and --round are of a fan-out", "give --shards N, too")
        return None
    of = _number("--shards", shards, 1, MOST)
    if index is None:
        index = environ.get(INDEX_VARIABLE)
    if index is None:
        raise UsageError(
            f"--shards {of}: which one is this? {INDEX_VARIABLE} is not set",
            f"an Indexed Job sets it; here give --index 0 to {of - 1}, or run them all with `etlkit local --shards {of}`",
        )
    return Shard(root.rstrip("/"), _number("--index", index, 0, of - 1), of, _number("--round", round_ or "0", 0, MOST))


def _number(option: str, text: str, least: int, most: int) -> int:
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise UsageError(f"{option} {text}: not a number from {least} to {most}", f"give one from {least} to {most}")
    return int(text)
