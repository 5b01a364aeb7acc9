"""A page on this machine where a person draws a digit and sees what the model makes of it."""

import socket
from typing import Any

from torch import nn

from lit_mnist.errors import fail, print_error
from lit_mnist.runs.parts import load_classifier


def demo(ckpt_path: str = "best", host: str = "127.0.0.1", port: int = 7860, network: nn.Module | None = None) -> None:
    """Serve a page where you draw a digit, or drop any image, and see the model's answer; Ctrl-C ends it.

    Args:
        ckpt_path: A checkpoint: its path, or best or last for the newest run.
        host: Address to listen on. The default is for this machine alone; 0.0.0.0 is for all who can reach it.
        port: Port to listen on; 0 takes a free one.
        network: Your own network, by its import path, which a checkpoint that is given by its path needs.
    """
    try:
        import uvicorn

        from lit_mnist.use.demo.app import application
    except ModuleNotFoundError as error:
        fail(f"{error.name} is missing; install it with: pip install 'lit-mnist[demo]'")
    classifier, checkpoint = load_classifier(ckpt_path, network)
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        fail(f"--host {host} --port {port}: {getattr(error, 'strerror', None) or error}; --port 0 takes a free one")
    name = f"[{host}]" if ":" in host else host
    local = host in ("127.0.0.1", "::1", "localhost")
    app = application(
        classifier, str(checkpoint), f"trained on {classifier.dataset}", [name, "localhost"] if local else ["*"]
    )
    if not local:
        print_error(f"--host {host}: all who can reach this machine can use the page", "warning")
    print(f"http://{name}:{listener.getsockname()[1]}", flush=True)
    limits: Any = {"limit_concurrency": 32, "timeout_keep_alive": 15, "timeout_graceful_shutdown": 1}
    uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", **limits)).run(sockets=[listener])
