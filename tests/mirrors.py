"""A small data set of MNIST's form, its archives, and loopback mirrors that serve them well or badly."""

import contextlib
import gzip
import hashlib
import http.server
import itertools
import logging
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import FashionMNIST

from lit_mnist.data import files
from lit_mnist.data.checksums import SHA256

NAMES = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def idx(array: np.ndarray) -> bytes:
    """An array as the content of an IDX file."""
    return struct.pack(f">HBB{array.ndim}I", 0, 0x08, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def make_contents(train: int = 60, test: int = 30) -> dict[str, bytes]:
    """Contents of the four files, by name: noise, of which image i has label i % 10."""
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (count, 28, 28)) for count in (train, test)]
    labels = [np.arange(count) % 10 for count in (train, test)]
    return dict(zip(NAMES, [idx(images[0]), idx(labels[0]), idx(images[1]), idx(labels[1])], strict=True))


def pack(contents: dict[str, bytes]) -> dict[str, bytes]:
    """The archives of these contents, by name."""
    return {f"{name}.gz": gzip.compress(content, compresslevel=1, mtime=0) for name, content in contents.items()}


def know(contents: dict[str, bytes], archives: dict[str, bytes], patch: pytest.MonkeyPatch) -> None:
    """Have the program take these files for the true ones of Fashion-MNIST."""
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in (contents | archives).items()}
    patch.setitem(SHA256, "fashion_mnist", hashes)
    patch.setattr(FashionMNIST, "resources", [(name, "") for name in archives])


Answer = Callable[[http.server.BaseHTTPRequestHandler, bytes], None]


class Mirror:
    """A loopback server of archives.

    Args:
        archives: What it has, by name.
        answer: What it does with a request for one of them; by default it sends it whole.
    """

    def __init__(self, archives: dict[str, bytes], answer: Answer | None = None) -> None:
        self.requests: list[str] = []  # names of the archives asked for
        self.closing = threading.Event()
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rsplit("/", 1)[-1]
                mirror.requests.append(name)
                with contextlib.suppress(OSError):  # the other side may hang up
                    (answer or send)(self, archives[name])

            def log_message(self, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.mirror = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> "Mirror":
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()


def send(handler: http.server.BaseHTTPRequestHandler, body: bytes, length: int | None = None) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)


def slowly(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
    time.sleep(0.3)
    send(handler, body)


def not_found(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
    handler.send_error(404)


def short_body(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
    send(handler, body[:-9], len(body))


def short_chunks(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
    handler.send_response(200)
    handler.protocol_version = "HTTP/1.1"
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"%x\r\n" % len(body) + body[:-9])


def wrong_content(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
    send(handler, b"<html>log in to this network</html>")


def no_http(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
    handler.wfile.write(b"220 mail.example ESMTP\r\n")


def no_answer(handler: Any, body: bytes) -> None:
    handler.server.mirror.closing.wait()


def stalls(handler: Any, body: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.wfile.flush()
    handler.server.mirror.closing.wait()


def endless(handler: Any, body: bytes) -> None:
    handler.send_response(200)
    handler.end_headers()
    while not handler.server.mirror.closing.is_set():
        handler.wfile.write(bytes(1 << 20))


def trickling(handler: Any, body: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    for byte in body:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        if handler.server.mirror.closing.wait(0.1):
            return


def trickling_headers(handler: Any, body: bytes) -> None:
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n")
    for byte in itertools.cycle(b"X-Header: and another one\r\n"):
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        if handler.server.mirror.closing.wait(0.1):
            return


@contextlib.contextmanager
def refusing_url() -> Iterator[str]:
    """The URL of a port that nothing listens on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}/"


def load(folder: Path, contents: dict[str, bytes], mirrors: list[str], log: Path | None, again: bool = False) -> None:
    """Load the training images in a process of its own.

    Args:
        folder: Data folder.
        contents: Files that the program shall know.
        mirrors: Where it shall look for their archives.
        log: File for what the program says.
        again: Delete the unpacked files and start over, for ever.
    """
    if log:
        sys.stderr = log.open("w")
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    patch = pytest.MonkeyPatch()
    know(contents, pack(contents), patch)
    patch.setattr(FashionMNIST, "mirrors", mirrors)
    while True:
        images, labels = files.load("fashion_mnist", folder, "train")
        assert len(images) == len(labels)
        if not again:
            return
        for name in NAMES:
            (folder / "FashionMNIST" / "raw" / name).unlink(missing_ok=True)
