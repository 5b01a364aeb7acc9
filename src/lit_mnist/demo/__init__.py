"""A page on this machine where a person draws a digit and sees what the model makes of it."""

import errno
import ipaddress
import socket
import sys
from pathlib import Path

from lit_mnist.checkpoint import read_checkpoint
from lit_mnist.classifier import Classifier
from lit_mnist.errors import fail
from lit_mnist.runs import LOGS, find_checkpoint


def demo(ckpt_path: str = "best", host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve a page where you draw a digit, or drop an image, and see the model's answer; Ctrl-C ends it.

    Args:
        ckpt_path: A checkpoint: its path, or best or last for the newest run.
        host: Address to listen on. The default is for this machine alone; 0.0.0.0 is for all who can reach it.
        port: Port to listen on; 0 takes a free one.

    Raises:
        CheckpointError: There is no such checkpoint, or it cannot be used.
    """
    try:
        import uvicorn

        from lit_mnist.demo.app import application
    except ModuleNotFoundError as error:
        fail(f"{error.name} is missing; install it with: pip install 'lit-mnist[demo]'")
    checkpoint = find_checkpoint(ckpt_path, Path(LOGS))
    data = read_checkpoint(checkpoint)["datamodule_hyper_parameters"]
    classifier = Classifier.load_from_checkpoint(checkpoint)
    app = application(classifier, str(checkpoint), f"trained on {data['dataset']}")
    listener = listen(host, port)
    if not is_loopback(host):
        print(f"lit-mnist: warning: --host {host}: all who can reach this machine can use the page", file=sys.stderr)
    name = f"[{host}]" if ":" in host else host
    print(f"http://{name}:{listener.getsockname()[1]}", flush=True)
    # At "critical" it is silent: app.failed says in a line what goes wrong, where uvicorn would show the traceback.
    config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections from now on; ends the program where there can be none."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OverflowError:
        fail(f"--port: {port} is not in 0..65535")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            fail(f"--port: {port} is in use; give another one, or 0 for any that is free")
        if error.errno == errno.EACCES:
            fail(f"--port: {port} needs more rights; give one above 1023")
        fail(f"--host: {host} is no address of this machine")


def is_loopback(host: str) -> bool:
    """Whether only this machine itself can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False
