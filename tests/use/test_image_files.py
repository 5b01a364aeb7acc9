"""Image files take little memory whatever is in them, or get one line that says why they are not read."""

import io
import random
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from reliability import FRESH

from lit_mnist.use.image_files import PIXELS, ImageError, factors, load_image, reduced
from lit_mnist.use.images import prepare

ALLOWED = 200_000_000  # bytes that an image may take from reading the file to the answer
TOO_LARGE = "the image is too large to be read safely; scale it down"
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "I;16", "I;16B", "F")


def stripe(width: int, height: int, mode: str = "L") -> Image.Image:
    """A dark line on light, across the middle of the longer side."""
    image = Image.new("L", (width, height), 255)
    wide = width >= height
    thick = max(1, (height if wide else width) // 50)
    place, size = (0, height // 2), (width // 2, thick)
    if not wide:
        place, size = (width // 2, 0), (thick, height // 2)
    image.paste(0, (*place, place[0] + size[0], place[1] + size[1]))
    if mode in ("I;16", "I;16B"):
        kind = "<u2" if mode == "I;16" else ">u2"
        return Image.frombytes(mode, image.size, (np.asarray(image) * np.uint16(257)).astype(kind).tobytes())
    if mode == "LAB":
        return Image.merge("LAB", [image, image, image])
    return image.convert(mode)


def file_of(format: str, **options: Any) -> Callable[[Image.Image, Path], None]:
    return lambda image, path: image.save(path, format, **options)


def with_comment(image: Image.Image, path: Path) -> None:
    """A GIF file with 10 MB of comment, over which Pillow needs a quarter of a minute."""
    file = io.BytesIO()
    image.save(file, "GIF")
    content = file.getvalue()
    before = content.index(b",")
    path.write_bytes(content[:before] + b"\x21\xfe" + (b"\xff" + b"a" * 255) * 40_000 + b"\0" + content[before:])


def with_scans(image: Image.Image, path: Path) -> None:
    """A progressive JPEG file that repeats its last scan a thousand times."""
    file = io.BytesIO()
    image.save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content.rindex(b"\xff\xda")
    path.write_bytes(content[:last] + content[last:-2] * 1000 + b"\xff\xd9")


def with_chunk(image: Image.Image, path: Path) -> None:
    """A PNG file of a few pixels with a chunk of 300 MB, which takes no room on the disk."""
    file = io.BytesIO()
    image.save(file, "PNG")
    with path.open("wb") as out:
        out.write(file.getvalue()[:33] + struct.pack(">I", 300_000_000) + b"abCd")
        out.truncate(300_000_049)


def in_runs(image: Image.Image, path: Path) -> None:
    """A BMP file in runs of one pixel each, which Pillow reads in Python."""
    header = struct.pack("<2sIHHIIIIHHIIIIII", b"BM", 0, 0, 0, 1078, 40, *image.size, 1, 8, 1, 0, 0, 0, 256, 0)
    path.write_bytes(header + bytes(1024) + b"\1\1" * (image.width * image.height))


FILES: dict[str, tuple[int, int, str, Callable[[Image.Image, Path], None], bool]] = {
    "60,000 x 1": (60_000, 1, "L", file_of("PNG"), True),
    "1 x 60,000, 4 channels": (1, 60_000, "RGBA", file_of("PNG"), True),
    "1,000,000 x 1": (1_000_000, 1, "L", file_of("PNG"), True),
    "1 x 1,000,000": (1, 1_000_000, "RGB", file_of("PNG"), True),
    "10,000,000 x 1": (10_000_000, 1, "L", file_of("PNG"), True),
    "89,000,000 x 1": (89_000_000, 1, "L", file_of("PNG"), False),
    "30,000 x 3": (30_000, 3, "RGBA", file_of("PNG"), True),
    "65,000 x 1,300": (65_000, 1_300, "L", file_of("PNG"), True),
    "1,300 x 65,000": (1_300, 65_000, "L", file_of("PNG"), True),
    "89 million, grey": (9_400, 9_400, "L", file_of("PNG"), True),
    "89 million, 1 bit": (9_400, 9_400, "1", file_of("PNG"), True),
    "89 million, palette": (9_400, 9_400, "P", file_of("PNG"), True),
    "89 million, palette and transparent": (9_400, 9_400, "P", file_of("PNG", transparency=0), True),
    "89 million, colour": (9_400, 9_400, "RGB", file_of("PNG"), False),
    "42 million, colour": (6_480, 6_480, "RGB", file_of("PNG"), True),
    "42 million, colour and transparent": (6_480, 6_480, "RGBA", file_of("PNG"), True),
    "42 million, grey and transparent": (6_480, 6_480, "LA", file_of("PNG"), True),
    "84 million, 16 bit": (9_160, 9_160, "I;16", file_of("PNG"), True),
    "50 million, JPEG": (8_165, 6_124, "RGB", file_of("JPEG"), True),
    "50 million, progressive JPEG": (8_165, 6_124, "RGB", file_of("JPEG", progressive=True), True),
    "28 million, progressive JPEG, 4:4:4": (
        5_290,
        5_290,
        "RGB",
        file_of("JPEG", progressive=True, subsampling=0),
        True,
    ),
    "21 million, progressive JPEG, CMYK": (4_580, 4_580, "CMYK", file_of("JPEG", progressive=True), True),
    "84 million, progressive JPEG, grey": (9_160, 9_160, "L", file_of("JPEG", progressive=True), True),
    "24 million, BMP": (6_000, 4_000, "RGB", file_of("BMP"), True),
    "16 million, BMP in runs": (4_000, 4_000, "L", in_runs, False),
    "15 million, TIFF": (4_800, 3_200, "RGB", file_of("TIFF", tiffinfo={278: 3_200}), True),
    "20 million, TIFF, deflated": (
        4_580,
        4_580,
        "RGB",
        file_of("TIFF", compression="tiff_deflate", tiffinfo={278: 4_580}),
        True,
    ),
    "84 million, TIFF, 1 bit": (9_160, 9_160, "1", file_of("TIFF", compression="group4"), True),
    "14 million, TIFF of floats": (3_740, 3_740, "F", file_of("TIFF"), True),
    "10 million, WebP": (4_000, 2_600, "RGB", file_of("WEBP", method=0), True),
    "10 million, WebP, lossless": (4_000, 2_600, "RGBA", file_of("WEBP", lossless=True, method=0), True),
    "89 million, GIF": (9_400, 9_400, "P", file_of("GIF"), True),
    "comments": (90, 90, "P", with_comment, False),
    "scans": (900, 900, "RGB", with_scans, False),
    "chunk": (90, 90, "L", with_chunk, False),
}


def _read(paths: list[Path], answers: Any) -> None:
    """Prepare each file in a process that may take so much memory more than it has with all it needs imported."""
    prepare(load_image(paths[0]))
    status = Path("/proc/self/status").read_text()
    has = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData"))  # kB
    resource.setrlimit(resource.RLIMIT_DATA, (has * 1024 + ALLOWED,) * 2)
    for path in paths:
        try:
            answers.put(list(prepare(load_image(path)).shape))
        except ImageError as error:
            answers.put(str(error))
        except MemoryError:
            answers.put("no memory")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs to know how much memory a process has")
@pytest.mark.parametrize("name", FILES)
def test_an_image_of_whatever_size_takes_200_mb_at_most_or_gets_one_line(name: str, tmp_path: Path) -> None:
    width, height, mode, write, is_read = FILES[name]
    stripe(90, 60).save(tmp_path / "small.png")
    write(stripe(width, height, mode), tmp_path / "large")
    answers = FRESH.SimpleQueue()
    process = FRESH.Process(target=_read, args=([tmp_path / "small.png", tmp_path / "large"], answers))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert answers.get() == [28, 28]
    assert answers.get() == ([28, 28] if is_read else TOO_LARGE)


def test_whatever_its_size_and_mode_an_image_is_reduced_to_about_a_million_pixels_and_keeps_its_shape() -> None:
    chance = random.Random(0)
    for trial in range(60):
        pixels = 10 ** chance.uniform(0, 7)
        ratio = 10 ** chance.uniform(-7, 7)
        width, height = (max(1, round(min(pixels, (pixels * share) ** 0.5))) for share in (ratio, 1 / ratio))
        image = stripe(width, height, MODES[trial % len(MODES)])
        small = reduced(image)
        across, down = factors(image)
        assert small.mode in ("L", "RGB", "RGBA", "F")
        assert small.size == (-(-width // across), -(-height // down))
        assert small.width * small.height <= 2 * PIXELS
        if width * height <= PIXELS:
            assert small.size == image.size
        elif small.width > 1 and small.height > 1:
            assert across == down


@pytest.mark.parametrize("mode", MODES)
def test_an_image_reduced_in_bands_is_what_it_is_reduced_at_once(mode: str) -> None:
    for size in ((4_100, 1_300), (1_300, 4_100)):
        image = stripe(*size, mode)
        at_once = np.asarray(stripe(*size).reduce(factors(image)), float)
        small = np.asarray(reduced(image).convert("RGB").convert("L"), float)
        if mode.startswith("I;"):
            small = np.asarray(reduced(image), float) / 257
        assert abs(small - at_once).max() <= (3 if mode in ("CMYK", "YCbCr") else 1)


@pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000), (1_000_000, 1), (20_000, 40)])
def test_a_strip_gives_what_is_drawn_on_it(size: tuple[int, int]) -> None:
    image = prepare(stripe(*size))
    rows, columns = (image > 0).any(1).sum().item(), (image > 0).any(0).sum().item()
    longer, shorter = (columns, rows) if size[0] > size[1] else (rows, columns)
    assert longer == 20
    assert shorter <= 5
