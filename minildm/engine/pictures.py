"""One picture, from whatever file it comes in to the bytes that a network trains on."""

from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

LARGEST_PIXELS = 64_000_000  # a larger picture is refused before it is decoded
# Formats whose decoders only decode: PostScript, for one, is a program, which Pillow would have Ghostscript run.
Image.init()
FORMATS = [name for name in "PNG JPEG WEBP GIF BMP TIFF PPM AVIF JPEG2000 ICO TGA".split() if name in Image.OPEN]


def decode(file: BinaryIO) -> Image.Image:
    """The picture in an open file, turned as its camera was held; of an animation the first frame.

    Raises:
        ValueError: too large, or no picture in a known format. Whatever else Pillow raises: broken.
    """
    try:
        picture = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError("no picture in a known format") from None
    if picture.width * picture.height > LARGEST_PIXELS:
        raise ValueError(f"{picture.width}×{picture.height} is more than {LARGEST_PIXELS} pixels")
    ImageOps.exif_transpose(picture, in_place=True)
    return picture


def fit_picture(picture: Image.Image, size: int, channels: int, fit: str) -> np.ndarray:
    """Any picture as channels×size×size bytes: transparency on white, then cut and resized, or padded with black."""
    if picture.mode.startswith("I;16") or picture.mode == "I":  # 16 bits a pixel
        picture = Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
    if picture.mode == "F":
        raise ValueError("its values are floating-point numbers of unknown range")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    picture = picture.convert("L" if channels == 1 else "RGB")
    if fit == "pad":
        picture.thumbnail((size, size), Image.Resampling.LANCZOS)  # only ever makes smaller
        padded = Image.new(picture.mode, (size, size))
        padded.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
        picture = padded
    elif picture.size != (size, size):
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.resize((size, size), Image.Resampling.LANCZOS, (left, top, left + side, top + side))
    return np.ascontiguousarray(np.asarray(picture).reshape(size, size, channels).transpose(2, 0, 1))
