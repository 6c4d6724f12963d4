"""From an upright picture to the square of pixels that the network sees. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.vision.images import MAX_PIXELS, Loaded, loaded
from core.vision.manifest import InputFormat


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the crop lies in the original picture.

    The point (x, y) of the crop, in crop pixels from its upper left corner (pixel i has its centre at
    i + 0.5), is the point ``(offset_x + x * scale_x, offset_y + y * scale_y)`` of the upright original.
    ``dataclasses.asdict`` gives the form for JSON.
    """

    width: int
    height: int
    size: int
    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float

    def to_original(self, x: float, y: float) -> tuple[float, float]:
        return self.offset_x + x * self.scale_x, self.offset_y + y * self.scale_y


class Preprocessing:
    """Resize the shorter side, cut out the centre: torchvision's Resize and CenterCrop in one step."""

    def __init__(self, input_format: InputFormat) -> None:
        self.size = input_format.size
        self.shorter_side = round(input_format.size * input_format.resize_scale)

    def placement(self, width: int, height: int) -> Placement:
        """The crop's place in an upright picture of ``width`` x ``height`` pixels."""
        shorter = min(width, height)
        resized_width = int(self.shorter_side * width / shorter)
        resized_height = int(self.shorter_side * height / shorter)
        scale_x, scale_y = width / resized_width, height / resized_height
        left, top = round((resized_width - self.size) / 2), round((resized_height - self.size) / 2)
        return Placement(width, height, self.size, scale_x, scale_y, left * scale_x, top * scale_y)

    def crop(self, image: Image.Image) -> NDArray[np.uint8]:
        """Upright RGB picture -> uint8 [size, size, 3]."""
        place = self.placement(*image.size)
        return self._resample(image, place.offset_x, place.offset_y, place.scale_x, place.scale_y)

    def read(self, data: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
        """A picture's bytes -> uint8 [size, size, 3]; raises as :func:`core.vision.images.decode` does.

        The same as ``crop(decode(data))``, except that a large JPEG is decoded at a fraction of its size that
        leaves at least twice the pixels wanted. Measured on photos of 12 million pixels: five times faster,
        0.3 grey levels of mean difference, log-odds changed by 0.05 at most.
        """
        with loaded(data, max_pixels=max_pixels, shorter_side=2 * self.shorter_side) as picture:
            return self._crop_of(picture)

    def _crop_of(self, picture: Loaded) -> NDArray[np.uint8]:
        image = picture.upright_rgb()
        place = self.placement(*picture.upright_size)
        extent_x, extent_y = picture.extent[::-1] if picture.orientation >= 5 else picture.extent
        # A partly empty last column or row comes first where turning the picture upright mirrored that axis.
        left = image.width - extent_x if picture.orientation in {2, 3, 6, 7} else 0.0
        top = image.height - extent_y if picture.orientation in {3, 4, 7, 8} else 0.0
        x, y = extent_x / place.width, extent_y / place.height  # decoded pixels per original pixel
        return self._resample(
            image, left + place.offset_x * x, top + place.offset_y * y, place.scale_x * x, place.scale_y * y
        )

    def _resample(
        self, image: Image.Image, left: float, top: float, scale_x: float, scale_y: float
    ) -> NDArray[np.uint8]:
        """Resize only what the crop shows, with antialiasing as always in Pillow. A picture of 65,000 x 1
        pixels would otherwise become one of 10 million x 160 first."""
        # min(): the last bit of a float must not put the box outside the picture.
        right = min(left + self.size * scale_x, float(image.width))
        bottom = min(top + self.size * scale_y, float(image.height))
        return np.array(
            image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
        )
