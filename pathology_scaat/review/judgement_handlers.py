"""What a reviewer sends: verdicts and drawings, checked before they are kept."""

from __future__ import annotations

import json

import tornado.web

from pathology_scaat.errors import UsageError
from pathology_scaat.review.cohort import slide_details
from pathology_scaat.review.drawings import drawing_of
from pathology_scaat.review.judged_regions import JudgedRegion
from pathology_scaat.review.regions import ORDERS
from pathology_scaat.review.request_handler import ReviewHandler
from pathology_scaat.review.verdicts import UNDO, WHOLE_SLIDE, Verdict


class Verdicts(ReviewHandler):
    """``/api/verdict``: an answer on a region, or on the whole slide."""

    async def post(self) -> None:
        try:
            value = json.loads(self.request.body)
            verdict = Verdict(
                reviewer=str(value["reviewer"]).strip(),
                slide_id=str(value["slide_id"]),
                region_id=str(value["region_id"]),
                target_class=str(value["target_class"]),
                answer=str(value["answer"]),
                blind=bool(value.get("blind", False)),
                seconds=None if value.get("seconds") is None else float(value["seconds"]),
                note=str(value.get("note", "")),
            ).checked()
        except (ValueError, KeyError, TypeError, AttributeError, UsageError):
            raise tornado.web.HTTPError(400, reason="this is no verdict") from None
        await self.slide_id(verdict.slide_id)
        await self.work(self._save, verdict)
        self.send_json({"saved": True})

    def _save(self, verdict: Verdict) -> None:
        """The outline first: no verdict may stand without that which it is about."""
        if verdict.region_id != WHOLE_SLIDE and verdict.answer != UNDO:
            details = slide_details(self.review.out, verdict.slide_id, ORDERS[0])
            region = next((r for r in details.regions if r.region_id == verdict.region_id), None)
            if region is None:
                raise UsageError("the region", "is not on this slide any more", "reload the page")
            self.review.judged.keep(
                JudgedRegion(verdict.slide_id, region.region_id, region.name, region.rings)
            )
        self.review.verdicts.append(verdict)


class Drawings(ReviewHandler):
    """``/api/drawing``: an outline, or that one is taken away."""

    async def post(self) -> None:
        try:
            drawing = drawing_of(json.loads(self.request.body))
        except UsageError as error:
            raise tornado.web.HTTPError(400, reason=f"{error.subject} {error.problem}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise tornado.web.HTTPError(400, reason="this is no drawing") from None
        slide_id = await self.slide_id(drawing.slide_id)
        details = await self.work(slide_details, self.review.out, slide_id, ORDERS[0])
        if not drawing.removed and drawing.class_name not in details.class_names:
            raise tornado.web.HTTPError(400, reason="no such class")
        await self.work(self.review.drawings.append, drawing)
        self.send_json({"saved": True})
