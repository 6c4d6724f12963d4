"""How the threads of one convolution wait for each other.

GNU's OpenMP lets them keep their cores busy for milliseconds, for which decoding, the database, the API and
other workers then wait. On two cores, ResNet-101 at 160 pixels, milliseconds a picture at batch 16 and of a
single one:

================  ================  ========================
waiting           alone             beside one busy process
================  ================  ========================
as it comes       21.8, single 39   64.7, single 95
PASSIVE (sleep)   23.6, single 53   42.9, single 75
1,000 turns       22.7, single 41   44.6, single 86
================  ================  ========================

A thousand turns is what the library itself takes when it knows that it has more threads than processors; of
other processes' threads it does not know (https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html).
"""

from __future__ import annotations

from collections.abc import Mapping


def brief_waiting(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` for a process that computes, before it loads torch. What is set already stays."""
    if "OMP_WAIT_POLICY" in environment:
        return dict(environment)
    return {"GOMP_SPINCOUNT": "1000"} | dict(environment)
