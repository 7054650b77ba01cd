"""`python -m genobird` is the command `genobird`."""

from __future__ import annotations

import sys

from genobird.cli import main

if __name__ == "__main__":
    sys.exit(main())
