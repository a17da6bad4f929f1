"""The review server: routes, and what each of them answers.

Reading slides and maps blocks, so it happens on a few threads; the event loop only waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import asdict
from importlib import resources
from typing import Any

import tornado.httpserver
import tornado.netutil
import tornado.web

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.errors import SlideReadError, UsageError
from pathology_scaat.geometry import BoxPx
from pathology_scaat.review.access import COOKIE
from pathology_scaat.review.cohort import cohort_rows, slide_details, verdict_dict
from pathology_scaat.review.exported_files import ROUTE, ExportedFile, exported_page
from pathology_scaat.review.judgement_handlers import Drawings, Verdicts
from pathology_scaat.review.model_card import model_card
from pathology_scaat.review.regions import DISAGREEMENT, ORDERS, ReviewRegion
from pathology_scaat.review.request_handler import ReviewHandler
from pathology_scaat.review.reviewed_run import Review
from pathology_scaat.review.slide_tiles import TILE_PX, encode_jpeg
from pathology_scaat.slides.base import RgbImage

STATIC = {
    "openseadragon.min.js": "text/javascript",
    "openseadragon.LICENSE.txt": "text/plain",
    "cohort.js": "text/javascript",
    "slide.js": "text/javascript",
    "numbers.js": "text/javascript",
    "why.js": "text/javascript",
    "drawing.js": "text/javascript",
    "colours.js": "text/javascript",
    "review.css": "text/css",
}
"""The files that are served, by name; no path of a request ever reaches the disk."""

MAX_BODY_BYTES = 16 << 10
THUMBNAIL_LEVEL = 8


def static_file(name: str) -> bytes:
    """A file of the package by its listed name."""
    return (resources.files("pathology_scaat.review") / "static" / name).read_bytes()


class _Start(ReviewHandler):
    """``/``: takes the token once, gives the cookie, shows the cohort."""

    def allowed_without_cookie(self) -> bool:
        return bool(self.get_query_argument("token", ""))

    def get(self) -> None:
        token = self.get_query_argument("token", "")
        if token:
            session = self.review.access.exchange(token)
            known = self.review.access.is_known(self.get_cookie(COOKIE))
            if session is None and not known:
                raise tornado.web.HTTPError(
                    403, reason="this link was used already; start 'scaat review' again"
                )
            if session is not None:
                self.set_cookie(
                    COOKIE, session, expires_days=None, httponly=True, samesite="Strict", path="/"
                )
            self.redirect("/")
            return
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(static_file("cohort.html"))


class _SlidePage(ReviewHandler):
    async def get(self, name: str) -> None:
        await self.slide_id(name)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(static_file("slide.html"))


class _Static(ReviewHandler):
    def get(self, name: str) -> None:
        if name not in STATIC:
            raise tornado.web.HTTPError(404, reason="no such file")
        self.set_header("Content-Type", f"{STATIC[name]}; charset=utf-8")
        self.set_header("Cache-Control", "private, max-age=3600")
        self.finish(static_file(name))


class _Cohort(ReviewHandler):
    async def get(self) -> None:
        review = self.review
        rows = await self.work(cohort_rows, review.out, review.verdicts)
        model = await self.work(model_card, review.out, review.model)
        for row in rows:
            row["has_slide"] = row["slide_id"] in review.slide_cache
        exported = await self.work(exported_page, review.out)
        self.send_json({"rows": rows, "model": model, "exported_page": exported})


class _Slide(ReviewHandler):
    async def get(self, name: str) -> None:
        slide_id = await self.slide_id(name)
        order = self.get_query_argument("order", ORDERS[0])
        if order not in (*ORDERS, DISAGREEMENT):
            raise tornado.web.HTTPError(404, reason="no such order")
        by = ORDERS[0] if order == DISAGREEMENT else order
        details = await self.work(slide_details, self.review.out, slide_id, by)
        regions = [region.to_dict() for region in details.regions]
        if order == DISAGREEMENT:
            apart = await self.work(self._apart, slide_id, details.regions)
            for region in regions:
                region["models_differ"] = apart.get(region["region_id"])
            regions.sort(key=lambda r: -1.0 if r["models_differ"] is None else r["models_differ"],
                         reverse=True)  # fmt: skip
        rows = await self.work(self.review.verdicts.current)
        drawn = await self.work(self.review.drawings.current)
        value: dict[str, Any] = {
            "slide_id": slide_id,
            "slide": None,
            "channels": list(details.channels),
            "scales": [scale.to_dict() for scale in details.scales],
            "role": details.role,
            "warnings": list(details.warnings),
            "class_names": list(details.class_names),
            "target_class": details.target_class,
            "regions": regions,
            "drawings": [asdict(d) for d in drawn if d.slide_id == slide_id],
            "verdicts": [verdict_dict(v) for v in rows.values() if v.slide_id == slide_id],
        }
        x, y, width, height = details.frame_px
        if slide_id in self.review.slide_cache:
            frame, value["slide"] = await self.work(self._frame, slide_id)
            x, y = x - frame.x, y - frame.y
        else:
            x, y = 0, 0
        value["map_box"] = {"x": x, "y": y, "width": width, "height": height}
        value["slide_mpp"] = await self.work(self._mpp, slide_id)
        self.send_json(value)

    def _apart(self, slide_id: str, regions: tuple[ReviewRegion, ...]) -> dict[str, float]:
        return self.review.why.differences(slide_id, regions)

    def _frame(self, slide_id: str) -> tuple[BoxPx, dict[str, int]]:
        with self.review.slide_cache.server(slide_id) as server:
            return server.frame_px, {
                "width": server.size_px.width, "height": server.size_px.height,
                "max_level": server.max_level, "tile_px": TILE_PX,
            }  # fmt: skip

    def _mpp(self, slide_id: str) -> float:
        from pathology_scaat.stitching import SlideMap

        return SlideMap(Workspace(self.review.out).map(slide_id)).meta.slide.mpp


class _Tile(ReviewHandler):
    async def get(self, name: str, level: str, col: str, row: str) -> None:
        slide_id = await self.slide_id(name)
        if slide_id not in self.review.slide_cache:
            raise tornado.web.HTTPError(404, reason="the slide is not at hand: give --manifest")
        data = await self.work(
            self.review.slide_cache.jpeg, slide_id, int(level), int(col), int(row)
        )
        if data is None:
            raise tornado.web.HTTPError(404, reason="no such tile")
        self.set_header("Content-Type", "image/jpeg")
        self.set_header("Cache-Control", "private, max-age=3600")
        self.finish(data)


class _Thumbnail(ReviewHandler):
    async def get(self, name: str) -> None:
        slide_id = await self.slide_id(name)
        if slide_id not in self.review.slide_cache:
            raise tornado.web.HTTPError(404, reason="the slide is not at hand: give --manifest")
        self.set_header("Content-Type", "image/jpeg")
        self.set_header("Cache-Control", "private, max-age=3600")
        self.finish(await self.work(self._jpeg, slide_id))

    def _jpeg(self, slide_id: str) -> bytes:
        with self.review.slide_cache.server(slide_id) as server:
            pixels = server.tile(min(THUMBNAIL_LEVEL, server.max_level), 0, 0)
        if pixels is None:  # not for the first tile of a level
            raise SlideReadError(slide_id, "has no thumbnail", "open the slide itself")
        return encode_jpeg(pixels)


class _Map(ReviewHandler):
    async def get(self, name: str, channel: str) -> None:
        slide_id = await self.slide_id(name)
        picture = await self.work(self.review.map_picture, slide_id, int(channel))
        self.set_header("Content-Type", "image/png")
        self.set_header("X-Map-Low", repr(picture.low))
        self.set_header("X-Map-High", repr(picture.high))
        self.set_header("X-Map-Mpp", repr(picture.mpp))
        self.set_header("X-Map-Scale", repr(picture.scale_px))
        self.finish(picture.png)


class _WhyHandler(ReviewHandler):
    """``/api/why/SLIDE?region=ID``: neighbours of a region, and the slide without it."""

    async def get(self, name: str) -> None:
        slide_id = await self.slide_id(name)
        wanted = self.get_query_argument("region", "")
        details = await self.work(slide_details, self.review.out, slide_id, ORDERS[0])
        region = next((r for r in details.regions if r.region_id == wanted), None)
        if region is None:
            raise tornado.web.HTTPError(404, reason="no such region")
        self.send_json(await self.work(self._about, slide_id, region))

    def _about(self, slide_id: str, region: ReviewRegion) -> dict[str, Any]:
        return self.review.why.about(slide_id, region)


class _Neighbour(ReviewHandler):
    async def get(self, name: str, number: str) -> None:
        slide_id = await self.slide_id(name)
        pixels = await self.work(self._picture, slide_id, int(number))
        self.set_header("Content-Type", "image/jpeg")
        self.finish(encode_jpeg(pixels))

    def _picture(self, slide_id: str, number: int) -> RgbImage:
        return self.review.why.picture(slide_id, number)


class _NotFoundHandler(ReviewHandler):
    def prepare(self) -> None:
        super().prepare()
        raise tornado.web.HTTPError(404, reason="no such page")


def application(review: Review) -> tornado.web.Application:
    """The routes of a review."""
    kwargs = {"review": review}
    name = r"([^/]+)"
    return tornado.web.Application(
        [
            (r"/", _Start, kwargs),
            (rf"/slide/{name}", _SlidePage, kwargs),
            (rf"/static/{name}", _Static, kwargs),
            (r"/api/cohort", _Cohort, kwargs),
            (rf"/api/slide/{name}", _Slide, kwargs),
            (r"/api/verdict", Verdicts, kwargs),
            (r"/api/drawing", Drawings, kwargs),
            (rf"/api/why/{name}", _WhyHandler, kwargs),
            (rf"/neighbour/{name}/(\d{{1,9}})\.jpg", _Neighbour, kwargs),
            (rf"/tiles/{name}/(\d{{1,2}})/(\d{{1,7}})_(\d{{1,7}})\.jpg", _Tile, kwargs),
            (rf"/thumbnail/{name}\.jpg", _Thumbnail, kwargs),
            (rf"{ROUTE}(.+)", ExportedFile, kwargs),
            (rf"/map/{name}/(\d{{1,3}})\.png", _Map, kwargs),
        ],
        default_handler_class=_NotFoundHandler,
        default_handler_args=kwargs,
        log_function=lambda handler: None,
    )


def bind(port: int = 0) -> tuple[Any, int]:
    """A listening socket on 127.0.0.1, and its port.

    Raises
    ------
    UsageError
        If the port is taken.
    """
    try:
        (socket,) = tornado.netutil.bind_sockets(port, "127.0.0.1")
    except OSError:
        raise UsageError(
            "--port", f"{port} cannot be used", "leave it out for a free one"
        ) from None
    return socket, int(socket.getsockname()[1])


async def serve(review: Review, socket: Any, ready: Callable[[], None]) -> None:
    """Serve until cancelled; ``ready`` is called once connections are taken."""
    logging.getLogger("tornado").setLevel(logging.CRITICAL)
    server = tornado.httpserver.HTTPServer(
        application(review), max_body_size=MAX_BODY_BYTES, max_header_size=MAX_BODY_BYTES
    )
    server.add_socket(socket)
    ready()
    try:
        await asyncio.Event().wait()
    finally:
        server.stop()
        review.close()
