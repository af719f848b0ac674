"""The rigs beside the tests, and that of the mapper SDK's tests, are imported by name."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "mapper")]
