"""Let a process have the search core without the rest of the package, whose models take seconds to import.

A test runs it as the main module of a process, or has it run as that of worker processes. It also shows that the core
needs nothing else of the package.
"""

import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

if "adet_ext" not in sys.modules:
    package = types.ModuleType("adet_ext")
    package.__path__ = [str(ROOT / "adet_ext")]
    sys.modules["adet_ext"] = package
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
