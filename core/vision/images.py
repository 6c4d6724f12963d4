"""From a picture's bytes to an upright RGB picture.

Strangers' bytes arrive here first. Whatever is wrong with them ends as UnsupportedMediaType or InvalidImage,
and nothing global is changed on the way, so that threads may decode at the same time.

The API checks pictures with it, and stays small: neither torch nor NumPy is imported here.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from core.errors import InvalidImage
from core.vision.headers import Header, MediaType, media_type, read_header
from core.vision.room import Room

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
    """Width and height in pixels, as browsers show the picture: after EXIF orientation in JPEG and PNG."""

    width: int
    height: int
    media_type: MediaType


def inspect(data: bytes, *, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Check that ``data`` is a whole picture that :func:`decode` will accept.

    A JPEG is decoded at an eighth of its size: all its entropy-coded data are read, so a truncated file is
    noticed, while most of the arithmetic is saved, and unless it is progressive nearly all of the memory.

    Raises UnsupportedMediaType if it is no JPEG, PNG or WebP; InvalidImage if it is empty, damaged or
    truncated, or has more than ``max_pixels`` pixels.
    """
    with loaded(data, max_pixels=max_pixels, shorter_side=1, converts=False) as picture:
        return ImageInfo(*picture.upright_size, picture.media_type)


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode ``data`` to an upright RGB picture, the same for the same bytes.

    Orientation is applied where browsers apply it, so that a map of the upright picture lies right over what
    they show: that of EXIF in JPEG and, before the pixels, in PNG; never that of WebP or of XMP.

    Transparency is laid over white. 16-bit samples keep their high byte, and of 16-bit colours all with those
    of the transparent one are transparent. CMYK is converted without a colour profile, and embedded profiles
    are ignored. Of an animation the first frame is taken.

    Raises as :func:`inspect` does.
    """
    with loaded(data, max_pixels=max_pixels) as picture:
        return picture.upright_rgb()


@dataclass(frozen=True, slots=True)
class Loaded:
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

    def upright_rgb(self) -> Image.Image:
        """As :func:`decode` says. Raises InvalidImage if the pixels cannot be converted."""
        try:
            rgb = _to_rgb(self.image)
            return rgb if self.orientation == 1 else rgb.transpose(_UPRIGHT[self.orientation])
        except Exception as error:
            raise InvalidImage(f"The picture cannot be converted to RGB: {error}") from error


@contextmanager
def loaded(
    data: bytes, *, max_pixels: int = MAX_PIXELS, shorter_side: int | None = None, converts: bool = True
) -> Iterator[Loaded]:
    """Decode all pixels, and leave them as they are stored. Raises as :func:`inspect` does.

    With ``shorter_side`` a JPEG is decoded at 1/2, 1/4 or 1/8 of its size, if its shorter side keeps as many.
    Waits for its share of the memory that this process has for decoding, and holds it for the block, in which
    the picture is converted to RGB if ``converts``.
    """
    kind = media_type(data)
    header = read_header(data, kind, max_pixels)
    with _room.taken(_memory(header, kind, shorter_side, converts=converts)):
        yield _load(data, kind, max_pixels, shorter_side)


_room = Room(256 << 20)

# Bytes a pixel at most, measured: to decode it, and to convert the picture to RGB.
_DECODING: dict[MediaType, int] = {"image/jpeg": 4, "image/png": 4, "image/webp": 16}
_CONVERTING: dict[MediaType, int] = {"image/jpeg": 4, "image/png": 16, "image/webp": 12}
_COEFFICIENTS = 8


def _memory(header: Header, kind: MediaType, shorter_side: int | None, *, converts: bool) -> int:
    """Bytes that will be needed at most."""
    width, height = max(header.sizes, key=lambda size: size[0] * size[1], default=(0, 0))
    pixels = decoded = width * height
    if kind == "image/jpeg" and shorter_side:
        reduction = min(width, height) // shorter_side
        decoded //= next((scale**2 for scale in (8, 4, 2) if scale <= reduction), 1)
    needed = decoded * (_DECODING[kind] + (_CONVERTING[kind] if converts else 0))
    return needed if header.in_one_pass else needed + pixels * _COEFFICIENTS


def _load(data: bytes, kind: MediaType, max_pixels: int, shorter_side: int | None) -> Loaded:
    try:
        image = _PLUGINS[kind](io.BytesIO(data))
        size = image.size
        if size[0] * size[1] > max_pixels:
            raise ValueError("the header contradicts itself")  # noqa: TRY301 - becomes InvalidImage below
        orientation = _orientation(image, kind)  # before load(), which reads what comes after a PNG's pixels
        if isinstance(image, PngImageFile):
            _scale_transparent_colour(image)
        # Only JPEG has a draft mode; the other plugins return None.
        reduced = image.draft(None, (shorter_side, shorter_side)) if shorter_side else None
        image.load()
    except Exception as error:
        # Damaged bytes surface in Pillow as OSError, SyntaxError, ValueError, struct.error, EOFError,
        # zlib.error, OverflowError, MemoryError, KeyError...: the list is open, the meaning is one.
        raise InvalidImage(f"The {kind} data are damaged or truncated: {error}") from error
    extent = (reduced[1][2], reduced[1][3]) if reduced else size
    return Loaded(image, kind, size, extent, orientation)


def _orientation(image: ImageFile, kind: MediaType) -> int:
    """1 to 8; damaged EXIF data count as 1, upright, because the pixels are whole all the same.

    Not by Pillow's getexif(), which takes it from XMP and from PNG's text as well: no browser does.
    """
    if kind == "image/webp":
        return 1
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        value = exif.get(_EXIF_ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _scale_transparent_colour(image: PngImageFile) -> None:
    """Pillow scales the samples of 2, 4 and 16 bits to 8, but not the one colour that is transparent."""
    colour = image.info.get("transparency")
    if colour is None:
        return
    match image.tile[0].args:  # how the samples are stored; gone after load()
        case "L;2":
            image.info["transparency"] = (colour & 0b11) * 0x55
        case "L;4":
            image.info["transparency"] = (colour & 0b1111) * 0x11
        case "RGB;16B":
            image.info["transparency"] = tuple(sample >> 8 for sample in colour)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow would clip 16-bit grey at 255. The high byte is what it keeps of 16-bit colour.
        transparent = image.info.get("transparency", -1)
        grey = [255 if sample == transparent else sample >> 8 for sample in range(1 << 16)]
        return image.convert("I").point(grey, "L").convert("RGB")
    if image.has_transparency_data:
        colour = image.convert("RGBA")
        white = Image.new("RGBA", colour.size, "white")
        return Image.alpha_composite(white, colour).convert("RGB")
    return image.convert("RGB")
