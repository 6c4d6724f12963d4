"""Pictures of an explanation, as files: drawn from its numbers, without a display, by any thread.

======================  =====================================================================================
``panel.png``           what a person looks at: picture, heat map, overlay, scales, and what they mean
``heatmap.png``         the map alone, RGBA. Its colours are opaque ones; its alpha channel is the strength
                        of the evidence, so that it can be laid on the picture as it is, and where there is
                        no evidence the picture shows. Without alpha it is the plain heat map
``overlay.png``         the map over the picture in grey, RGB, for those who want one file
``attribution.npy``     the numbers: float32 [size, size], signed
``layers.npz``          one float32 array for each layer, under the layer's name
======================  =====================================================================================

``heatmap.png`` and ``overlay.png`` are the crop that the network saw, each pixel k x k times; k is the
smallest integer from 2 that makes them at least 448 pixels wide. Where the crop lies in the original says
:class:`core.vision.preprocessing.Placement`. Equal explanations give equal bytes. Both kinds of NumPy file
load with ``allow_pickle=False``.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from core.explain.colour import Numbers, Pixels, Scale, overlay, signed_scale, unsigned_scale
from core.explain.explanation import Explanation
from core.explain.panels import panel
from core.explain.png import encode

Files = dict[str, tuple[bytes, str]]

# Grad-CAM is a ReLU by definition; what it cuts off stays in attribution.npy.
_UNSIGNED_METHODS = frozenset({"grad_cam", "feature_maps"})
_SHORTEST_SIDE = 448


def render(explanation: Explanation, picture: Pixels, *, prediction: dict[str, Any] | None = None) -> Files:
    """All files of an explanation, by name, with their media types.

    picture: uint8 [size, size, 3], the crop that was explained. prediction: ``label`` and ``scores``, to say
    so where the class explained is not the network's answer.

    A map without any evidence is a valid result and is drawn, and labelled, as such. Raises NonFiniteMap for
    infinity or nan, ValueError where picture and map do not fit.
    """
    files: Files = {}
    scale = None
    if explanation.attribution is not None:
        attribution = explanation.attribution
        if picture.shape != (*attribution.shape, 3):
            raise ValueError(f"a map of {attribution.shape} does not belong to a picture of {picture.shape}")
        scale = scale_of(explanation.method, attribution)
        files["heatmap.png"] = _heatmap(attribution, scale), "image/png"
        laid = overlay(picture, scale.colours(attribution))
        files["overlay.png"] = encode(Image.fromarray(_repeated(laid))), "image/png"
        files["attribution.npy"] = _npy(attribution), "application/octet-stream"
    if explanation.layers:
        files["layers.npz"] = _npz(explanation), "application/zip"
    files["panel.png"] = encode(panel(explanation, picture, scale, prediction)), "image/png"
    return files


def heatmap(method: str, attribution: Numbers) -> bytes:
    """``heatmap.png`` alone, for a map that is still being refined. Raises NonFiniteMap."""
    return _heatmap(attribution, scale_of(method, attribution))


def scale_of(method: str, attribution: Numbers) -> Scale:
    """The scale on which a method's maps are shown."""
    return unsigned_scale([attribution]) if method in _UNSIGNED_METHODS else signed_scale(attribution)


def _heatmap(attribution: Numbers, scale: Scale) -> bytes:
    strength = np.rint(255 * np.abs(scale.share(attribution))).astype(np.uint8)
    pixels = np.concatenate([scale.colours(attribution), strength[..., None]], axis=-1)
    return encode(Image.fromarray(_repeated(pixels)))


def _repeated(pixels: Pixels) -> Pixels:
    """Each pixel k x k times: nothing is invented between them, and the crop's edges stay where they are."""
    factor = max(2, -(-_SHORTEST_SIDE // len(pixels)))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _npy(values: Numbers) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asarray(values, np.float32), allow_pickle=False)
    return stream.getvalue()


def _npz(explanation: Explanation) -> bytes:
    stream = io.BytesIO()
    arrays = {layer.name: np.asarray(layer.values, np.float32) for layer in explanation.layers}
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()
