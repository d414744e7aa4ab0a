"""etlkit: ETL jobs that see their OOM coming, checkpoint, resize their pod and resume."""

from __future__ import annotations

__version__ = "0.1.0"
