"""The five methods by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import DeviceFailed
from core.explain import feature_maps, grad_cam, integrated_gradients, kernels, occlusion, quality
from core.explain.explainer import Explainer
from core.explain.explanation import Explanation, Floats, Progress, Target, no_progress
from core.explain.methods import SENSITIVITY_SAMPLES
from core.explain.options import ExplainOptions
from core.vision.engine import Engine


class _Explain(Protocol):
    """What each method's module offers; ``options`` are those of that method."""

    def __call__(
        self,
        explainer: Explainer,
        picture: NDArray[np.uint8],
        target: Target,
        options: Any,
        progress: Progress = ...,
    ) -> Explanation: ...


_METHODS: dict[str, _Explain] = {
    "grad_cam": grad_cam.explain,
    "integrated_gradients": integrated_gradients.explain,
    "occlusion": occlusion.explain,
    "feature_maps": feature_maps.explain,
    "kernels": kernels.explain,
}


class NetworkExplainer:
    """An :class:`~core.explain.explanation.Explainer` around the network of one engine."""

    def __init__(self, engine: Engine) -> None:
        self.explainer = Explainer(engine)

    def explain(
        self,
        method: str,
        picture: NDArray[np.uint8],
        options: ExplainOptions,
        progress: Progress = no_progress,
    ) -> Explanation:
        """Explain a prepared picture, uint8 [S, S, 3], by one of :data:`core.explain.methods.METHODS`.

        Raises KeyError for another method, InvalidRequest for an unknown ``options.target``,
        DeviceOutOfMemory, DeviceFailed, NonFiniteLogits, and whatever ``progress`` raises.
        """
        try:
            return self._explain(method, picture, options, progress)
        except torch.AcceleratorError as error:  # as in Engine.logits
            raise DeviceFailed(f"{self.explainer.device} failed and its process must be left.") from error

    def _explain(
        self, method: str, picture: NDArray[np.uint8], options: ExplainOptions, progress: Progress
    ) -> Explanation:
        # Measuring its quality takes as long again for each of the other pictures that are explained.
        rounds = 1 + SENSITIVITY_SAMPLES if options.quality else 1
        steps, done_before = 1, 0

        def watched(done: int, total: int, partial: Floats | None) -> None:
            nonlocal steps
            steps = total
            progress(done, total * rounds, partial)

        def run(pictured: NDArray[np.uint8], label: str | None, progress: Progress) -> Explanation:
            target = self.explainer.target(pictured, label)  # with the log-odds of this very picture
            return _METHODS[method](self.explainer, pictured, target, getattr(options, method), progress)

        explanation = run(picture, options.target, watched)
        if not options.quality or explanation.attribution is None:
            return explanation
        done_before = steps

        def measuring(done: int = 0, total: int = 1, _: Floats | None = None) -> None:
            progress(done_before + steps * done // max(total, 1), steps * rounds, None)

        def again(other: NDArray[np.uint8]) -> Floats:
            nonlocal done_before
            attribution = run(other, explanation.target.label, measuring).attribution
            assert attribution is not None
            done_before += steps
            return attribution

        attribution, index = explanation.attribution, explanation.target.index
        measured = quality.deletion_insertion(
            self._probabilities(measuring), picture, attribution, index, seed=options.seed
        )
        moved = quality.max_sensitivity(
            again, picture, samples=SENSITIVITY_SAMPLES, seed=options.seed, reference=attribution
        )
        return replace(
            explanation,
            quality=explanation.quality | {"deletion_insertion": measured, "max_sensitivity": moved},
            provenance=explanation.provenance | {"seed": options.seed},
        )

    def _probabilities(self, before: Callable[[], None]) -> quality.Probabilities:
        """The calibrated probabilities of prepared pictures; ``before`` is called before each chunk."""
        engine = self.explainer.engine

        def probabilities(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
            before()
            shares: NDArray[np.float32] = (
                (engine.logits(pictures) / engine.manifest.temperature).softmax(1).cpu().numpy()
            )
            return shares

        return probabilities
