"""An edge-deployment compiler: one command turns a model into a bundle, proven on what ships."""
from __future__ import annotations

__version__ = "0.1.0"
