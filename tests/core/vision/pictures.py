"""Pictures as bytes, for the tests."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .conftest import EXAMPLES

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photo(path: Path = EXAMPLES[0]) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _turned() -> dict[str, tuple[bytes, bool]]:
    picture = Image.new("RGB", (24, 16), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    xmp = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
        "</rdf:RDF></x:xmpmeta>"
    )
    png, png_xmp, png_text = encoded(picture, "PNG"), PngInfo(), PngInfo()
    png_xmp.add_itxt("XML:com.adobe.xmp", xmp)
    png_text.add_text("Raw profile type exif", f"\nexif\n{len(exif.tobytes())}\n{exif.tobytes().hex()}\n")
    end = png_chunk(b"IEND", b"")
    late = png.removesuffix(end) + png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + end
    return {
        "JPEG, EXIF": (encoded(picture, "JPEG", exif=exif), True),
        "PNG, EXIF": (encoded(picture, "PNG", exif=exif), True),
        "PNG, EXIF after the pixels": (late, False),
        "PNG, EXIF as text": (encoded(picture, "PNG", pnginfo=png_text), False),
        "WebP, EXIF": (encoded(picture, "WEBP", exif=exif), False),
        "JPEG, XMP": (encoded(picture, "JPEG", xmp=xmp.encode()), False),
        "PNG, XMP": (encoded(picture, "PNG", pnginfo=png_xmp), False),
        "WebP, XMP": (encoded(picture, "WEBP", xmp=xmp.encode()), False),
    }


TURNED = _turned()
"""Pictures of 24 x 16 with an orientation of 6, a quarter turn, by where that is noted; and whether browsers
turn them, which tests/browser asks one."""
