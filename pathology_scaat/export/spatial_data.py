"""A slide's map, tiles and scores as a SpatialData object, for the tools of scverse.

Needs the extra ``spatialdata``. Two coordinate systems: ``slide_px`` are level-0 pixels of the
slide, ``slide_um`` is µm from its level-0 corner.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import shapely

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.errors import ExportError, UsageError
from pathology_scaat.export.tiles import TileTable, tile_table
from pathology_scaat.stitching.config import StitchConfig
from pathology_scaat.stitching.lazy import model_attributes
from pathology_scaat.stitching.slide_map import SlideMap
from pathology_scaat.stitching.source import SaliencySource
from pathology_scaat.system.extras import need

PIXELS: Final = "slide_px"
MICROMETRES: Final = "slide_um"
MAP, TILES, TABLE = "map", "tiles", "scores"


def to_spatialdata(map_path: str | Path, saliency_path: str | Path, *, level: int = 0) -> Any:
    """A ``SpatialData`` of a slide: image ``map``, shapes ``tiles``, table ``scores``.

    Parameters
    ----------
    map_path, saliency_path : str or Path
        ``OUT/maps/<id>.ome.zarr`` and ``OUT/saliency/<id>.zarr``.
    level : int
        Pyramid level of the map.

    Returns
    -------
    spatialdata.SpatialData
        ``attrs["pathology_scaat"]`` names the model and how good it is.

    Raises
    ------
    UsageError
        If spatialdata is not installed, or there is no such level.
    StoreError
        If a store is missing or damaged.
    ExportError
        If map and saliency do not belong together.
    """
    spatialdata = need("spatialdata", "spatialdata", "SpatialData")
    from spatialdata.models import Image2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Affine, Identity, Scale

    slide_map, source = SlideMap(map_path), SaliencySource(Path(saliency_path))
    meta = slide_map.meta
    if meta.saliency_fingerprint != source.meta.fingerprint:
        raise ExportError(
            slide_map.name, "was stitched from other saliency than this", "stitch the slide again"
        )
    if not 0 <= level < slide_map.n_levels:
        raise UsageError(
            f"level {level}", f"{slide_map.name} has {slide_map.n_levels}", "levels begin at 0"
        )
    mpp, frame, step = meta.slide.mpp, meta.frame_px, slide_map.level_scale_px(level)
    axes = ("x", "y")

    def scaled_to(unit: float) -> Any:
        matrix = [[step * unit, 0, frame.x * unit], [0, step * unit, frame.y * unit], [0, 0, 1]]
        return Affine(matrix, input_axes=axes, output_axes=axes)

    image = Image2DModel.parse(
        slide_map.to_dask(level),
        dims=("c", "y", "x"),
        c_coords=list(meta.channel_names),
        transformations={PIXELS: scaled_to(1.0), MICROMETRES: scaled_to(mpp)},
    )
    table = tile_table(source, StitchConfig(**meta.parameters), "patch")
    elements: dict[str, Any] = {MAP: image}
    if len(table):
        geopandas = need("geopandas", "spatialdata", "SpatialData")
        boxes = shapely.box(*table.patch_px.astype(np.float64).T)
        elements[TILES] = ShapesModel.parse(
            geopandas.GeoDataFrame(geometry=boxes),
            transformations={PIXELS: Identity(), MICROMETRES: Scale([mpp, mpp], axes=axes)},
        )
        elements[TABLE] = TableModel.parse(
            _scores(table, meta.class_names),
            region=TILES,
            region_key="region",
            instance_key="tile",
        )
    facts = {
        "slide_id": meta.slide_id,
        "target_class": meta.target_class,
        "explained_by": meta.method,
        "um_per_px": slide_map.mpp * 2**level,
        "slide_um_per_px": mpp,
        **model_attributes(meta.model, meta.model_fingerprint),
    }
    return spatialdata.SpatialData.init_from_elements(elements, attrs={"pathology_scaat": facts})


def _scores(table: TileTable, class_names: tuple[str, ...]) -> Any:
    """An ``AnnData``: probability of each class, and the measurements of each tile."""
    anndata = need("anndata", "spatialdata", "SpatialData")
    pandas = need("pandas", "spatialdata", "SpatialData")

    def texts(values: Iterable[str]) -> Any:
        # not pandas' own string type, which anndata does not write by default
        return pandas.Index(list(values), dtype=object)

    n = len(table)
    columns = {
        "region": pandas.Categorical.from_codes(np.zeros(n, np.int8), texts([TILES])),
        "tile": np.arange(n),
        "saliency_mean": table.saliency_mean,
        "saliency_max": table.saliency_max,
        **dict(table.more),
    }
    return anndata.AnnData(
        np.asarray(table.probability, np.float64),
        obs=pandas.DataFrame(columns, index=texts(map(str, range(n)))),
        var=pandas.DataFrame(index=texts(class_names)),
    )


def write_spatialdata(
    map_path: str | Path, saliency_path: str | Path, to: str | Path, *, level: int = 0
) -> Path:
    """Write :func:`to_spatialdata` as a zarr folder, whole or not at all.

    Raises
    ------
    ExportError
        If ``to`` is there already.
    """
    path = Path(to)
    if path.exists():
        raise ExportError(path.name, "is there already", "name another folder, or remove it")
    made = to_spatialdata(map_path, saliency_path, level=level)
    with atomic_path(path) as partial:
        made.write(partial)
    return path
