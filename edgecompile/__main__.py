"""`python -m edgecompile`."""
from __future__ import annotations

from edgecompile.cli import main

if __name__ == "__main__":
    main()
