"""From a picture's bytes to the pixels that the network sees.

Strangers' bytes arrive here first. Whatever is wrong with them ends as UnsupportedMediaType or InvalidImage,
and nothing global is changed on the way, so that threads may decode at the same time.

This module does not import torch; the API checks pictures with it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from core.errors import InvalidImage
from core.vision.headers import MediaType, check_size, media_type
from core.vision.manifest import InputFormat

MAX_PIXELS = 25_000_000

# The plugins by name rather than Image.open(): it would try plugins in turn, warn about large pictures and
# take a phone's JPEG with several frames (MPO) for another format. As a plain JPEG that is its first frame.
_PLUGINS: dict[MediaType, type[ImageFile]] = {
    "image/jpeg": JpegImageFile,
    "image/png": PngImageFile,
    "image/webp": WebPImageFile,
}

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """Width and height in pixels, as the picture is shown: after its EXIF orientation."""

    width: int
    height: int
    media_type: MediaType


def inspect(data: bytes, *, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Check that ``data`` is a whole picture that :func:`decode` will accept.

    A JPEG is decoded at an eighth of its size: all its entropy-coded data are read, so a truncated file is
    noticed, while most of the arithmetic and nearly all of the memory for pixels are saved.

    Raises UnsupportedMediaType if it is no JPEG, PNG or WebP; InvalidImage if it is empty, damaged or
    truncated, or has more than ``max_pixels`` pixels.
    """
    loaded = _load(data, max_pixels, shorter_side=1)
    return ImageInfo(*loaded.upright_size, loaded.media_type)


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode ``data`` to an upright RGB picture, the same for the same bytes.

    EXIF orientation is applied. Transparency is laid over white. 16-bit samples keep their high byte. CMYK is
    converted without a colour profile, and embedded profiles are ignored. Of an animation the first frame is
    taken.

    Raises as :func:`inspect` does.
    """
    return _upright_rgb(_load(data, max_pixels, shorter_side=None))


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A picture as stored, not yet upright.

    ``extent`` is its width and height in units of the pixels that were decoded: 1/8 of a JPEG 4505 pixels
    wide has 564 pixels, the last of them partly empty, and an extent of 563.125.
    """

    image: ImageFile
    media_type: MediaType
    size: tuple[int, int]
    extent: tuple[float, float]
    orientation: int

    @property
    def upright_size(self) -> tuple[int, int]:
        width, height = self.size
        return (height, width) if self.orientation >= 5 else (width, height)


def _load(data: bytes, max_pixels: int, shorter_side: int | None) -> _Loaded:
    """Decode all pixels.

    With ``shorter_side`` a JPEG is decoded at 1/2, 1/4 or 1/8 of its size, if its shorter side keeps as many.
    """
    kind = media_type(data)
    check_size(data, kind, max_pixels)
    try:
        image = _PLUGINS[kind](io.BytesIO(data))
        size = image.size
        if size[0] * size[1] > max_pixels:
            raise ValueError("the header contradicts itself")  # noqa: TRY301 - becomes InvalidImage below
        # Only JPEG has a draft mode; the other plugins return None.
        reduced = image.draft(None, (shorter_side, shorter_side)) if shorter_side else None
        image.load()
    except Exception as error:
        # Damaged bytes surface in Pillow as OSError, SyntaxError, ValueError, struct.error, EOFError,
        # zlib.error, OverflowError, MemoryError, KeyError...: the list is open, the meaning is one.
        raise InvalidImage(f"The {kind} data are damaged or truncated: {error}") from error
    extent = (reduced[1][2], reduced[1][3]) if reduced else size
    return _Loaded(image, kind, size, extent, _orientation(image))


def _orientation(image: ImageFile) -> int:
    """1 to 8; damaged EXIF data count as 1, upright, because the pixels are whole all the same."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _upright_rgb(loaded: _Loaded) -> Image.Image:
    try:
        rgb = _to_rgb(loaded.image)
        if loaded.orientation == 1:
            return rgb
        return rgb.transpose(_UPRIGHT[loaded.orientation])
    except Exception as error:
        raise InvalidImage(f"The picture cannot be converted to RGB: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow would clip 16-bit grey at 255. The high byte is what it keeps of 16-bit colour.
        samples = np.asarray(image)
        grey = (samples >> 8).astype(np.uint8)
        grey[samples == image.info.get("transparency", -1)] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        colour = image.convert("RGBA")
        white = Image.new("RGBA", colour.size, "white")
        return Image.alpha_composite(white, colour).convert("RGB")
    return image.convert("RGB")


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
        """A picture's bytes -> uint8 [size, size, 3]; raises as :func:`decode` does.

        The same as ``crop(decode(data))``, except that a large JPEG is decoded at a fraction of its size that
        leaves at least twice the pixels wanted. Measured on photos of 12 million pixels: five times faster,
        0.3 grey levels of mean difference, log-odds changed by 0.05 at most.
        """
        loaded = _load(data, max_pixels, shorter_side=2 * self.shorter_side)
        image = _upright_rgb(loaded)
        place = self.placement(*loaded.upright_size)
        extent_x, extent_y = loaded.extent[::-1] if loaded.orientation >= 5 else loaded.extent
        # A partly empty last column or row comes first where turning the picture upright mirrored that axis.
        left = image.width - extent_x if loaded.orientation in {2, 3, 6, 7} else 0.0
        top = image.height - extent_y if loaded.orientation in {3, 4, 7, 8} else 0.0
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
