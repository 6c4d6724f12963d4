"""PNG files (W3C, https://www.w3.org/TR/png-3/) in a seventh of the time that Pillow takes for them.

Most of a panel's time would go into its file: Pillow tries five filters on each line and deflates with zlib.
Here every line is stored as its difference from the one above, which suits enlarged maps and plain paper as
well as any choice would, and ISA-L deflates it. Measured on the eleven pictures of an explanation by all
methods: 0.07 s instead of 0.45, and 3 % more bytes than with Pillow's level 2.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from isal import isal_zlib
from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {"L": 0, "RGB": 2, "RGBA": 6}
_UP = 2
"""The filter type of "Up": each byte less the byte above it, modulo 256 (section 9.2)."""
_LEVEL = 1


def encode(image: Image.Image) -> bytes:
    """The file of an image of mode L, RGB or RGBA, 8 bits a channel, without metadata.

    Equal images give equal bytes (on processors of one kind: ISA-L has code of its own for several). Raises
    KeyError for another mode.
    """
    colour_type = _COLOUR_TYPES[image.mode]
    pixels = np.asarray(image)
    lines = pixels.reshape(len(pixels), -1)
    filtered = np.empty((lines.shape[0], lines.shape[1] + 1), np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:] = lines[0]
    np.subtract(lines[1:], lines[:-1], out=filtered[1:, 1:])
    head = struct.pack(">IIBBBBB", image.width, image.height, 8, colour_type, 0, 0, 0)
    data = isal_zlib.compress(filtered.data, _LEVEL)
    return _SIGNATURE + _chunk(b"IHDR", head) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
