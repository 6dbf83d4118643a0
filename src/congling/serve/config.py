"""Section ``[serve]``."""

from typing import Self

from pydantic import model_validator

from congling.config import Config, option

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class ServeConfig(Config):
    """Where the server listens, and its limits. Loopback only, unless an api_key is set. How many answers are generated
    at once, and how many may wait, is ``engine.max_batch`` and ``engine.max_waiting``."""

    host: str = option("127.0.0.1", "address to listen at")
    port: int = option(8000, "port to listen at", ge=0, le=65535)
    api_key: str | list[str] | None = option(
        None, "key, or list of keys, that clients send as 'Authorization: Bearer KEY'; needed beyond loopback"
    )
    name: str = option("", "name of the model for clients; empty: that of its folder")
    hosts: list[str] = option([], "names that a proxy on this machine is asked by, when there is no api_key")
    proxies: str = option("", "addresses of proxies whose X-Forwarded-For is believed, comma between them; *: all")
    max_tokens: int = option(512, "longest answer, in tokens", gt=0)
    max_prompt_tokens: int = option(2048, "longest conversation, in tokens", gt=0)
    max_body_bytes: int = option(1_000_000, "longest request body", gt=0)
    max_concurrent: int = option(128, "requests under way, running or waiting; more get status 429", gt=0)
    requests_per_minute: int = option(0, "for each key, or address without keys; more get status 429; 0: any", ge=0)
    timeout: float = option(600.0, "seconds that an answer may take, its waiting included", gt=0)
    body_timeout: float = option(20.0, "seconds in which a request must have come in", gt=0)
    drain_timeout: float = option(30.0, "seconds that running answers have when the server is told to stop", ge=0)

    @property
    def keys(self) -> list[str]:
        """All keys that are good."""
        keys = [self.api_key] if isinstance(self.api_key, str) else list(self.api_key or ())
        return [key for key in keys if key]

    @property
    def local_names(self) -> list[str]:
        """What the Host header may name while everybody is let in: no page of another origin can pose as it."""
        return [*_LOOPBACK, *self.hosts]

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.host not in _LOOPBACK and not self.keys:
            raise ValueError(f"host {self.host} can be reached by others: set serve.api_key, or keep host=127.0.0.1")
        return self
