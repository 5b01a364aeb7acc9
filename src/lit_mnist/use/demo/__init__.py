"""A local page where a user draws a digit and sees the prediction."""

import socket
from pathlib import Path
from typing import Any

from torch import nn

from lit_mnist.checkpoint import read_checkpoint
from lit_mnist.classifier import Classifier
from lit_mnist.errors import fail, print_error
from lit_mnist.runs.folder import read_test, run_of
from lit_mnist.runs.parts import load_classifier


def demo(ckpt_path: str = "best", host: str = "127.0.0.1", port: int = 7860, network: nn.Module | None = None) -> None:
    """Serve a page where you draw a digit or drop an image, and see the prediction.

    Args:
        ckpt_path: A checkpoint: its path, best or last of the newest run, or pretrained.
        host: Address to listen on: only this machine by default, every network interface with 0.0.0.0.
        port: Port to listen on; 0 takes a free one.
        network: Import path of your own network, needed if ckpt_path is the path of one of its checkpoints.
    """
    try:
        import uvicorn

        from lit_mnist.use.demo.app import application
    except ModuleNotFoundError as error:
        fail(f"demo needs {error.name}; install it with: pip install starlette uvicorn")
    classifier, checkpoint = load_classifier(ckpt_path, network)
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        fail(f"--host {host} --port {port}: {getattr(error, 'strerror', None) or error}; --port 0 takes a free one")
    name = f"[{host}]" if ":" in host else host
    local = host in ("127.0.0.1", "::1", "localhost")
    hosts = [name, "localhost"] if local else ["*"]
    app = application(classifier, str(checkpoint), training_of(classifier, checkpoint), hosts)
    if not local:
        print_error(f"--host {host}: anyone who can reach this machine can use the page", "warning")
    print(f"http://{name}:{listener.getsockname()[1]}", flush=True)
    limits: Any = {"limit_concurrency": 32, "timeout_keep_alive": 15, "timeout_graceful_shutdown": 1}
    uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", **limits)).run(sockets=[listener])


def training_of(classifier: Classifier, checkpoint: Path) -> str:
    """Description of a checkpoint on the page: its data set and, if its run has tested it, the test accuracy."""
    run, step = run_of(checkpoint), read_checkpoint(checkpoint)["global_step"]
    test = read_test(run) if run else {}
    is_tested = (test.get("checkpoint"), test.get("global_step")) == (checkpoint.name, step)
    return f"trained on {classifier.dataset}" + (f", test accuracy {test['accuracy']:.2%}" if is_tested else "")
