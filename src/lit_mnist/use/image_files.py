"""Image files: found in folders, and read as pictures of at most a million pixels."""

import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif"}
PIXELS = 1_000_000  # larger images are reduced to about so many: strokes stay wide enough, and it takes moments
Image.MAX_IMAGE_PIXELS = 50_000_000  # which bounds the memory that a file can take


class ImageError(Exception):
    """There is nothing to be had from an image; the message is one line that says why."""


def load_image(source: str | Path | BinaryIO) -> Image.Image:
    """Read the first picture of an image file, turned as its EXIF data says and reduced to about a million pixels.

    Args:
        source: Path of a PNG, JPEG, BMP, TIFF, WebP or GIF file, or a file of that kind opened for reading bytes.

    Returns:
        An image in mode L, RGB, RGBA or, of numbers of more than 8 bits, F; an ImageError says why there is none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source, formats=FORMATS) as image:
                factor = math.ceil(math.sqrt(image.width * image.height / PIXELS))
                return ImageOps.exif_transpose(_plain(image).reduce(factor))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError("the image has more than 50 megapixels; scale it down") from error
    except UnidentifiedImageError as error:
        if str(source).endswith(".csv"):
            how = "Image.fromarray(row.reshape(28, 28).astype('uint8')).save(...) makes an image of a row of 784 pixels"
            raise ImageError(f"a table is no image; Pillow's {how}") from error
        raise ImageError(f"the file is no image in a format that is read: {', '.join(FORMATS)}") from error
    except Exception as error:  # whatever else Pillow makes of a damaged file
        raise ImageError(getattr(error, "strerror", None) or "the image is damaged or cut off") from error


def _plain(image: Image.Image) -> Image.Image:
    """An image in a mode that can be reduced: L, RGB, RGBA or F, with its EXIF data."""
    if image.mode.startswith(("I", "F")):
        plain = Image.fromarray(np.nan_to_num(np.asarray(image).astype(np.float32), posinf=0, neginf=0))
    elif image.mode == "LAB":
        plain = image.getchannel(0)  # lightness
    elif image.has_transparency_data:
        plain = image.convert("RGBA")
    else:
        plain = image.convert("L" if image.mode in ("1", "L") else "RGB")
    plain.getexif().update(image.getexif())
    return plain


def find_images(images: Iterable[str | Path]) -> list[Path]:
    """The files that are meant by files and folders, each once, in the order given and sorted within a folder.

    A file is taken whatever its name. Of a folder and the folders in it those files are taken whose suffix is one of an
    image, without hidden ones and hidden folders; an ImageError says that there is none.
    """
    found: dict[Path, None] = {}
    for path in (Path(image).expanduser() for image in images):
        if path.is_dir():
            below = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
            below = [file for file in below if "/." not in f"/{file.relative_to(path).as_posix()}"]
            if not below:
                raise ImageError(f"{path}: there is no image in this folder: {', '.join(sorted(SUFFIXES))}")
        found |= dict.fromkeys(below if path.is_dir() else [path])
    return list(found)
