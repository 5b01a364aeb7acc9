"""What the demo's page asks for: its own three files, and a reading of an image."""

import asyncio
import html
import io
import ipaddress
import re
import socket
from pathlib import Path
from string import Template

import torch
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from lit_mnist.classifier import Classifier
from lit_mnist.data.module import rescale
from lit_mnist.errors import print_error
from lit_mnist.use.image_files import ImageError, load_image
from lit_mnist.use.images import prepare

FOLDER = Path(__file__).parent
LIMIT = 10_000_000  # bytes of an image file
HEADERS = {
    # The browser itself keeps the page from asking any other machine for anything.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'self'",
    "Cache-Control": "no-store",
}


def application(classifier: Classifier, checkpoint: str, about: str) -> Starlette:
    """The demo as an ASGI application.

    ``GET /`` is the page. ``POST /read`` takes an image file as its body and answers with JSON: the ten
    ``probabilities`` and the 784 pixels, 0 to 255, that the model has ``seen``, or else an ``error`` in one line.

    Args:
        classifier: Reads the images.
        checkpoint: Its name, for the page.
        about: A line about it, for the page.
    """
    classifier.eval()
    turns = asyncio.Semaphore(2)  # a small file can be an image of hundreds of MB
    page = Template((FOLDER / "page.html").read_text()).substitute(
        checkpoint=html.escape(checkpoint), about=html.escape(about), limit=LIMIT
    )

    async def home(request: Request) -> Response:
        return HTMLResponse(page, headers=HEADERS)

    def asset(name: str, media_type: str) -> Route:
        content = (FOLDER / name).read_bytes()  # once: a request should open no file

        async def send(request: Request) -> Response:
            return Response(content, media_type=media_type, headers=HEADERS)

        return Route(f"/{name}", send)

    async def read(request: Request) -> Response:
        content = await body(request)
        if content is None:
            return JSONResponse({"error": f"The image is larger than {LIMIT // 1_000_000} MB."}, 413)
        async with turns:
            return await run_in_threadpool(answer, classifier, content)

    return Starlette(
        routes=[
            Route("/", home),
            asset("page.css", "text/css"),
            asset("page.js", "text/javascript"),
            Route("/read", read, methods=["POST"]),
        ],
        exception_handlers={ClientDisconnect: gone, Exception: failed},
    )


class OwnOrigin:
    """Lets those requests through to an application that its own page sent, or a program, and refuses others.

    A page elsewhere could otherwise send it images, and read the answers once a name of its own leads to this machine
    (DNS rebinding). An address cannot be made to lead elsewhere, so those are let through.

    Args:
        app: An ASGI application.
        host: What it listens on: a loopback address is asked for by loopback addresses and as localhost alone, others
            by any address, by their own name and by the name of this machine.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app = app
        self.loopback = is_loopback(host)
        self.names = {"localhost", host.lower()} | (set() if self.loopback else {socket.gethostname().lower()})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        own = self._is_own(re.sub(r":[0-9]*$", "", host).removeprefix("[").removesuffix("]"))
        if own and all(origin.lower().partition("://")[2] == host for origin in headers.getlist("origin")):
            await self.app(scope, receive, send)
        else:
            message = "This request names another host, or comes from a page elsewhere; it is refused."
            await JSONResponse({"error": message}, 403, {"Connection": "close"})(scope, receive, send)

    def _is_own(self, name: str) -> bool:
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self.names
        return address.is_loopback or not self.loopback


def is_loopback(host: str) -> bool:
    """Whether only this machine itself can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def gone(request: Request, error: Exception) -> Response:
    """Nothing, since nobody is there to read it."""
    return Response(status_code=400)


def failed(request: Request, error: Exception) -> Response:
    """A message instead of an answer, and a line on the terminal; the server goes on."""
    print_error(f"{type(error).__name__}: {error}")
    return JSONResponse({"error": "The demo failed; its terminal says why."}, 500)


async def body(request: Request) -> bytes | None:
    """The body of a request, or None where it is larger than LIMIT: it is read to its end, but not kept."""
    content = bytearray()
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= LIMIT:
            content += chunk
    return bytes(content) if size <= LIMIT else None


def answer(classifier: Classifier, content: bytes) -> Response:
    """Read an image file, as JSON."""
    try:
        image = prepare(load_image(io.BytesIO(content)))  # (28, 28) uint8
    except ImageError as error:
        reason = str(error)
        return JSONResponse({"error": f"{reason[:1].upper()}{reason[1:]}."}, 400)
    with torch.inference_mode():
        probabilities = classifier(rescale(image[None])).softmax(1)[0]  # (1, 784) -> (10,)
    return JSONResponse({"probabilities": probabilities.tolist(), "seen": image.flatten().tolist()})
