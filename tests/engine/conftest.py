"""The way to engine_kit.py: with importlib mode the folder is not on the path."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
