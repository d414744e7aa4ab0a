"""What an author's function needs beyond the forecast, measured on the first split of its stage.

Nobody can foresee what a function allocates, and its batches may not depend on memory. So the first split of such a stage runs
alone; how far the process grew meanwhile, less what was projected, is added to every split after it. Linux only; elsewhere
nothing is added, and the wall is what is left.
"""

from __future__ import annotations

from pathlib import Path

from ..lazyclass import dataclass

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(slots=True)
class AuthorNeed:
    """One stage's. The executor's lock guards it."""

    known: bool = True
    """False until the first split has been measured."""
    extra_bytes: int = 0
    _before_bytes: int | None = None

    def may_start(self, running: int) -> bool:
        return self.known or running == 0

    def began(self) -> None:
        """A split starts alone: from here on the peak counts."""
        if not self.known:
            self._before_bytes = _start_peak()

    def ended(self, projected_bytes: int) -> None:
        """That split is finished."""
        if self.known:
            return
        self.known = True
        peak = _status("VmHWM") if self._before_bytes is not None else None
        if peak is not None and self._before_bytes is not None:
            self.extra_bytes = max(0, peak - self._before_bytes - projected_bytes)


def _start_peak() -> int | None:
    """Forget the highest resident size so far, and say the present one; None where that can't be done."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _status(name: str) -> int | None:
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
