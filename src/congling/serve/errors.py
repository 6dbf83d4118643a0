"""Errors in the shape of OpenAI's API: ``{"error": {"message", "type", "param", "code"}}``."""

from typing import Any

import orjson
from fastapi import Response

_KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """What a client is told instead of an answer."""

    def __init__(
        self, status: int, message: str, parameter: str | None = None, code: str | None = None, retry: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.parameter, self.code, self.retry = status, parameter, code, retry

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of it."""
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        sayable = str(self).encode("utf-8", "replace").decode()  # JSON can smuggle in halves of characters
        return {"error": {"message": sayable, "type": kind, "param": self.parameter, "code": self.code}}

    def response(self, close: bool = False) -> Response:
        """The HTTP response; ``close``: the connection cannot be used again."""
        headers = {} if self.retry is None else {"Retry-After": str(self.retry)}
        if close:
            headers["Connection"] = "close"
        return Response(orjson.dumps(self.body), self.status, headers, "application/json")


def busy(message: str = "the server is busy: try again in a moment", retry: int = 1) -> ApiError:
    """429: not now."""
    return ApiError(429, message, code="rate_limit_exceeded", retry=retry)
