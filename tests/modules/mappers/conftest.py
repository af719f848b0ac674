"""The rig of the mapper SDK's tests is imported by name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "mapper"))
