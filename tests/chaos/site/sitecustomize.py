"""Python runs this module first in every process that has its folder on PYTHONPATH, children included.

So the product needs no seam for faults: outside of these tests nothing of it is different.
"""

from __future__ import annotations

import os

if fault := os.environ.get("CHAOS_FAULT"):
    from tests.chaos import faults

    faults.install(fault)
