"""The demo: a page in a real browser, the real server behind it, and a model trained on real MNIST."""

import base64
import io
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import Visit, chromium, contrast, drag, drop, visit
from conftest import Cli
from PIL import Image

from lit_mnist import Classifier, MNISTDataModule
from lit_mnist.data import rescale
from lit_mnist.use.demo import training_of

pytest.importorskip("uvicorn", reason="needs the extra demo (pip install starlette uvicorn)")

Stroke = list[tuple[float, float]]  # points in [0, 1] of the drawing area, x to the right and y down

ONE: Stroke = [(0.5, 0.2), (0.5, 0.8)]
SEVEN: Stroke = [(0.28, 0.25), (0.7, 0.25), (0.45, 0.8)]
ZERO: Stroke = [(0.5 + 0.2 * math.sin(i / 10 * math.pi), 0.5 - 0.3 * math.cos(i / 10 * math.pi)) for i in range(21)]


@dataclass
class Server:
    """A demo that runs, and the port that it printed."""

    process: "subprocess.Popen[str]"
    port: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
        """Have an image file read; returns status and answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", "/read", body, headers)
        response = connection.getresponse()
        return response.status, json.load(response) if response.headers["Content-Type"] == "application/json" else {}

    def interrupt(self) -> tuple[int, str]:
        """Press Ctrl-C; returns the exit status and what it said on stderr."""
        self.process.send_signal(signal.SIGINT)
        _, err = self.process.communicate(timeout=30)
        return self.process.returncode, err


@contextmanager
def serve(*args: Any) -> Iterator[Server]:
    """Run the command on a free port until the block ends."""
    words = [sys.executable, "-m", "lit_mnist", "demo", "--port", "0", *map(str, args)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True, **streams) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("http://"), process.communicate()
        yield Server(process, int(line.rpartition(":")[2]))
        process.kill()


@pytest.fixture(scope="module")
def server(on_mnist: Path) -> Iterator[Server]:
    with serve("--ckpt_path", on_mnist) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def seen(server: Server, browser: Any) -> Iterator[Visit]:
    """The page, just opened, without its bars' slow motion."""
    with visit(browser, server.address, reduced_motion="reduce") as seen:
        yield seen


@pytest.fixture(scope="module")
def images(mnist_dir: Path) -> torch.Tensor:
    """The first 200 test images of MNIST, (200, 28, 28) uint8; they begin with 7, 2, 1, 0, 4."""
    data = MNISTDataModule(data_dir=str(mnist_dir))
    data.setup("test")
    return data.splits["test"][0][:200]


def png(pixels: torch.Tensor, scale: int = 1) -> bytes:
    """An image file of (28, 28) uint8, each pixel as a square of scale x scale."""
    file = io.BytesIO()
    Image.fromarray(pixels.repeat_interleave(scale, 0).repeat_interleave(scale, 1).numpy()).save(file, "PNG")
    return file.getvalue()


def draw(seen: Visit, stroke: Stroke, lift: bool = True) -> None:
    """Draw with the mouse."""
    drag(seen.page.get_by_label("Drawing area"), stroke, lift)


def assert_reads(seen: Visit, digit: int) -> None:
    """The page comes to show this digit, and says so to a screen reader."""
    seen.page.get_by_role("status").filter(has_text=f"{digit}, ").wait_for(state="attached")
    assert seen.page.locator("#answer").inner_text() == str(digit)


def assert_problem(seen: Visit, *words: str) -> None:
    """The page comes to show a message with these words, and no answer."""
    problem = seen.page.get_by_role("alert")
    problem.wait_for()
    for word in words:
        assert word in problem.inner_text()
    assert seen.page.locator("#answer").inner_text() == "?"


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something holds, 20 s at most."""
    for _ in range(400):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come")


def settle(seen: Visit) -> None:
    """Wait until every answer that the page has asked for is there."""
    wait_for(lambda: not seen.page.evaluate("asking"))


def bars(seen: Visit) -> list[float]:
    """Width of each bar as a share of its track, once every answer is there."""
    settle(seen)
    script = "bars => bars.map(bar => bar.getBoundingClientRect().width / bar.parentNode.getBoundingClientRect().width)"
    return seen.page.locator(".bar").evaluate_all(script)


# Drawing


@pytest.mark.parametrize(("stroke", "digit"), [(ONE, 1), (ZERO, 0), (SEVEN, 7)])
def test_a_digit_drawn_with_the_mouse_is_read(stroke: Stroke, digit: int, seen: Visit) -> None:
    draw(seen, stroke)
    assert_reads(seen, digit)
    widths = bars(seen)
    assert len(widths) == 10
    assert sum(widths) == pytest.approx(1, abs=0.01)
    assert widths.index(max(widths)) == digit


def test_a_digit_drawn_with_a_finger_is_read(server: Server, browser: Any) -> None:
    with visit(browser, server.address, 390, 844, has_touch=True, is_mobile=True) as seen:
        box = seen.page.get_by_label("Drawing area").bounding_box()
        session = seen.page.context.new_cdp_session(seen.page)
        for i, (x, y) in enumerate(SEVEN):
            point = {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}
            kind = "touchMove" if i else "touchStart"
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        assert_reads(seen, 7)
        assert seen.page.evaluate("scrollY") == 0


def test_a_digit_drawn_with_the_keyboard_is_read(seen: Visit) -> None:
    seen.page.keyboard.press("Tab")
    for key in ["Shift+ArrowUp"] * 12 + ["ArrowDown"] * 24:
        seen.page.keyboard.press(key)
    assert_reads(seen, 1)
    seen.page.keyboard.press("Delete")
    assert seen.page.locator("#answer").inner_text() == "?"


def test_the_answer_follows_while_the_pen_is_down(seen: Visit) -> None:
    draw(seen, SEVEN[:2], lift=False)
    seen.page.locator("[data-state=read]").wait_for()
    before = len(seen.requested)
    draw(seen, SEVEN[1:], lift=False)
    assert_reads(seen, 7)
    assert len(seen.requested) > before


def test_several_strokes_are_one_digit(seen: Visit) -> None:
    for stroke in ([(0.35, 0.2), (0.32, 0.5), (0.68, 0.5)], [(0.62, 0.2), (0.62, 0.8)]):
        draw(seen, stroke)
    assert_reads(seen, 4)


def test_only_a_pressed_pen_draws(seen: Visit) -> None:
    pad = "document.getElementById('pad').toDataURL()"
    draw(seen, ONE)
    drawn = seen.page.evaluate(pad)
    box = seen.page.get_by_label("Drawing area").bounding_box()
    seen.page.mouse.move(box["x"] + 50, box["y"] + 50, steps=5)
    assert seen.page.evaluate(pad) == drawn


def test_a_stroke_that_leaves_the_pad_goes_on_along_its_edge(seen: Visit) -> None:
    draw(seen, ONE)
    assert_reads(seen, 1)
    draw(seen, [(0.02, 0.1), (-0.1, 0.1), (-0.1, 0.9)])
    settle(seen)
    seen.page.evaluate("document.getElementById('seen').decode()")
    draw_it = "paper.drawImage(document.getElementById('seen'), 0, 0)"
    pixels = seen.page.evaluate(f"(() => {{ {draw_it}; return [...paper.getImageData(0, 0, 28, 28).data]; }})()")
    inked = (np.array(pixels).reshape(28, 28, 4)[..., 0] > 128).any(axis=0).nonzero()[0]
    assert inked.max() - inked.min() > 10  # a 1 at one side and the edge at the other


def test_undo_takes_back_a_stroke_by_button_and_by_key(seen: Visit) -> None:
    undo, clear = (seen.page.get_by_role("button", name=name) for name in ("Undo", "Clear"))
    assert undo.is_disabled()
    assert clear.is_disabled()
    draw(seen, ONE)
    assert_reads(seen, 1)
    one = bars(seen)
    draw(seen, [(0.1, 0.5), (0.9, 0.5)])
    settle(seen)
    assert bars(seen) != one
    undo.click()
    settle(seen)
    assert bars(seen) == one
    clear.click()
    assert bars(seen) == [0] * 10
    seen.page.keyboard.press("Control+z")
    settle(seen)
    assert bars(seen) == one, "clearing is undone"
    drop(seen.page, "notes.txt", b"no image at all")
    assert_problem(seen, "image")
    seen.page.keyboard.press("Control+z")
    settle(seen)
    assert bars(seen) == one, "a file that was refused is undone"
    undo.click()
    assert bars(seen) == [0] * 10
    assert undo.is_disabled()
    assert clear.is_disabled()


def test_the_footer_has_the_test_accuracy_of_this_checkpoint_alone(cli: Cli, own_run: Path) -> None:
    best, last = (own_run / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    classifier = Classifier.load_from_checkpoint(best)
    assert training_of(classifier, best) == "trained on digits"
    cli("test").worked()
    accuracy = json.loads((own_run / "test.json").read_text())["accuracy"]
    assert training_of(classifier, best) == f"trained on digits, test accuracy {100 * accuracy:.2f}%"
    assert training_of(classifier, last) == "trained on digits"


def test_clear_goes_back_to_the_start(seen: Visit) -> None:
    shown = "[document.body.innerText, ...[...document.querySelectorAll('canvas')].map(canvas => canvas.toDataURL())]"
    start = seen.page.evaluate(shown)
    draw(seen, ZERO)
    assert_reads(seen, 0)
    draw(seen, ONE, lift=False)  # its answers are still to come
    seen.page.evaluate("document.getElementById('clear').click()")
    assert bars(seen) == [0] * 10
    assert seen.page.evaluate(shown) == start
    seen.page.mouse.move(400, 400)
    seen.page.mouse.up()
    assert bars(seen) == [0] * 10
    assert not seen.page.get_by_role("alert").is_visible()
    draw(seen, ONE)
    assert_reads(seen, 1)


# Files


def test_an_image_that_is_dropped_is_read(seen: Visit, images: torch.Tensor) -> None:
    for image, digit in zip(images, (7, 2, 1, 0, 4), strict=False):
        drop(seen.page, "digit.png", png(image, scale=10))
        assert_reads(seen, digit)


def test_drawing_on_a_dropped_image_starts_anew(seen: Visit, images: torch.Tensor) -> None:
    pad = "document.getElementById('pad').toDataURL()"
    draw(seen, ONE)
    assert_reads(seen, 1)
    clean = seen.page.evaluate(pad)
    drop(seen.page, "digit.png", png(images[1], scale=10))
    assert_reads(seen, 2)
    assert seen.page.evaluate(pad) != clean
    draw(seen, ONE)
    assert_reads(seen, 1)
    assert seen.page.evaluate(pad) == clean


def test_an_image_can_be_chosen_and_pasted(seen: Visit, images: torch.Tensor) -> None:
    with seen.page.expect_file_chooser() as chooser:
        seen.page.get_by_role("button", name="Choose image").click()
    chooser.value.set_files({"name": "digit.png", "mimeType": "image/png", "buffer": png(images[0], scale=10)})
    assert_reads(seen, 7)
    seen.page.evaluate(
        """bytes => {
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([new Uint8Array(bytes)], "digit.png"));
            dispatchEvent(new ClipboardEvent("paste", { clipboardData }));
        }""",
        list(png(images[1], scale=10)),
    )
    assert_reads(seen, 2)


def test_a_file_that_is_no_image_gets_a_message_and_drawing_goes_on(seen: Visit) -> None:
    drop(seen.page, "notes.txt", b"no image at all")
    assert_problem(seen, "image")
    draw(seen, SEVEN)
    assert_reads(seen, 7)
    assert not seen.page.get_by_role("alert").is_visible()


def test_a_file_that_is_too_large_gets_a_message_without_being_sent(seen: Visit, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(bytes(10_000_001))
    seen.page.get_by_label("Image file").set_input_files(tmp_path / "large.png")
    assert_problem(seen, "large.png", "10 MB")
    assert not [url for url in seen.requested if url.endswith("/read")]
    draw(seen, ONE)
    assert_reads(seen, 1)


# The page


def test_the_page_asks_no_other_machine_for_anything(seen: Visit, images: torch.Tensor) -> None:
    draw(seen, ONE)
    assert_reads(seen, 1)
    drop(seen.page, "digit.png", png(images[0], scale=10))
    assert_reads(seen, 7)
    assert len(seen.requested) >= 5
    assert seen.outside() == []
    assert seen.errors == []


def test_the_browser_would_not_let_the_page_ask_another_machine(seen: Visit) -> None:
    script = """() => new Promise(resolve => {
        addEventListener("securitypolicyviolation", event => resolve(event.effectiveDirective));
        fetch("http://127.0.0.2:9/").catch(() => setTimeout(() => resolve("asked"), 500));
    })"""
    assert seen.page.evaluate(script) == "connect-src"


def test_the_page_names_the_checkpoint_and_its_data(seen: Visit, on_mnist: Path) -> None:
    assert f"Checkpoint {on_mnist}, trained on mnist" in seen.page.locator("footer").inner_text()


@pytest.mark.parametrize("width", [320, 390, 900, 1600])
def test_nothing_is_wider_than_the_screen(width: int, server: Server, browser: Any) -> None:
    with visit(browser, server.address, width, 844, has_touch=True, is_mobile=True) as seen:
        assert seen.page.evaluate("document.documentElement.scrollWidth") == width
        draw(seen, SEVEN)
        assert_reads(seen, 7)
        assert seen.page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(scheme: str, server: Server, browser: Any) -> None:
    with visit(browser, server.address, color_scheme=scheme) as seen:
        drop(seen.page, "notes.txt", b"no image at all")
        assert_problem(seen, "image")
        texts = (
            "h1",
            "header p",
            "#hint",
            "#problem",
            "#clear",
            "#choose",
            "#second",
            "figcaption",
            ".percent",
            "code",
        )
        for text in texts:
            assert contrast(seen.page.locator(text).first) >= 4.5, text  # what WCAG asks of text of usual size
        draw(seen, SEVEN)
        assert_reads(seen, 7)
        assert contrast(seen.page.locator("#answer")) >= 4.5
        dark = seen.page.evaluate("getComputedStyle(document.body).backgroundColor").startswith("rgb(1")
        assert dark == (scheme == "dark")


def test_every_control_can_be_reached_by_keyboard_and_has_a_name(seen: Visit) -> None:
    names = []
    for key in ("Tab", "ArrowDown", "Tab", "Tab", "Tab"):  # before something is drawn, nothing can be undone or cleared
        seen.page.keyboard.press(key)
        settle(seen)
        names.append(seen.page.evaluate("(e => e.ariaLabel || e.innerText)(document.activeElement)"))
    assert names == ["Drawing area", "Drawing area", "Undo", "Clear", "Choose image"]


def test_ctrl_c_ends_it_quietly_and_an_open_page_says_so(on_mnist: Path, browser: Any) -> None:
    with serve("--ckpt_path", on_mnist) as server, visit(browser, server.address) as seen:
        draw(seen, ONE)
        assert_reads(seen, 1)
        with socket.create_connection(("127.0.0.1", server.port)) as hanging:
            hanging.sendall(b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf of it")
            assert server.interrupt() == (130, "")
        draw(seen, ZERO)
        assert_problem(seen, "does not answer")


# The server


def test_requests_of_eight_clients_each_get_the_answer_to_their_own_image(
    server: Server, on_mnist: Path, images: torch.Tensor
) -> None:
    files = [png(image) for image in images]
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(server.post, files))
    assert [status for status, _ in answers] == [200] * 200
    classifier = Classifier.load_from_checkpoint(on_mnist)
    with torch.inference_mode():
        expected = classifier(rescale(images)).softmax(1)
    pictures = [base64.b64decode(answer["seen"].removeprefix("data:image/png;base64,")) for _, answer in answers]
    assert all(np.array_equal(Image.open(io.BytesIO(p)), image) for p, image in zip(pictures, images, strict=True))
    torch.testing.assert_close(torch.tensor([answer["probabilities"] for _, answer in answers]), expected)


def test_what_is_no_image_or_too_large_gets_a_message_and_the_server_goes_on(
    server: Server, images: torch.Tensor
) -> None:
    assert server.post(bytes(10_000_001)) == (413, {"error": "The image is larger than 10 MB."})
    good = png(images[0], scale=10)
    for body in (b"", bytes(100), good[:100], good[: len(good) // 2]):
        status, answer = server.post(body)
        assert status == 400
        assert answer.keys() == {"error"}
    assert server.post(good)[0] == 200


def test_a_page_elsewhere_whose_name_leads_here_gets_nothing(server: Server, images: torch.Tensor) -> None:
    assert server.post(png(images[0]), Host="elsewhere.example")[0] == 400
    assert server.post(png(images[0]), Host=f"localhost:{server.port}")[0] == 200


# The command line


def test_without_host_no_other_address_is_listened_to_and_with_it_there_is_a_warning(
    server: Server, on_mnist: Path
) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", server.port))  # another address of this machine
    with serve("--host", "0.0.0.0", "--ckpt_path", on_mnist) as open_to_all:
        socket.create_connection(("127.0.0.2", open_to_all.port)).close()
        status, err = open_to_all.interrupt()
    assert status == 130
    assert err.startswith("lit-mnist: warning: --host 0.0.0.0: ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--port 65536", "--port 65536: "),
        ("--host 192.0.2.1", "--host 192.0.2.1 "),
        ("--ckpt_path missing", "missing is not a file"),
    ],
)
def test_bad_input_gets_one_line(options: str, words: str, cli: Cli, own_run: Path) -> None:
    cli("demo", *options.split()).refused(words)


def test_a_busy_port_is_named(cli: Cli, own_run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        cli("demo", "--port", port).refused(f"--port {port}: Address already in use")


def test_without_the_extra_it_says_how_to_install_it(cli: Cli, own_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    cli("demo").refused("uvicorn", "pip install starlette uvicorn")
