"""One file from one mirror, which may send too much, too slowly or nothing."""

import threading
import urllib.request

LARGEST = 50_000_000  # bytes of a file, packed or not; the largest of the data sets' has 47,040,016
PATIENCE = 30.0  # seconds, in each of which a mirror has to send
SLOWEST = 10_000  # bytes on average


class DownloadError(Exception):
    """A mirror did not give the file; the message says why."""


def download(url: str) -> bytes:
    """What a mirror sends, kept in memory; it may be anything.

    Raises:
        DownloadError: The mirror is down, sent an error, more than a data set's file can have, or too little in time.
    """
    from torchvision.datasets.utils import USER_AGENT

    content = bytearray()
    failures: list[Exception] = []

    def receive() -> None:
        try:
            request = urllib.request.Request(url, headers={"User-Agent": USER_AGENT})
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                while len(content) <= LARGEST and (some := response.read1(1 << 16)):
                    content.extend(some)
        except Exception as error:  # whatever can be wrong with an address or an answer
            failures.append(error)

    # In a thread, which is left alone where it takes too long: a mirror may be slow in its name or its headers, too.
    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    received = -1
    while thread.is_alive():
        if received >= 0 and len(content) - received < SLOWEST * PATIENCE:
            raise DownloadError(f"it sent less than {SLOWEST / 1000:.0f} kB/s for {PATIENCE:.0f} s")
        received = len(content)
        thread.join(PATIENCE)
    if failures:
        reason = getattr(failures[0], "reason", failures[0])
        raise DownloadError(getattr(reason, "strerror", None) or str(reason)) from failures[0]
    if len(content) > LARGEST:
        raise DownloadError(f"it sent more than {LARGEST / 1e6:.0f} MB")
    return bytes(content)
