"""What the fidelity tests share: importing the plain loop under importlib mode, one run, and the comparison."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
