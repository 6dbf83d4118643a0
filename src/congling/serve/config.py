"""Section ``[serve]``."""

from typing import Self

from pydantic import model_validator

from congling.config import Config, option

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class ServeConfig(Config):
    """Where the server listens, and its limits. Loopback only, unless an api_key is set."""

    host: str = option("127.0.0.1", "address to listen at")
    port: int = option(8000, "port to listen at", ge=0, le=65535)
    api_key: str | None = option(None, "key that clients send as 'Authorization: Bearer KEY'; needed beyond loopback")
    max_tokens: int = option(512, "longest answer, in tokens", gt=0)
    max_prompt_tokens: int = option(2048, "longest conversation, in tokens", gt=0)
    max_body_bytes: int = option(1_000_000, "longest request body", gt=0)
    max_concurrent: int = option(2, "answers generated at the same time", gt=0)
    max_waiting: int = option(16, "requests that may wait for their turn; more get status 429", ge=0)

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.host not in _LOOPBACK and not self.api_key:
            raise ValueError(f"host {self.host} can be reached by others: set serve.api_key, or keep host=127.0.0.1")
        return self
