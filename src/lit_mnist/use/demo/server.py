"""The demo's server: no client can keep the others out, fill the terminal or hold up Ctrl-C."""

import asyncio
import functools
import os
import socket
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from lit_mnist.errors import print_error

PATIENCE = 15  # seconds that a request may take to arrive, and its answer to leave
CONNECTIONS = 32  # at once: each can hold an image file of 10 MB
ACCEPTED = 16  # connections in a row, by asyncio; each needs a file descriptor before the oldest is closed
WAITING = 1024  # for being accepted; the kernel has more of them try again after a second

print_once = functools.cache(print_error)  # what a client can cause, it can cause a thousand times


class Connection(H11Protocol):
    """A connection that is closed when the client lets it wait, or before others where there are too many."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()
        connections: Any = self.connections
        waiting = [one for one in connections if not one.transport.is_closing()]
        if len(waiting) > CONNECTIONS:
            idle = [one for one in waiting if one.waits_for_client()]
            min(idle, key=lambda one: one.patience.when()).transport.abort()  # itself, where the others are all served

    def _wait(self) -> None:
        self.patience = self.loop.call_later(PATIENCE, self._end_of_patience)

    def waits_for_client(self) -> bool:
        """Whether it is the client's turn: to send a request or the rest of it, or to take the answer."""
        request = self.cycle
        return not request or request.more_body or request.response_complete or self.flow.write_paused

    def _end_of_patience(self) -> None:
        if self.waits_for_client():
            self.transport.abort()
        else:
            self._wait()

    def on_response_complete(self) -> None:
        self.patience.cancel()
        self._wait()
        super().on_response_complete()

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except h11.LocalProtocolError:  # of garbage after a request that was answered before its end
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.patience.cancel()
        super().connection_lost(exc)


class Server(uvicorn.Server):
    """A server that ends at once: there is nothing to lose, and a thread that prepares an image would hold it up."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(WAITING)  # asyncio has made it as many as it accepts in a row

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        os._exit(128 + sig)


def serve(app: Any, listener: socket.socket) -> None:
    """Answer the connections of a socket until a signal ends the process."""
    # At "critical" it is silent: what goes wrong gets a line, where uvicorn would show the traceback.
    config = uvicorn.Config(app, http=Connection, ws="none", log_level="critical", lifespan="off", backlog=ACCEPTED)

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: print_once(f"{context['message']}: {context.get('exception')}")
        )
        await Server(config).serve(sockets=[listener])

    asyncio.run(run())
