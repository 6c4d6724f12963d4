from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from core.explain.methods import METHODS
from core.explain.options import (
    ExplainOptions,
    FeatureMapsOptions,
    IntegratedGradientsOptions,
    OcclusionOptions,
)


def test_the_catalogue_needs_no_torch() -> None:
    check = "import sys, core.explain.methods; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_every_method_has_its_options_in_a_job() -> None:
    options = ExplainOptions()
    assert list(METHODS) == [
        "grad_cam",
        "integrated_gradients",
        "occlusion",
        "feature_maps",
        "kernels",
    ]
    for name, method in METHODS.items():
        assert isinstance(getattr(options, name), method.options)
        cost = method.cost(getattr(options, name), 224)
        assert 0 <= cost.expected <= cost.at_most
        assert method.needs_picture == (name != "kernels")


def test_costs_follow_the_options() -> None:
    occlusion = METHODS["occlusion"].cost
    assert occlusion(OcclusionOptions(), 224).expected == 169 + 4 + 4
    assert occlusion(OcclusionOptions(window=224, stride=224), 224).expected == 1 + 4 + 4
    assert occlusion(OcclusionOptions(approximate=True), 224) < occlusion(OcclusionOptions(), 224)
    gradients = METHODS["integrated_gradients"].cost
    assert gradients(IntegratedGradientsOptions(max_evaluations=8), 224).expected < 30
    maps = METHODS["feature_maps"].cost
    assert maps(FeatureMapsOptions(), 224).expected == 1
    assert maps(FeatureMapsOptions(by="contribution"), 224).expected == 2


def test_windows_that_would_leave_pixels_out_are_refused() -> None:
    with pytest.raises(ValidationError, match="stride must not exceed window"):
        OcclusionOptions(window=8, stride=9)
