"""Image files, read within bounds: whatever a file holds, it takes little memory and time, or gets one line."""

import contextlib
import math
import stat
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif"}

PIXELS = 1_000_000  # larger images are reduced to about so many: strokes stay wide enough, and it takes moments
MEMORY = 170_000_000  # bytes that reading a file may take; what comes after it takes less than 30 million more
# Bytes of a file, by how it starts: Pillow's time for comments in GIF and JPEG files grows with their size's square.
LARGEST = {b"GIF": 2_000_000, b"\xff\xd8\xff": 25_000_000}
SCANS = 30  # of a progressive JPEG file; each of them goes over the whole image
ORIENTATION = 0x0112  # in EXIF data


class ImageError(Exception):
    """There is no digit to be had from an image; the message is one line that says why."""


def load_image(source: str | Path | BinaryIO) -> "Image.Image":
    """Read the first picture of an image file, reduce it as `reduced` does and turn it as its EXIF data says.

    Args:
        source: Path of a PNG, JPEG, BMP, TIFF, WebP or GIF file, or a file of that kind opened for reading bytes.

    Raises:
        ImageError: The file cannot be read, is no image, is damaged, or would take too much memory.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    size = 0
    try:
        with _opened(source) as file:
            size = file.seek(0, 2)
            file.seek(0)
            if size > LARGEST.get(file.read(3), MEMORY // 2):  # Pillow may hold a part of a file twice
                raise Image.DecompressionBombError
            with Image.open(file, formats=FORMATS) as image:
                pixels = image.width * image.height
                takes = (pixels + 2 * image.width) * _memory(image) + size  # with rows to work on
                if pixels > (Image.MAX_IMAGE_PIXELS or math.inf) or takes > MEMORY or _scans(image, file) > SCANS:
                    raise Image.DecompressionBombError
                across, down = factors(image)
                image.draft(None, (math.ceil(image.width / across), math.ceil(image.height / down)))
                small = reduced(image)
                small.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
        return ImageOps.exif_transpose(small)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError("the image is too large to be read safely; scale it down") from error
    except UnidentifiedImageError as error:
        if not size:
            raise ImageError("the file is empty") from error
        raise ImageError(f"the file is no image in a format that is read: {', '.join(FORMATS)}") from error
    except OSError as error:
        raise ImageError(error.strerror or "the image is damaged or cut off") from error
    except Exception as error:  # whatever else Pillow makes of a damaged file
        raise ImageError("the image is damaged or cut off") from error


def _opened(source: str | Path | BinaryIO) -> contextlib.AbstractContextManager[BinaryIO]:
    """The file of a path, to be closed again; a pipe, which could keep us waiting for ever, is not opened."""
    if not isinstance(source, str | Path):
        return contextlib.nullcontext(source)
    if "\0" in str(source):
        raise ImageError("there is no such file: the name has a NUL character")
    kind = Path(source).stat().st_mode
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):  # opening a folder says what is wrong
        raise ImageError("it is a pipe, a socket or a device, and no file")
    return Path(source).open("rb")


def _scans(image: "Image.Image", file: BinaryIO) -> int:
    """How often a progressive JPEG file goes over its image."""
    if "progression" not in image.info:
        return 1
    position = file.tell()
    file.seek(0)
    scans = file.read().count(b"\xff\xda")
    file.seek(position)
    return scans


def _memory(image: "Image.Image") -> int:
    """Bytes that Pillow takes for each pixel while it reads an image, at most, as measured."""
    from PIL import JpegImagePlugin

    stored = 1 if image.mode in ("1", "L", "P") else 2 if image.mode.startswith("I;16") else 4
    if image.format == "JPEG":  # is reduced while it is read, but may keep all coefficients till then
        return {1: 4, 2: 3}.get(JpegImagePlugin.get_sampling(image), 2 * len(image.getbands()))
    if image.format == "WEBP":
        return 16
    if image.format == "BMP" and image.info.get("compression"):  # of runs, which Pillow reads pixel by pixel in Python
        return 100
    return 2 * stored if image.format == "TIFF" else stored  # its strips may be as large as the image


def factors(image: "Image.Image") -> tuple[int, int]:
    """By how much width and height are reduced: alike, but for a strip that is only a few pixels wide or high."""
    alike = math.ceil(math.sqrt(image.width * image.height / PIXELS))
    return max(alike, math.ceil(image.width / PIXELS)), max(alike, math.ceil(image.height / PIXELS))


def reduced(image: "Image.Image") -> "Image.Image":
    """An image in mode L, RGB, RGBA or, of numbers of more than 8 bits, F, reduced to about a million pixels.

    It is converted and reduced in bands, so that no second image of its size is made.
    """
    from PIL import Image

    across, down = factors(image)
    wide = image.width > image.height
    length, factor = (image.width, across) if wide else (image.height, down)
    step = factor * max(1, PIXELS // (factor * min(image.size)))
    bands = []
    for start in range(0, length, step):
        end = min(start + step, length)
        box = (start, 0, end, image.height) if wide else (0, start, image.width, end)
        bands.append(_plain(image.crop(box)).reduce((across, down)))
    small = Image.new(bands[0].mode, (math.ceil(image.width / across), math.ceil(image.height / down)))
    for number, band in enumerate(bands):
        place = number * step // factor
        small.paste(band, (place, 0) if wide else (0, place))
    return small


def _plain(image: "Image.Image") -> "Image.Image":
    """An image in a mode that can be reduced: L, RGB, RGBA or F."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        return Image.fromarray(np.nan_to_num(np.asarray(image).astype(np.float32), posinf=0, neginf=0))
    if image.mode == "LAB":
        return image.getchannel(0)  # lightness
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
