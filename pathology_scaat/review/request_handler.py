"""What every answer of the review server begins with: who asks, headers, threads, errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import unquote

import tornado.web

from pathology_scaat.artifacts.redaction import redact
from pathology_scaat.errors import ScaatError
from pathology_scaat.review.access import COOKIE, HEADERS
from pathology_scaat.review.reviewed_run import Review

T = TypeVar("T")


class ReviewHandler(tornado.web.RequestHandler):
    """Checks host, origin and cookie before anything else; adds the headers."""

    review: Review

    def initialize(self, review: Review) -> None:
        self.review = review

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        headers = self.request.headers
        reason = self.review.access.refusal(
            self.request.method or "", headers.get("Host"), headers.get("Origin")
        )
        if reason is not None:
            raise tornado.web.HTTPError(403, reason=reason)
        if not self.allowed_without_cookie() and not self.review.access.is_known(
            self.get_cookie(COOKIE)
        ):
            raise tornado.web.HTTPError(
                403, reason="open the link that 'scaat review' printed; it works once"
            )

    def allowed_without_cookie(self) -> bool:
        return False

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{status_code}: {self._reason}\n")

    async def work(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run something that reads files on a thread; its errors are sentences."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self.review.pool, function, *arguments)
        except ScaatError as error:
            words = " ".join(redact(str(error)).split())
            # A status line is Latin-1; what is not comes as a question mark.
            raise tornado.web.HTTPError(
                404, reason=words.encode("latin-1", "replace").decode("latin-1")
            ) from None

    async def slide_id(self, text: str) -> str:
        """The slide that a request names; 404 unless the table holds it."""
        name = unquote(text)
        if name not in await self.work(self.review.known_ids):
            raise tornado.web.HTTPError(404, reason="no such slide")
        return name

    def send_json(self, value: Any) -> None:
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(json.dumps(value, allow_nan=False))
