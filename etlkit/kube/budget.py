"""How many restarts a Job still allows (F8). Pure arithmetic.

A Job with ``restartPolicy: OnFailure`` is failed as soon as the restarts of all containers of its live pods, init
containers and sidecars included, reach ``backoffLimit``, and each resize with RestartContainer is such a restart. This
does not know the other pods of an Indexed Job, whose restarts count too: give those room in ``backoffLimit``.
"""

from __future__ import annotations

from collections.abc import Iterable

DEFAULT_BACKOFF_LIMIT = 6
"""What Kubernetes takes when a Job does not say."""
UNLIMITED = 1_000_000
"""Nobody counts: a pod without a Job, or one whose resizes restart nothing."""


def restarts_left(
    backoff_limit: int | None, restart_counts: Iterable[int], *, restart_policy: str = "OnFailure", in_job: bool = True
) -> int:
    """Restarts for resizes that can still be had without failing the Job; never negative.

    ``backoff_limit`` 0 and 1 allow none: the first restart reaches both.
    """
    if not in_job or restart_policy != "OnFailure":
        return UNLIMITED
    limit = DEFAULT_BACKOFF_LIMIT if backoff_limit is None else backoff_limit
    return max(0, limit - 1 - sum(restart_counts))
