"""What this machine's processor cannot do, for tests to say when they leave something out."""

from __future__ import annotations

import pytest
import torch

needs_fused_bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="oneDNN has no bfloat16 without AVX-512 or AVX-NE-CONVERT",
)
