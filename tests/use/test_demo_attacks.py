"""The demo under attack: other pages in a real browser, and raw connections to the real server with few descriptors."""

import contextlib
import io
import os
import re
import resource
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import chromium, visit
from conftest import Trained
from PIL import Image
from reliability import wait_for
from test_demo import Server, serve

ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@pytest.fixture(scope="module")
def server(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A demo that may have 128 files and connections open at a time."""
    checkpoint = trained.run / "checkpoints" / "best.ckpt"
    with serve(tmp_path_factory.mktemp("demo"), "--ckpt_path", checkpoint) as server:
        assert server.process.pid
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (128, 128))
        yield server
        assert server.err.read_text() == ""


@pytest.fixture(scope="module")
def digit() -> bytes:
    """An image file with a stroke on it."""
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:24, 13:15] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def status(server: Server, request: str, body: bytes = b"") -> int:
    """Send a request as it stands; returns the status of the answer, 0 where there is none."""
    with connect(server) as connection:
        with contextlib.suppress(ConnectionError):  # it may refuse before it has all
            connection.sendall(request.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body)
        found = ANSWER.match(b"".join(iter(lambda: received(connection), b"")))
    return int(found[1]) if found else 0


def received(connection: socket.socket) -> bytes:
    """What comes next, nothing where the connection has ended."""
    with contextlib.suppress(ConnectionError):
        return connection.recv(100_000)
    return b""


def post(server: Server, digit: bytes, *headers: str) -> int:
    """Have an image read with these headers."""
    lines = ("POST /read HTTP/1.1", *headers, f"Content-Length: {len(digit)}", "Connection: close")
    return status(server, "\n".join(lines), digit)


# Who is answered


@pytest.mark.parametrize("host", ["127.0.0.1:{}", "localhost:{}", "LOCALHOST:{}", "[::1]:{}", "127.0.0.1", "localhost"])
def test_this_machine_is_answered_by_each_of_its_names(host: str, server: Server, digit: bytes) -> None:
    host = host.format(server.port)
    assert post(server, digit, f"Host: {host}") == 200  # as curl asks, without Origin
    assert post(server, digit, f"Host: {host}", f"Origin: http://{host}") == 200
    assert status(server, f"GET / HTTP/1.1\nHost: {host}\nConnection: close") == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{}",
        "localhost.evil.example:{}",
        "127.0.0.1.evil.example:{}",
        "127.0.0.1@evil.example:{}",
        "evil.example@127.0.0.1:{}",
        "127.0.0.1:{}.evil.example",
        "127.0.0.1:{}, evil.example",
        "203.0.113.9:{}",
        "[2001:db8::1]:{}",
        "0.0.0.0:{}",
        "[::1",
        "",
    ],
)
def test_another_host_is_refused(host: str, server: Server, digit: bytes) -> None:
    host = host.format(server.port)
    assert post(server, digit, f"Host: {host}") == 403
    assert post(server, digit, f"Host: {host}", f"Origin: http://{host}") == 403
    for path in ("/", "/page.js", "/none"):
        assert status(server, f"GET {path} HTTP/1.1\nHost: {host}\nConnection: close") == 403


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "", "http://127.0.0.1:1", "http://localhost:{}", "http://[", "127.0.0.1:{}"],
)
def test_another_origin_is_refused(origin: str, server: Server, digit: bytes) -> None:
    host = f"127.0.0.1:{server.port}"
    assert post(server, digit, f"Host: {host}", f"Origin: {origin.format(server.port)}") == 403
    assert post(server, digit, f"Host: {host}", f"Origin: http://{host}", "Origin: http://evil.example") == 403


def test_what_no_browser_sends_is_not_read_either(server: Server, digit: bytes) -> None:
    host = f"127.0.0.1:{server.port}"
    assert post(server, digit) == 400  # without Host
    assert post(server, digit, f"Host: {host}", "Host: evil.example") == 400
    for target in ("http://evil.example/read", f"http://{host}/read", "//evil.example/read", "/../read"):
        request = f"POST {target} HTTP/1.1\nHost: {host}\nContent-Length: {len(digit)}\nConnection: close"
        assert status(server, request, digit) == 404
    upgrade = "Connection: Upgrade, close\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: AAAA"
    assert status(server, f"GET /read HTTP/1.1\nHost: {host}\n{upgrade}") == 405
    assert status(server, "GET /") == 400  # HTTP/0.9
    assert status(server, f"GET / HTTP/1.0\nHost: {host}") == 200
    assert status(server, "GET / HTTP/1.0") == 403
    assert status(server, f"GET / HTTP/1.1\nHost: {host}\nA: {'a' * 200_000}") == 400
    assert status(server, "\x16\x03\x01") == 400  # as HTTPS begins


def test_a_server_for_others_is_asked_by_addresses_and_its_own_name(
    trained: Trained, tmp_path: Path, digit: bytes
) -> None:
    checkpoint = trained.run / "checkpoints" / "best.ckpt"
    with serve(tmp_path, "--host", "0.0.0.0", "--ckpt_path", checkpoint) as server:
        for host in ("192.168.1.5", "[2001:db8::1]", "localhost", socket.gethostname()):
            origin = f"Origin: http://{host}:{server.port}"
            assert post(server, digit, f"Host: {host}:{server.port}", origin) == 200
            assert post(server, digit, f"Host: {host}:{server.port}", "Origin: http://evil.example") == 403
        assert post(server, digit, f"Host: evil.example:{server.port}") == 403


class OtherPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Elsewhere</title>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[int]:
    """The port of another server, with a page of its own."""
    with ThreadingHTTPServer(("127.0.0.1", 0), OtherPage) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        yield other.server_port
        other.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium for which a name of another's leads to this machine, as after DNS rebinding."""
    with chromium("--host-resolver-rules=MAP evil.example 127.0.0.1") as browser:
        yield browser


TRIES = {
    "fetch": "address => fetch(address, { method: 'POST', mode: 'no-cors', body: 'image' }).catch(() => 0)",
    "secretly": """address => fetch(address, { method: 'POST', mode: 'no-cors', body: 'image', credentials: 'omit',
        referrerPolicy: 'no-referrer' }).catch(() => 0)""",
    "beacon": "address => navigator.sendBeacon(address, 'image')",
    "form": """address => {
        const form = Object.assign(document.createElement('form'), { method: 'post', action: address });
        form.enctype = 'text/plain';
        form.append(Object.assign(document.createElement('input'), { name: 'image' }));
        document.body.append(form);
        form.submit();
    }""",
}


@pytest.mark.parametrize("how", TRIES)
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_page_elsewhere_cannot_have_an_image_read(
    how: str, name: str, server: Server, elsewhere: int, browser: Any
) -> None:
    with visit(browser, f"http://{name}:{elsewhere}/") as seen:
        with seen.page.context.expect_event("response", lambda response: response.url.endswith("/read")) as answer:
            seen.page.evaluate(TRIES[how], f"{server.address}/read")
        assert answer.value.status == 403


def test_a_page_whose_name_comes_to_lead_here_gets_nothing(server: Server, browser: Any) -> None:
    with visit(browser, f"http://evil.example:{server.port}/page.js") as seen:
        assert "refused" in seen.page.locator("body").inner_text()
        script = "async () => (await fetch('/read', { method: 'POST', body: 'image' })).status"
        assert seen.page.evaluate(script) == 403


def test_a_page_elsewhere_cannot_frame_this_one_or_read_it(server: Server, elsewhere: int, browser: Any) -> None:
    with visit(browser, f"http://localhost:{elsewhere}/") as seen:
        script = "address => fetch(address).then(response => response.text(), () => 'refused')"
        assert seen.page.evaluate(script, server.address) == "refused"
        with seen.page.expect_console_message(lambda message: "frame-ancestors" in message.text):
            seen.page.evaluate(
                "address => document.body.append(Object.assign(document.createElement('iframe'), { src: address }))",
                server.address,
            )
        assert all(frame.query_selector("#pad") is None for frame in seen.page.frames)


# Who is served while others misbehave


HEAD = "POST /read HTTP/1.1\r\nHost: 127.0.0.1\r\n"
HALVES = {
    "nothing": b"",
    "half a line": b"POST /re",
    "half the headers": HEAD.encode(),
    "no body": f"{HEAD}Content-Length: 1000\r\n\r\n".encode(),
    "half a body": f"{HEAD}Content-Length: 1000\r\n\r\nhalf of it".encode(),
    "10 GB": f"{HEAD}Content-Length: 10000000000\r\n\r\nhalf of it".encode(),
    "chunks": f"{HEAD}Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n".encode(),
    "a body that waits to be asked for": f"{HEAD}Expect: 100-continue\r\nContent-Length: 9\r\n\r\n".encode(),
    "the body of a refused request": b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf of it",
    "a second request": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nPOST /re",
}


@pytest.mark.parametrize("half", HALVES)
def test_a_thousand_connections_that_wait_keep_nobody_out(half: str, server: Server, digit: bytes) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(1000):
            waiting = stack.enter_context(connect(server))
            with contextlib.suppress(ConnectionError):  # it may have been closed for another one by now
                waiting.sendall(HALVES[half])
        for _ in range(5):
            assert server.post(digit)[0] == 200
    assert server.err.read_text() == ""


def test_what_does_not_come_whole_ends_whether_it_rests_or_drips(server: Server) -> None:
    drips = {
        "headers": (HALVES["half the headers"], b"a: b\r\n"),
        "length": (HALVES["half a body"], b"a"),
        "chunks": (HALVES["chunks"], b"1\r\na\r\n"),
        "lines": (b"", b"\r\n"),
        "endless chunks": (HALVES["chunks"], b"10000\r\n" + bytes(0x10000) + b"\r\n"),
    }
    with contextlib.ExitStack() as stack:
        open_ = {name: stack.enter_context(connect(server)) for name in (*HALVES, *drips)}
        for name, connection in open_.items():
            connection.sendall(HALVES[name] if name in HALVES else drips[name][0])
            connection.setblocking(False)

        def all_ended() -> bool:
            for name, connection in list(open_.items()):
                try:
                    if name in drips:
                        connection.send(drips[name][1])
                    if not connection.recv(100_000):
                        del open_[name]
                except BlockingIOError:
                    pass
                except ConnectionError:
                    del open_[name]
            return not open_

        wait_for(all_ended)
    assert server.err.read_text() == ""


def test_answers_that_nobody_takes_end(server: Server, digit: bytes) -> None:
    with socket.socket() as greedy:
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        greedy.connect(("127.0.0.1", server.port))
        greedy.setblocking(False)
        pipelined = b"GET /page.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 1000

        def is_closed() -> bool:
            try:
                greedy.send(pipelined)
            except BlockingIOError:
                time.sleep(0.1)
                return False
            except ConnectionError:
                return True
            return False

        wait_for(is_closed)
    assert server.post(digit)[0] == 200
    assert server.err.read_text() == ""


def test_pipelined_requests_are_answered_each_in_turn(server: Server, digit: bytes) -> None:
    one = f"{HEAD}Content-Length: {len(digit)}\r\n\r\n".encode() + digit
    with connect(server) as connection:
        connection.sendall(one * 20 + HEAD.encode() + b"Connection: close\r\nContent-Length: 0\r\n\r\n")
        answers = b"".join(iter(lambda: received(connection), b""))
    assert re.findall(rb"HTTP/1\.1 (\d{3}) ", answers) == [b"200"] * 20 + [b"400"]


def test_garbage_at_any_moment_leaves_the_terminal_empty(server: Server, digit: bytes) -> None:
    beginnings = (*HALVES.values(), f"{HEAD}Content-Length: {len(digit)}\r\n\r\n".encode() + digit)
    for beginning in beginnings:
        for garbage in (b"\0\xff\r\n\r\n", b"zz\r\n" * 9, b"HTTP/1.1 200 OK\r\n\r\n", bytes(200_000)):
            with connect(server) as connection, contextlib.suppress(ConnectionError):
                connection.sendall(beginning)
                time.sleep(0.01)
                connection.sendall(garbage)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # ends with RST
    assert server.post(digit)[0] == 200
    assert server.err.read_text() == ""


# Ctrl-C


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_at_once_whatever_is_running(number: signal.Signals, trained: Trained, tmp_path: Path) -> None:
    file = io.BytesIO()
    random = np.random.default_rng(0).integers(0, 256, (8000, 8000), np.uint8)
    Image.fromarray(random // 255).save(file, "PNG")  # takes long to prepare
    body = file.getvalue()
    assert len(body) < 10_000_000
    checkpoint = trained.run / "checkpoints" / "best.ckpt"
    with serve(tmp_path, "--ckpt_path", checkpoint) as server, contextlib.ExitStack() as stack:
        assert server.process.pid
        for half in HALVES.values():
            stack.enter_context(connect(server)).sendall(half)
        for _ in range(8):
            stack.enter_context(connect(server)).sendall(f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert server.post(b"")[0] == 400
        os.kill(server.process.pid, number)
        server.process.join(2)
        assert server.process.exitcode == 128 + number
        assert server.err.read_text() == ""
