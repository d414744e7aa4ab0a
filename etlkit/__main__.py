"""``etlkit VERB`` and ``python -m etlkit VERB``. Standard library only until the verb is known."""

from __future__ import annotations

import sys

from .cli import dispatch


def main() -> int:
    return dispatch(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
