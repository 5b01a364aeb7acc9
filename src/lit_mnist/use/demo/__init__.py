"""A page on this machine where a person draws a digit and sees what the model makes of it."""

import errno
import socket
import sys
from pathlib import Path

from lit_mnist.checkpoint import read_checkpoint
from lit_mnist.classifier import Classifier
from lit_mnist.errors import fail, printable
from lit_mnist.runs.folder import LOGS, find_checkpoint


def demo(ckpt_path: str = "best", host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve a page where you draw a digit, or drop an image, and see the model's answer; Ctrl-C ends it.

    Only what is addressed to this machine is answered: by an address, as localhost, or by the name that --host gives.

    Args:
        ckpt_path: A checkpoint: its path, or best or last for the newest run.
        host: Address to listen on. The default is for this machine alone; 0.0.0.0 is for all who can reach it.
        port: Port to listen on; 0 takes a free one.

    Raises:
        CheckpointError: There is no such checkpoint, or it cannot be used.
    """
    try:
        from lit_mnist.use.demo.app import OwnOrigin, application, is_loopback
        from lit_mnist.use.demo.server import serve
    except ModuleNotFoundError as error:
        fail(f"{error.name} is missing; install it with: pip install 'lit-mnist[demo]'")
    checkpoint = find_checkpoint(ckpt_path, Path(LOGS))
    data = read_checkpoint(checkpoint)["datamodule_hyper_parameters"]
    classifier = Classifier.load_from_checkpoint(checkpoint)
    app = application(classifier, printable(checkpoint), printable(f"trained on {data['dataset']}"))
    listener = listen(host, port)
    if not is_loopback(host):
        shown = printable(host)
        print(f"lit-mnist: warning: --host {shown}: all who can reach this machine can use the page", file=sys.stderr)
    name = f"[{host}]" if ":" in host else host
    print(f"http://{printable(name)}:{listener.getsockname()[1]}", flush=True)
    serve(OwnOrigin(app, host), listener)


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections from now on; ends the program where there can be none."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OverflowError:
        fail(f"--port: {port} is not in 0..65535")
    except (OSError, TypeError, UnicodeError) as error:  # the latter two of a name that no network could have
        number = getattr(error, "errno", None)
        if number == errno.EADDRINUSE:
            fail(f"--port: {port} is in use; give another one, or 0 for any that is free")
        if number == errno.EACCES:
            fail(f"--port: {port} needs more rights; give one above 1023")
        fail(f"--host: {host} is no address of this machine")
