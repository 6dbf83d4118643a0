"""``congling label CORPUS``: a page on loopback where people call documents high, mid or low (高/中/低).

The server is safe against other web pages open in the same browser: a request must name a loopback host (no DNS
rebinding) and carry a token that only our page knows (no cross-site posting).
"""

import base64
import hashlib
import hmac
import re
import secrets
import threading
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import ASGIApp, Receive, Scope, Send

from congling.clean.quality import labels as labels_file
from congling.clean.quality.classifier import MIN_LABELS, Classifier
from congling.clean.quality.config import LabelConfig
from congling.clean.quality.labels import LABELS, Decision, Label, agreements, standing, text_hash
from congling.clean.quality.sample import Document, draw
from congling.reporter import Reporter
from congling.serve.listener import listening

_HOSTS = ("127.0.0.1", "localhost", "::1")
_MAX_BODY = 100_000  # bytes
_RELEARN = 10  # decisions after which the uncertain-first order is made anew
_EXCERPT = 120  # characters of a document in the list of disagreements
Annotator = Annotated[str, Field(min_length=1, max_length=40)]


class Choice(BaseModel):
    """Body of a decision."""

    model_config = ConfigDict(extra="forbid")
    annotator: Annotator
    number: int = Field(ge=0)  # of the document in the draw
    label: Label
    note: str = Field("", max_length=2000)


class Undo(BaseModel):
    """Body of taking the last decision back."""

    model_config = ConfigDict(extra="forbid")
    annotator: Annotator


class Desk:
    """The documents, the label file, and the order in which documents come. Safe to use from several threads."""

    def __init__(self, documents: list[Document], corpus: str, config: LabelConfig) -> None:
        """Raises LabelError when the label file is broken, or of another corpus."""
        self.documents, self._corpus, self._config = documents, corpus, config
        self._path = Path(config.labels)
        self._hashes = [text_hash(d.text) for d in documents]
        self._number = {h: n for n, h in enumerate(self._hashes)}
        self._lock, self._learning = threading.Lock(), threading.Lock()
        self._file, self._checked = labels_file.Follower(self._path), 0  # rows known to be of this corpus
        self._uncertain: tuple[int, list[int]] = (-1, [])  # decisions it was made of // _RELEARN; documents
        self.decisions()

    def decisions(self) -> dict[tuple[str, str], Decision]:
        """Those that stand, those that another page wrote too."""
        with self._lock:
            rows = self._file.rows()
            labels_file.check_corpus(self._path, rows[self._checked :], self._corpus)
            self._checked = len(rows)
            return standing(rows)

    def of(self, annotator: str) -> dict[int, Decision]:
        """The annotator's standing decisions by document number, in the order in which they were made."""
        mine = ((self._number.get(h), d) for (name, h), d in self.decisions().items() if name == annotator)
        return {number: d for number, d in mine if number is not None}

    def decide(self, number: int, label: Label | None, note: str, annotator: str) -> None:
        """Writes the annotator's decision; label None takes one back."""
        document = self.documents[number]
        row = Decision(
            text=document.text,
            hash=self._hashes[number],
            id=document.id,
            source=document.source,
            label=label,
            note=note,
            annotator=annotator,
            time=labels_file.now(),
            corpus=self._corpus,
        )
        labels_file.append(self._path, row)

    def undo(self, annotator: str) -> int | None:
        """Takes the annotator's last decision back; returns its document, None when there is nothing to undo."""
        mine = self.of(annotator)
        if not mine:
            return None
        number = next(reversed(mine))
        self.decide(number, None, "", annotator)
        return number

    def order(self, uncertain: bool) -> tuple[list[int], bool]:
        """(numbers of all documents, first to be shown first; whether the order is by uncertainty, once asked)."""
        known = list(self.decisions().values())
        if not uncertain or len(known) < MIN_LABELS or len({d.label for d in known}) < 2:
            return list(range(len(self.documents))), False
        with self._learning:
            made = len(known) // _RELEARN
            if self._uncertain[0] != made:
                self._uncertain = made, self._by_uncertainty(known)
            return self._uncertain[1], True

    def _by_uncertainty(self, known: list[Decision]) -> list[int]:
        """Largest entropy of what a classifier says first."""
        learned = pa.array([d.text for d in known], pa.large_string())
        classifier = Classifier.fit(learned, np.array([d.number for d in known]), self._config.seed)
        p = classifier.probabilities(pa.array([d.text for d in self.documents], pa.large_string()))
        entropy = -(p * np.log(np.maximum(p, 1e-12))).sum(1)
        order: list[int] = np.argsort(-entropy, kind="stable").tolist()
        return order

    def state(self, annotator: str, uncertain: bool) -> dict[str, Any]:
        """What the page shows around a document."""
        mine = self.of(annotator)
        order, by_uncertainty = self.order(uncertain)
        counts = {label: sum(d.label == label for d in mine.values()) for label in LABELS}
        return {
            "total": len(self.documents),
            "counts": counts,
            "done": list(mine),
            "queue": [number for number in order if number not in mine],
            "uncertain": by_uncertainty,
            "needed": MIN_LABELS,
            "annotators": sorted({name for name, _ in self.decisions()}),
        }

    def document(self, number: int, annotator: str) -> dict[str, Any]:
        """A document and what the annotator thought of it; never what others think."""
        document, mine = self.documents[number], self.of(annotator).get(number)
        decided = {"label": mine.label if mine else None, "note": mine.note if mine else ""}
        return {"number": number, **document._asdict(), **decided}

    def agreement(self) -> list[dict[str, Any]]:
        """Of each pair of annotators, with the documents on which they disagree."""
        decisions = self.decisions()

        def apart(a: str, b: str, text: str) -> dict[str, Any]:
            first, second = decisions[a, text], decisions[b, text]
            said = {"labels": [first.label, second.label], "notes": [first.note, second.note]}
            shown = first.text[:_EXCERPT] + "…" * (len(first.text) > _EXCERPT)
            return {"number": self._number.get(text), "text": shown, **said}

        return [
            {**a._asdict(), "disagreements": [apart(a.first, a.second, text) for text in a.disagreements]}
            for a in agreements(decisions)
        ]


class Guard:
    """Turns away whatever does not come from our own page."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        if _host_name(request.headers.get("host", "")) not in _HOSTS:
            return JSONResponse({"detail": "this server answers to loopback names only"}, 403)
        if request.url.path.startswith("/api/"):
            given = request.headers.get("x-token", "").encode("latin-1")
            if not hmac.compare_digest(given, self._token.encode()):
                return JSONResponse({"detail": "the page is of an earlier start of the server: load it again"}, 403)
        length = request.headers.get("content-length", "0")
        if request.method == "POST" and (not length.isdigit() or not 0 < int(length) <= _MAX_BODY):
            return JSONResponse({"detail": f"a body of 1 to {_MAX_BODY} bytes is needed"}, 413)
        return None


def create_app(desk: Desk, config: LabelConfig) -> FastAPI:
    """The application; a new token each time."""
    app = FastAPI(title="congling label", docs_url=None, redoc_url=None, openapi_url=None)
    token = secrets.token_urlsafe(24)
    app.add_middleware(Guard, token=token)
    text, headers = _page(token, config.annotator)

    @app.exception_handler(ValueError)  # the label file, changed under our hands
    @app.exception_handler(OSError)  # a full disk
    def broken(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 409)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]  # without what was given: it may hold halves of characters
        return JSONResponse({"detail": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"}, 422)

    @app.get("/")
    def page() -> HTMLResponse:
        return HTMLResponse(text, headers=headers)

    @app.get("/api/state")
    def state(annotator: Annotator, order: Literal["random", "uncertain"] = "random") -> dict[str, Any]:
        return desk.state(annotator, order == "uncertain")

    @app.get("/api/document/{number}")
    def document(number: int, annotator: Annotator) -> dict[str, Any]:
        return desk.document(_known(number), annotator)

    @app.post("/api/decide")
    def decide(choice: Choice) -> dict[str, int]:
        desk.decide(_known(choice.number), choice.label, choice.note, choice.annotator)
        return {"decided": len(desk.of(choice.annotator))}

    @app.post("/api/undo")
    def undo(body: Undo) -> dict[str, int | None]:
        return {"number": desk.undo(body.annotator)}

    @app.get("/api/agreement")
    def agreement() -> list[dict[str, Any]]:
        return desk.agreement()

    def _known(number: int) -> int:
        if not 0 <= number < len(desk.documents):
            raise HTTPException(404, f"no document {number}; there are {len(desk.documents)}")
        return number

    return app


def run_label(corpus: Path, config: LabelConfig, reporter: Reporter) -> None:
    """Serves the page until the process is told to stop.

    Raises ValueError when the corpus has no documents or the label file is not of it, OSError when the port is taken,
    each in one line.
    """
    with listening(config.host, config.port, "label") as (listener, address):
        name, documents = draw(corpus, config, reporter)
        desk = Desk(documents, name, config)
        reporter.line(f"{len(documents)} documents of {name}; {len(desk.decisions())} decisions in {config.labels}")
        reporter.line(f"label at {address}/   Ctrl-C stops; everything is saved at once")
        settings = uvicorn.Config(create_app(desk, config), log_level="warning", timeout_graceful_shutdown=2)
        uvicorn.Server(settings).run(sockets=[listener])


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname  # of 127.0.0.1:8010 or [::1]:8010; the port may be that of a tunnel
    except ValueError:
        return None


def _page(token: str, annotator: str) -> tuple[str, dict[str, str]]:
    """The page, and headers that let nothing run on it but its own script and style."""
    raw = files("congling.clean.quality").joinpath("label.html").read_text(encoding="utf-8")
    hashes = {}
    for name in ("script", "style"):
        [inline] = re.findall(f"<{name}>(.*?)</{name}>", raw, re.DOTALL)
        hashes[name] = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{hashes['script']}'; style-src 'sha256-{hashes['style']}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    headers["Referrer-Policy"] = "no-referrer"
    return raw.replace("{{token}}", token).replace("{{annotator}}", escape(annotator)), headers
