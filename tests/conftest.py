"""Makes tests/fakes.py and tests/running.py importable, in capture processes too (they inherit sys.path)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
