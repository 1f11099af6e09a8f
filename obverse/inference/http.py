"""A client of one HTTP server that answers in JSON, by httpx, with a deadline for every whole answer.

httpx bounds single reads, and an answer that trickles in would outlive that. So all requests of a process run in one
asyncio event loop, in a background thread: a deadline is `asyncio.timeout`, and giving up is the task's cancellation.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, TypeVar, overload

import httpx2
from pydantic import BaseModel, ValidationError

from obverse.errors import ConfigError, EngineError
from obverse.redact import flat

CONNECT_SECONDS = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # between two attempts, in seconds; each pause is twice the one before
MAX_BYTES = 2**28  # of an answer: a completion of a million tokens is shorter
MAX_QUOTED = 300  # characters of a server's answer that a message repeats
# Idle connections are used again for less time than a server keeps them open (uvicorn: 5 s).
LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=2.0)
BUSY = (429, 502, 503, 504)  # overloaded, a proxy without its server, a server that starts or shuts down

Result = TypeVar("Result")
Schema = TypeVar("Schema", bound=BaseModel)


class ServerUnavailable(Exception):
    """No server answers at the address, or the connection broke; a later attempt may succeed.

    `retry_after` is the pause that the server requested, in seconds; None where it requested none.
    """

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class AnswerTimeout(ServerUnavailable):
    """No whole answer arrived before the deadline."""


class RequestRejected(Exception):
    """The server answered with an error status; the same request would be rejected again."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{status} {detail}")
        self.status, self.detail = status, detail


@dataclass(frozen=True)
class ServerRole:
    """What messages call a server, and which option and environment variables configure it.

    Attributes:
        name: As in "the vLLM server at http://...".
        option: The option with its address.
        keys: Environment variables; the first one that is set has the key.
        start: How to start one.
    """

    name: str = "vLLM server"
    option: str = "--vllm_url"
    keys: tuple[str, ...] = ("VLLM_API_KEY",)
    start: str = "start one with 'obverse serve-vllm'"


SAMPLER = ServerRole()


class Client:
    """A client of the server at `url` (http or https; a path in it is the prefix of all paths), for several threads.

    `timeout` is the longest time that `with_retries` waits for an unreachable server, in seconds. The key in an
    environment variable of `role.keys`, if set, is sent as a bearer token. Proxies and .netrc of the environment are
    not used and redirects are not followed: requests go to this server only. Raises ConfigError for an invalid address
    or key.
    """

    def __init__(self, url: str, timeout: float, role: ServerRole = SAMPLER) -> None:
        self.url, self.timeout, self.role = url.rstrip("/"), timeout, role
        scheme = checked_url(self.url, role).scheme
        self._http = httpx2.AsyncClient(
            base_url=self.url,
            headers={"Content-Type": "application/json", "Accept-Encoding": "identity", **authorization(role.keys)},
            timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
            trust_env=False,
            transport=httpx2.AsyncHTTPTransport(
                verify=ssl.create_default_context() if scheme == "https" else False,  # http: there is no certificate
                limits=LIMITS,
                socket_options=[(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)],
            ),
        )
        self._loop = _event_loop()
        self._in_flight: set[Future[Any]] = set()
        self._retries = threading.local()  # `deadline` of this thread's `with_retries`
        weakref.finalize(self, _close, self._http, self._loop).atexit = False

    @property
    def name(self) -> str:
        """The server as messages name it: "the vLLM server at http://127.0.0.1:8000"."""
        return f"the {self.role.name} at {self.url}"

    @overload
    def request(self, path: str, body: Any = ..., seconds: float | None = ..., *, schema: type[Schema]) -> Schema: ...
    @overload
    def request(self, path: str, body: Any = ..., seconds: float | None = ..., *, schema: None = ...) -> Any: ...

    def request(
        self, path: str, body: Any = None, seconds: float | None = None, *, schema: type[Schema] | None = None
    ) -> Schema | Any:
        """Send one request (POST with a JSON `body`, else GET) and return the answer, parsed by `schema`.

        Without a schema, returns plain JSON, or the text of an answer that is not JSON. `seconds` bounds the whole
        exchange, and so does the rest of the time of `with_retries`. Without either, the server may take any time until
        its headers are complete, and then `timeout` seconds for the body. Raises ServerUnavailable, RequestRejected,
        and EngineError for an answer that does not match the schema.
        """
        try:
            return self.send(path, body, seconds, schema=schema).result()
        except CancelledError:
            raise ServerUnavailable("the request was cancelled") from None

    def send(
        self, path: str, body: Any = None, seconds: float | None = None, *, schema: type[Schema] | None = None
    ) -> Future[Schema | Any]:
        """Start a request as `request` does, and return the future of its answer."""
        deadline = getattr(self._retries, "deadline", None)
        remaining = None if deadline is None else max(deadline - time.monotonic(), 0.01)
        limit = min((bound for bound in (seconds, remaining) if bound is not None), default=None)
        future = asyncio.run_coroutine_threadsafe(self._exchange(path, body, limit, schema), self._loop)
        self._in_flight.add(future)
        future.add_done_callback(self._in_flight.discard)
        return future

    def cancel_all(self) -> None:
        """Cancel the requests of all threads; the server sees their connections close."""
        for future in list(self._in_flight):
            future.cancel()

    def with_retries(
        self, function: Callable[[], Result], check: Callable[[], None] = lambda: None, pause: float | None = None
    ) -> Result:
        """Return `function()`, called again while it raises ServerUnavailable, for `timeout` seconds in all.

        Pauses grow, unless the server names one (Retry-After; `pause` before the first attempt). `check` is called in
        every pause and may raise. Raises EngineError when the time is over.
        """
        usual_pause = FIRST_PAUSE
        self._retries.deadline = deadline = time.monotonic() + self.timeout
        try:
            while True:
                if pause is not None:
                    _sleep(min(pause, deadline - time.monotonic()), check)
                try:
                    return function()
                except ServerUnavailable as error:
                    remaining = deadline - time.monotonic()
                    if remaining <= 0 or (error.retry_after or 0.0) > remaining:
                        raise EngineError(
                            f"no {self.role.name} answers at {self.url} for {self.timeout:g} s ({error}): "
                            f"{self.role.start}, or give its address by {self.role.option}"
                        ) from None
                    check()
                    pause = usual_pause if error.retry_after is None else error.retry_after
                    usual_pause = min(2 * usual_pause, LONGEST_PAUSE)
        finally:
            self._retries.deadline = None

    async def _exchange(self, path: str, body: Any, limit: float | None, schema: type[BaseModel] | None) -> Any:
        method, data = ("GET", None) if body is None else ("POST", json.dumps(body).encode())
        content = bytearray()
        try:
            async with asyncio.timeout(limit) as deadline, self._http.stream(method, path, content=data) as response:
                if limit is None:
                    deadline.reschedule(self._loop.time() + self.timeout)
                async for chunk in response.aiter_raw():
                    content += chunk
                    if len(content) > MAX_BYTES:
                        raise self.invalid(path, f"more than {MAX_BYTES >> 20} MB")
        except TimeoutError:
            seconds = self.timeout if limit is None else limit
            raise AnswerTimeout(f"no whole answer at {path} in {seconds:.3g} s") from None
        except (httpx2.HTTPError, OSError) as error:
            raise ServerUnavailable(_reason(error)) from None
        self._check_status(response, content, path)
        return _plain_json(content) if schema is None else self._parse(content, schema, path)

    def _check_status(self, response: httpx2.Response, content: bytearray, path: str) -> None:
        """Raise the error that a status other than 200 means."""
        status = response.status_code
        if status == 200:
            return
        if 300 <= status < 400:
            target = flat(response.headers.get("Location", "elsewhere"))[:MAX_QUOTED]
            raise EngineError(
                f"{self.name} redirects {path} to {target} (status {status}): give the address that answers by "
                f"{self.role.option}"
            )
        detail = _plain_json(content)
        if isinstance(detail, dict):
            detail = detail.get("detail", detail.get("error", detail))
        if isinstance(detail, dict):
            detail = detail.get("message", detail)
        text = " ".join(str(detail).split())[:MAX_QUOTED]
        if status in BUSY:
            raise ServerUnavailable(f"{status} {text}"[:MAX_QUOTED], retry_after(response.headers.get("Retry-After")))
        raise RequestRejected(status, text)

    def _parse(self, content: bytearray, schema: type[BaseModel], path: str) -> BaseModel:
        try:
            return schema.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"])) or "the body"
            value = "" if first["type"] in ("missing", "json_invalid") else f", not {first['input']!r:.60}"
            raise self.invalid(path, f"{field}: {first['msg'][0].lower()}{first['msg'][1:]}{value}") from None

    def invalid(self, path: str, reason: str) -> EngineError:
        """The error for an answer at `path` that cannot be used."""
        return EngineError(f"{self.name} sent an invalid answer at {path}: {reason}")


def checked_url(url: str, role: ServerRole = SAMPLER) -> httpx2.URL:
    """The parts of an address; ConfigError unless it consists of scheme, host, port and path."""
    try:
        parts = httpx2.URL(url)
    except httpx2.InvalidURL:
        parts = httpx2.URL()
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ConfigError(f"{role.option}: {flat(url)!r} is not an address: write it as http://HOST:PORT")
    if parts.query or parts.fragment or parts.userinfo:
        raise ConfigError(
            f"{role.option}: {flat(url)!r} has more than scheme, host, port and path: put a key into the environment "
            f"variable {role.keys[0]}"
        )
    return parts


def authorization(variables: tuple[str, ...]) -> dict[str, str]:
    """The header with the key of the first variable that is set; ConfigError, without the key, if it fits no header."""
    variable = next((name for name in variables if name in os.environ), variables[0])
    key = os.environ.get(variable, "")
    if not (key.isascii() and key.isprintable() and key == key.strip()):
        raise ConfigError(f"{variable}: a key must be printable ASCII, without spaces or line ends around it")
    return {"Authorization": f"Bearer {key}"} if key else {}


def retry_after(text: str | None) -> float | None:
    """The seconds that a Retry-After header names, as a number or an HTTP date; None without or for other text."""
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


def _plain_json(content: bytearray) -> Any:
    """JSON as plain values; the text where it is not JSON; None where it is empty."""
    try:
        return json.loads(content) if content else None
    except (ValueError, RecursionError):
        return content.decode("utf-8", "replace")


def _reason(error: BaseException) -> str:
    """The system's reason for an error of the transport, such as 'Connection refused'; else its text or its class."""
    reasons, cause = [str(error) or type(error).__name__], error.__cause__
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno:  # negative: of the name's resolution
            reasons.append(os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror))
        cause = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else cause.__cause__ or cause.__context__
    return reasons[-1]


def _sleep(seconds: float, check: Callable[[], None]) -> None:
    """Sleep in short intervals and call `check` after each."""
    end = time.monotonic() + seconds
    while (remaining := end - time.monotonic()) > 0:
        time.sleep(min(remaining, LONGEST_PAUSE / 10))
        check()


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """The event loop of this process's clients, in a thread that ends with the process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="http", daemon=True).start()
    return loop


def _close(client: httpx2.AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
    asyncio.run_coroutine_threadsafe(client.aclose(), loop)
