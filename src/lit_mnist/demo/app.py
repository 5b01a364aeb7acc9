"""What the demo's page asks for: its own three files, and a reading of an image."""

import asyncio
import html
import io
import sys
from pathlib import Path
from string import Template

import torch
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from lit_mnist.classifier import Classifier
from lit_mnist.data.module import rescale
from lit_mnist.image_files import ImageError, load_image
from lit_mnist.images import prepare

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

    def home(request: Request) -> Response:
        return HTMLResponse(page, headers=HEADERS)

    def asset(request: Request) -> Response:
        return FileResponse(FOLDER / request.url.path.lstrip("/"), headers=HEADERS)

    async def read(request: Request) -> Response:
        content = await body(request)
        if content is None:
            return JSONResponse({"error": f"The image is larger than {LIMIT // 1_000_000} MB."}, 413)
        async with turns:
            return await run_in_threadpool(answer, classifier, content)

    return Starlette(
        routes=[
            Route("/", home),
            Route("/page.css", asset),
            Route("/page.js", asset),
            Route("/read", read, methods=["POST"]),
        ],
        exception_handlers={ClientDisconnect: gone, Exception: failed},
    )


def gone(request: Request, error: Exception) -> Response:
    """Nothing, since nobody is there to read it."""
    return Response(status_code=400)


def failed(request: Request, error: Exception) -> Response:
    """A message instead of an answer, and a line on the terminal; the server goes on."""
    print(f"lit-mnist: error: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
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
