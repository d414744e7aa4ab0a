"""One job in a process of its own, and what it promised: ``python -m tests.conformance.operator_peak JOB SRC FOLDER WORKERS``.

Prints the peak of Arrow's pool and the most that the ledger had reserved, in bytes. A process of its own, since a pool's
peak is never reset.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow as pa

import etlkit as ek
from benchmarks import jobs
from etlkit.memory import Ledger


def main() -> None:
    job, src, folder, workers = sys.argv[1:]
    most = 0
    for name in ("try_reserve", "adjust"):
        plain = getattr(Ledger, name)

        def noted(self: Ledger, *arguments: object, _plain=plain):  # type: ignore[no-untyped-def]
            nonlocal most
            done = _plain(self, *arguments)
            most = max(most, self.reserved_bytes)
            return done

        setattr(Ledger, name, noted)
    out = Path(folder) / "out"
    ek.run(getattr(jobs, job), src=src, out=str(out), state=Path(folder) / "state", workers=int(workers))
    print(json.dumps({"pool": pa.default_memory_pool().max_memory(), "reserved": most}))


if __name__ == "__main__":
    main()
