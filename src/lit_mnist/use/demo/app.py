"""The server of the demo: the three files of its page, and predictions of images."""

import base64
import html
import io
import json
from pathlib import Path
from string import Template

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from torchvision.io import encode_png

from lit_mnist.classifier import Classifier
from lit_mnist.image_files import ImageError, load_image
from lit_mnist.use.images import preparation
from lit_mnist.use.predict import probabilities_of

FOLDER = Path(__file__).parent
LIMIT = 10_000_000  # bytes of an image file
HEADERS = {
    # The browser blocks requests from the page to any other machine.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'self'",
    "Cache-Control": "no-store",
}


def application(classifier: Classifier, checkpoint: str, about: str, hosts: list[str]) -> Starlette:
    """The demo as an ASGI application; the page shows `checkpoint` and `about`, and is served for `hosts`.

    ``GET /`` is the page. ``POST /read`` takes an image file as its body and answers with JSON: an ``error`` in one
    line, or the classes' ``probabilities`` and, as a PNG data URL, the image that the model has ``seen``.
    """
    digits = all(name.isdecimal() for name in classifier.classes)
    page = Template((FOLDER / "page.html").read_text()).substitute(
        checkpoint=html.escape(checkpoint),
        about=html.escape(about),
        limit=LIMIT,
        title="Draw a digit" if digits else "Draw or drop an image",
        how="Draw one digit with mouse or finger, or drop an image of one." if digits else "Use mouse or finger.",
        classes=html.escape(json.dumps(classifier.classes)),
    )

    async def home(request: Request) -> Response:
        return HTMLResponse(page, headers=HEADERS)

    async def read(request: Request) -> Response:
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > LIMIT:
                return JSONResponse({"error": f"The image is larger than {LIMIT // 1_000_000} MB."}, 413)
        return await run_in_threadpool(answer, classifier, bytes(content))

    async def asset(request: Request) -> Response:
        return FileResponse(FOLDER / request.url.path[1:], headers=HEADERS)

    return Starlette(
        routes=[
            Route("/", home),
            Route("/page.css", asset),
            Route("/page.js", asset),
            Route("/read", read, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
    )


def answer(classifier: Classifier, content: bytes) -> Response:
    """The prediction of an image file as JSON."""
    try:
        image = preparation(classifier.dataset, classifier.image_shape)(load_image(io.BytesIO(content)))
    except ImageError as error:
        reason = str(error)
        return JSONResponse({"error": f"{reason[:1].upper()}{reason[1:]}."}, 400)
    probabilities = probabilities_of(classifier, image[None])[0]  # (1, *image_shape) -> (C,)
    png = base64.b64encode(encode_png(image if image.ndim == 3 else image[None]).numpy().tobytes()).decode()
    return JSONResponse({"probabilities": probabilities.tolist(), "seen": f"data:image/png;base64,{png}"})
