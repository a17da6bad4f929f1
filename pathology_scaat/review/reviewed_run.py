"""What a review server serves: the run, its slides, and what readers have said of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.artifacts.urls import SlideUrl
from pathology_scaat.errors import UsageError
from pathology_scaat.review.access import Access
from pathology_scaat.review.drawings import DrawingTable
from pathology_scaat.review.judged_regions import JudgedRegions
from pathology_scaat.review.map_values import ChannelPicture, channel_picture, examined_map
from pathology_scaat.review.same_file import same_file
from pathology_scaat.review.slide_tiles import SlideCache
from pathology_scaat.review.verdicts import VerdictTable

if TYPE_CHECKING:
    from pathology_scaat.export.raster.examined import Examined
    from pathology_scaat.review.why import RegionExplainer

THREADS = 4


@same_file
def _ids_of_table(path: Path) -> frozenset[str]:
    return frozenset(row["slide_id"] for row in StatusTable(path.parent).rows())


@dataclass
class Review:
    """What one server serves.

    Attributes
    ----------
    out : Path
        Output folder of a run.
    slides : mapping
        Path or URL and µm/px by slide id; empty where no manifest was given: then pages show
        maps and regions without the slide.
    model : Path or None
        Model bundle; ``out/model`` if None.
    """

    out: Path
    slides: dict[str, tuple[Path | SlideUrl, float | None]]
    access: Access
    model: Path | None = None
    slide_cache: SlideCache = field(init=False)
    verdicts: VerdictTable = field(init=False)
    drawings: DrawingTable = field(init=False)
    judged: JudgedRegions = field(init=False)
    pool: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        self.slide_cache = SlideCache(self.slides)
        self.verdicts = VerdictTable(self.out)
        self.drawings = DrawingTable(self.out)
        self.judged = JudgedRegions(self.out)
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="review")
        self.examined = lru_cache(maxsize=4)(self._examined)
        self.map_picture = lru_cache(maxsize=8)(self._map_picture)

    @cached_property
    def why(self) -> RegionExplainer:
        """Who knows why; loaded when first asked, since it needs the model and so torch."""
        from pathology_scaat.review.why import RegionExplainer

        return RegionExplainer(self.out, self.model)

    def _map_picture(self, slide_id: str, channel: int) -> ChannelPicture:
        from pathology_scaat.stitching import SlideMap

        path = Workspace(self.out).map(slide_id)
        names = SlideMap(path).channel_names
        if not 0 <= channel < len(names):
            raise UsageError("the channel", "does not exist", "choose another")
        return channel_picture(path, names[channel], self.examined(slide_id))

    def _examined(self, slide_id: str) -> Examined:
        """Where the slide shows tissue that the model may judge; the same for all channels."""
        from pathology_scaat.stitching import SlideMap

        path = Workspace(self.out).map(slide_id)
        if slide_id not in self.slide_cache:
            return examined_map(path, None)
        with self.slide_cache.server(slide_id) as server:
            if server.frame_px != SlideMap(path).frame_px:
                raise UsageError(
                    slide_id, "has another frame than its map", "give the slide that was tiled"
                )
            return examined_map(path, server.whole)

    def known_ids(self) -> frozenset[str]:
        """Slides of the table: the only ones that a request may name."""
        return _ids_of_table(StatusTable(self.out).path)

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)
        self.slide_cache.close()
