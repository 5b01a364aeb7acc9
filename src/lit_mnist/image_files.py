"""Image files: found in folders, decoded to about a million pixels at most, and resized to a shape."""

import math
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif"}
PIXELS = 1_000_000  # larger images are downscaled to this size or less: strokes stay wide enough, and it is fast
LIMIT = 50_000_000  # pixels, which bounds the memory that a file can take
Image.MAX_IMAGE_PIXELS = None  # LIMIT replaces Pillow's
warnings.filterwarnings("ignore", module="PIL")  # for example, of damaged EXIF data


class ImageError(Exception):
    """An image cannot be used; the message is one line that says why."""


def load_image(source: str | Path | BinaryIO) -> Image.Image:
    """Read the first frame of an image file, rotated by its EXIF data and downscaled to about a million pixels at most.

    Args:
        source: Path of a PNG, JPEG, BMP, TIFF, WebP or GIF file, or a file of that kind opened for reading bytes.

    Returns:
        An image in mode L, RGB or RGBA. Raises ImageError for a file that cannot be used.
    """
    try:
        with Image.open(source, formats=FORMATS) as image:  # reads only the header
            if image.width * image.height > LIMIT:
                raise ImageError("the image has more than 50 megapixels; scale it down")
            factor = math.ceil(math.sqrt(image.width * image.height / PIXELS))
            return ImageOps.exif_transpose(_plain(image).reduce(factor))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        if str(source).endswith(".csv"):
            how = "Image.fromarray(row.reshape(28, 28).astype('uint8')).save(...) makes an image of a row of 784 pixels"
            raise ImageError(f"a table is not an image; Pillow's {how}") from error
        raise ImageError(f"the file is not an image in a supported format: {', '.join(FORMATS)}") from error
    except Exception as error:  # for a damaged file, Pillow raises errors of many types
        raise ImageError(getattr(error, "strerror", None) or "the image is damaged or cut off") from error


def _plain(image: Image.Image) -> Image.Image:
    """An image in mode L, RGB or RGBA, with its EXIF data."""
    if image.mode.startswith(("I", "F")):  # values of more than 8 bits, or of any range
        pixels = np.nan_to_num(np.asarray(image).astype(np.float32), posinf=0, neginf=0)  # (H, W)
        whites = (1, 255, 1023, 4095, 16383, 65535) if pixels.min() >= 0 else ()  # negative for standardised values
        pixels -= min(pixels.min(), 0)
        white = next((white for white in whites if pixels.max() <= white), max(pixels.max(), 1e-9))
        plain = Image.fromarray((pixels * (255 / white)).round().astype(np.uint8))
    elif image.mode == "LAB":
        plain = image.getchannel(0)  # lightness
    elif image.has_transparency_data:
        plain = image.convert("RGBA")
    else:
        plain = image.convert("L" if image.mode in ("1", "L") else "RGB")
    plain.getexif().update(image.getexif())
    return plain


def fit(image: Image.Image, shape: Sequence[int]) -> Tensor:
    """Resize an image in proportion and pad it with black: (H, W) greyscale or (3, H, W) RGB, uint8."""
    if len(shape) == 3 and shape[0] not in (1, 3):
        raise ImageError(f"an image file has 1 or 3 channels, but the network takes {shape[0]}")
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    image = image.convert("L" if len(shape) == 2 or shape[0] == 1 else "RGB")
    padded = ImageOps.pad(image, (shape[-1], shape[-2]), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(padded))  # (H, W) or (H, W, 3)
    return (pixels.movedim(-1, 0) if pixels.ndim == 3 else pixels).reshape(*shape)


def find_images(images: Iterable[str | Path]) -> list[Path]:
    """Expand folders to the image files in them, without duplicates, in the order given and sorted within a folder.

    A file may have any name. Folders are searched recursively for files with the suffix of an image; hidden files and
    hidden folders are skipped. Raises ImageError for a folder without an image.
    """
    found: dict[Path, None] = {}
    for path in (Path(image).expanduser() for image in images):
        if path.is_dir():
            below = images_below(path)
            if not below:
                raise ImageError(f"{path}: no file in this folder has a suffix of {', '.join(sorted(SUFFIXES))}")
        found |= dict.fromkeys(below if path.is_dir() else [path])
    return list(found)


def images_below(folder: Path) -> list[Path]:
    """The image files in a folder and its subfolders, sorted, without hidden files and folders."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    return [file for file in files if "/." not in f"/{file.relative_to(folder).as_posix()}"]


def show_progress(items: Iterable[Any], total: int) -> Iterable[Any]:
    """Iterate over items with a progress bar on stderr, if that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(items, "reading", total, console=console, transient=True, disable=not console.is_terminal)
