"""One server over HTTP: JSON there, JSON back, and what can go wrong in two kinds: it is gone, or it refuses."""

from __future__ import annotations

import http.client
import json
import os
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar, overload
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from obverse.errors import ConfigError, EngineError
from obverse.redact import flat

CONNECT_SECONDS = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # between two tries, in seconds; each pause is twice the one before
MAX_BYTES = 2**28  # of an answer: a completion of a million tokens is shorter
TOLD = 300  # characters of a server's answer that a message repeats

Answer = TypeVar("Answer")
Form = TypeVar("Form", bound=BaseModel)


class Gone(Exception):
    """Nobody answers at the address, or the connection broke; a later try may succeed.

    `wait` is how long the server asked to be left alone, in seconds; None where it asked for nothing.
    """

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


class Late(Gone):
    """No whole answer came in its time."""


class Refused(Exception):
    """The server answered with an error; the same request would get it again."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status} {said}")
        self.status, self.said = status, said


class Client:
    """Speaks to the server at `url` (http or https, a path in front is kept); one connection per thread.

    `timeout` is the longest that `patiently` waits for a server that does not answer, in seconds. The variable
    VLLM_API_KEY, where it is set, is sent along. Raises ConfigError for an address that is none.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.url, self.timeout = url.rstrip("/"), timeout
        try:
            parts = urlsplit(self.url)
            self.host, self.port, self.prefix, scheme = parts.hostname or "", parts.port, parts.path, parts.scheme
        except ValueError:
            self.host, scheme = "", ""
        if scheme not in ("http", "https") or not self.host:
            raise ConfigError(f"--vllm_url: {flat(url)!r} is no address: write it as http://HOST:PORT")
        if parts.query or parts.fragment or "@" in parts.netloc:
            raise ConfigError(
                f"--vllm_url: {flat(url)!r} has more than scheme, host, port and path: a key is sent along where the "
                "environment's VLLM_API_KEY has one"
            )
        self.kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        self.headers = {"Content-Type": "application/json"}
        if key := os.environ.get("VLLM_API_KEY"):
            self.headers["Authorization"] = f"Bearer {key}"
        self._own = threading.local()
        self._open: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()

    @overload
    def ask(self, path: str, body: Any = ..., seconds: float | None = ..., *, schema: type[Form]) -> Form: ...
    @overload
    def ask(self, path: str, body: Any = ..., seconds: float | None = ..., *, schema: None = ...) -> Any: ...

    def ask(
        self, path: str, body: Any = None, seconds: float | None = None, *, schema: type[Form] | None = None
    ) -> Form | Any:
        """The answer to one request as `schema` has it (without one as plain JSON); POST with a body, else GET.

        `seconds` bounds the whole call, however its bytes come in, and so does the time that is left to `patiently`.
        Without either, it waits for the answer to begin as long as the connection stands, and then `timeout` for all of
        it. Raises Gone, Refused, and EngineError for an answer of another form.
        """
        until = getattr(self._own, "until", None)
        left = None if until is None else max(until - time.monotonic(), 0.01)
        within = min((each for each in (seconds, left) if each is not None), default=None)
        kept = getattr(self._own, "connection", None)
        connection = kept or self._connect(within)
        data = None if body is None else json.dumps(body)
        alarm = _Alarm(connection.sock)
        try:
            if within is not None:
                alarm.set(within)
            connection.sock.settimeout(within)
            connection.request("GET" if body is None else "POST", self.prefix + path, data, self.headers)
            if within is None:
                _await_bytes(connection.sock)
                alarm.set(self.timeout)
            response = connection.getresponse()
            content = self._content(response, path)
        except (OSError, http.client.HTTPException, AttributeError, ValueError) as error:  # two: closed by hang_up
            was_hung_up = connection not in self._open
            self._drop(connection)
            if alarm.rang or isinstance(error, TimeoutError):
                raise Late(f"no whole answer at {path} in {self.timeout if within is None else within:.3g} s") from None
            if kept and not was_hung_up:
                return self.ask(path, body, seconds, schema=schema)  # an idle connection was closed: a new one tells
            raise Gone(str(error) or type(error).__name__) from None
        except EngineError:
            self._drop(connection)
            raise
        finally:
            alarm.stop()
        if response.will_close:
            self._drop(connection)
        self._refuse_status(response, content, path)
        return _plain(content) if schema is None else self._formed(content, schema, path)

    def patiently(
        self, ask: Callable[[], Answer], check: Callable[[], None] = lambda: None, wait: float | None = None
    ) -> Answer:
        """`ask()`, again while the server is gone, with growing pauses, for `timeout` seconds in all.

        A server that says when to come back (Retry-After; `wait` at first) is asked then. `check` is called between
        tries and may raise. Raises EngineError once the time is over.
        """
        pause = FIRST_PAUSE
        self._own.until = until = time.monotonic() + self.timeout
        try:
            while True:
                if wait is not None:
                    self._pause(wait, until, check)
                try:
                    return ask()
                except Gone as error:
                    left = until - time.monotonic()
                    if left <= 0 or (error.wait or 0.0) > left:
                        raise EngineError(self._nobody(error)) from None
                    check()
                    wait = error.wait if error.wait is not None else min(pause, left)
                    pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            self._own.until = None

    def _pause(self, wait: float, until: float, check: Callable[[], None]) -> None:
        """Sleep `wait` seconds, at most `until` that time, and look for signals on the way."""
        end = min(time.monotonic() + wait, until)
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, LONGEST_PAUSE / 10))
            check()

    def _nobody(self, error: Gone) -> str:
        return (
            f"no vLLM server answers at {self.url} for {self.timeout:g} s ({error}): start one with "
            "'obverse serve-vllm', or give its address by --vllm_url"
        )

    def close(self) -> None:
        """End this thread's connection."""
        if (connection := getattr(self._own, "connection", None)) is not None:
            self._drop(connection)

    def hang_up(self) -> None:
        """Break every open connection, whoever waits on it: the server then drops what it was asked for."""
        with self._lock:
            for connection in self._open:
                if connection.sock is not None:
                    with suppress(OSError):  # it was broken already
                        connection.sock.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def _connect(self, within: float | None) -> http.client.HTTPConnection:
        most = CONNECT_SECONDS if within is None else min(CONNECT_SECONDS, within)
        connection = self.kind(self.host, self.port, timeout=most)
        try:
            connection.connect()
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except OSError as error:
            raise Gone(error.strerror or str(error)) from None
        self._own.connection = connection
        with self._lock:
            self._open.add(connection)
        return connection

    def _drop(self, connection: http.client.HTTPConnection) -> None:
        connection.close()
        self._own.connection = None
        with self._lock:
            self._open.discard(connection)

    def _content(self, response: http.client.HTTPResponse, path: str) -> bytes:
        """The body; EngineError for one larger than any answer is."""
        pieces, size = [], 0
        while piece := response.read(MAX_BYTES + 1 - size):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_BYTES:
                raise EngineError(f"the vLLM server at {self.url} sent more than {MAX_BYTES >> 20} MB at {path}")
        if response.length:  # a read of so many bytes says nothing of an early end
            raise http.client.IncompleteRead(b"".join(pieces), response.length)
        return b"".join(pieces)

    def _refuse_status(self, response: http.client.HTTPResponse, content: bytes, path: str) -> None:
        """Raise what a status other than 200 means."""
        status = response.status
        if status == 200:
            return
        if 300 <= status < 400:
            place = flat(response.headers.get("Location", "elsewhere"))[:TOLD]
            raise EngineError(
                f"the vLLM server at {self.url} sends {path} on to {place} (status {status}): give the address that "
                "answers by --vllm_url"
            )
        found = _plain(content)
        if isinstance(found, dict) and isinstance(found.get("error"), dict):
            found = found["error"].get("message", found["error"])
        elif isinstance(found, dict):
            found = found.get("detail", found.get("error", found))
        said = " ".join(str(found).split())[:TOLD]
        if status == 429 or status in (502, 503, 504):  # busy, a proxy without a server, one that starts or ends
            raise Gone(f"{status} {said}"[:TOLD], retry_after(response.headers.get("Retry-After")))
        raise Refused(status, said)

    def _formed(self, content: bytes, schema: type[Form], path: str) -> Form:
        """The answer as `schema` has it; EngineError with the address and the field that is wrong."""
        try:
            return schema.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"]))
            value = "" if first["type"] in ("missing", "json_invalid") else f", not {first['input']!r:.60}"
            message = first["msg"][0].lower() + first["msg"][1:]
            raise EngineError(
                f"the vLLM server at {self.url} sent at {path} what cannot be: {field or 'the body'}: {message}{value}"
            ) from None


def retry_after(text: str | None) -> float | None:
    """The seconds that a Retry-After header asks for, as a number or an HTTP date; None for no or another text."""
    if text is None:
        return None
    try:
        return max(float(int(text.strip())), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return None


def _plain(content: bytes) -> Any:
    """JSON as plain values, or the text where it is none; None where it is empty."""
    try:
        return json.loads(content) if content else None
    except (ValueError, RecursionError):
        return content.decode("utf-8", "replace")


def _await_bytes(sock: socket.socket) -> None:
    """Wait until there is something to read, or the connection ended."""
    if isinstance(sock, ssl.SSLSocket) and sock.pending():
        return
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        selector.select()


class _Alarm:
    """Breaks a connection when a call's time is over, however its bytes trickle in."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.rang = sock, False
        self._timer: threading.Timer | None = None

    def set(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._ring)
        self._timer.daemon = True
        self._timer.start()

    def _ring(self) -> None:
        self.rang = True
        with suppress(OSError):  # it was broken already
            self.sock.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
