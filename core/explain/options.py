"""What can be asked of an explanation. Read by the API too, so nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Baseline = Literal["mean", "black", "white", "blur"]
"""What stands for "nothing to see": the training set's mean colour, black, white, or the blurred picture."""


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GradCamOptions(_Options):
    """Grad-CAM has nothing to choose: all depths come from one pass."""


class IntegratedGradientsOptions(_Options):
    baseline: Baseline = Field("mean", description="Where the path begins.")
    tolerance: Annotated[float, Field(gt=0, le=0.5)] = Field(
        0.01,
        description="Stop when the attributions add up to the change of the log-odds from the baseline, to "
        "within this share of it.",
    )
    max_evaluations: Annotated[int, Field(ge=8, le=2048)] = Field(
        256, description="Gradients to spend at most; without convergence the result says so."
    )


class OcclusionOptions(_Options):
    window: Annotated[int, Field(ge=4, le=512)] = Field(
        32, description="Side of the covering square, in pixels."
    )
    stride: Annotated[int, Field(ge=2, le=512)] = Field(16, description="Pixels from one window to the next.")
    baseline: Baseline = Field("mean", description="What the window is filled with.")
    approximate: bool = Field(
        False, description="Coarse to fine: full resolution only where coarse windows mattered most."
    )

    @model_validator(mode="after")
    def _covers_every_pixel(self) -> Self:
        if self.stride > self.window:
            raise ValueError("stride must not exceed window, or pixels between the windows are never covered")
        return self


class FeatureMapsOptions(_Options):
    channels: Annotated[int, Field(ge=1, le=64)] = Field(12, description="Channels shown of each stage.")
    by: Literal["activation", "contribution"] = Field(
        "activation",
        description="Show the channels that respond most, or those that speak most for the class.",
    )


class KernelsOptions(_Options):
    kernels: Annotated[int, Field(ge=1, le=64)] = Field(12, description="Kernels shown of each depth.")


class ExplainOptions(_Options):
    """The ``options`` of a job."""

    target: Annotated[str, Field(min_length=1, max_length=100)] | None = Field(
        None, description="Class to explain; by default the predicted one."
    )
    quality: bool = Field(
        False,
        description="Measure deletion, insertion and sensitivity too; costs several hundred forward passes.",
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="Of the random controls in quality.")
    grad_cam: GradCamOptions = GradCamOptions()
    integrated_gradients: IntegratedGradientsOptions = IntegratedGradientsOptions()
    occlusion: OcclusionOptions = OcclusionOptions()
    feature_maps: FeatureMapsOptions = FeatureMapsOptions()
    kernels: KernelsOptions = KernelsOptions()

    def of(self, method: str, *, shared: bool = True) -> dict[str, Any]:
        """Whatever of it has a say in this method's result, as JSON.

        ``shared`` is False for a method that knows neither target nor picture.
        """
        own: _Options = getattr(self, method)
        common = self.model_dump(mode="json", include={"target", "quality", "seed"}) if shared else {}
        return common | own.model_dump(mode="json")
