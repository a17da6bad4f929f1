"""What decides the patches of a slide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from pathology_scaat.annotations.model import is_ignored_class
from pathology_scaat.artifacts.urls import SlideUrl
from pathology_scaat.errors import UsageError
from pathology_scaat.geometry import is_plausible_mpp, parse_overlap
from pathology_scaat.patches.zarr_layout import Codec
from pathology_scaat.slides.readers import AUTO, check_reader, reader_choices
from pathology_scaat.system.names import name_key
from pathology_scaat.tissue.config import TissueConfig

DEFAULT_SHARD_BYTES = 64 << 20
"""A shard is a file in three folders of its own, which cost time and, on a cluster, a quota.

Its size costs no memory: it goes to the disk in blocks, and is read a patch at a time.
"""


Pixels = Literal["lossless", "slide-jpeg"]
LOSSLESS: Final[Pixels] = "lossless"
SLIDE_JPEG: Final[Pixels] = "slide-jpeg"


def _as_text(value: Any) -> Any:
    """A ratio may be written as a number; YAML makes one of it."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:g}" if is_number else value


class TileConfig(BaseModel):
    """How slides are cut into patches. Same config and slide, same bytes of store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mpp: float = Field(default=0.5, gt=0, description="µm/px of the patches")
    mpp_tolerance: float = Field(
        default=0.02, ge=0, lt=0.5, description="a level this near (ratio) to mpp is taken as it is"
    )
    slide_mpp: float | None = Field(
        default=None, gt=0, description="µm/px of slides that state none that can be believed"
    )
    allow_upsampling: bool = Field(
        default=False, description="let patches be more than twice as fine as the scan"
    )
    patch_size_px: int = Field(
        default=256, ge=8, le=4096, description="side of a patch in output pixels"
    )
    overlap: Annotated[str, BeforeValidator(_as_text)] = Field(
        default="0",
        description="overlap of neighbours: a ratio (0.5) or pixels (64px)",
        json_schema_extra={"type": ["string", "number"]},
    )
    min_tissue: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of a patch that must be tissue for it to be kept",
    )
    tissue: TissueConfig = Field(default_factory=TissueConfig, description="the tissue mask")
    class_names: tuple[str, ...] = Field(default=(), description="classes of the labels, in order")
    background_class: str | None = Field(
        default=None,
        description="class of the tissue outside the annotations, on slides that have some",
    )
    min_coverage: float = Field(
        default=0.5, gt=0, le=1, description="share of a patch that a class must cover to label it"
    )
    only_labelled: bool = Field(default=False, description="keep only patches that have a label")
    max_unreadable_share: float = Field(
        default=0.1, ge=0, le=1, description="a slide with more unreadable patches than this fails"
    )
    reader: Annotated[str, AfterValidator(check_reader)] = Field(
        default=AUTO,
        description="which library reads the slides",
        json_schema_extra={"enum": list(reader_choices())},
    )
    shard_bytes: int = Field(
        default=DEFAULT_SHARD_BYTES,
        ge=1 << 16,
        le=1 << 30,
        description="uncompressed bytes of a shard",
    )
    codec: Codec = Field(
        default="lz4", description="lossless compression: lz4 is faster, zstd a little smaller"
    )
    pixels: Pixels = Field(
        default=LOSSLESS,
        description="how pixels are kept: lossless, or slide-jpeg: the slide's own JPEG tiles, not "
        "decoded, where patches are whole tiles of a level that is not resampled (else lossless, "
        "which is told); the same pixels, a tenth of the bytes, slower to read",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not is_plausible_mpp(self.mpp):
            raise ValueError(f"{self.mpp} is not a plausible µm/px")
        if self.slide_mpp is not None and not is_plausible_mpp(self.slide_mpp):
            raise ValueError(f"{self.slide_mpp} is not a plausible µm/px of a slide")
        keys = [name_key(name) for name in self.class_names]
        if twice := [n for i, n in enumerate(self.class_names) if keys[i] in keys[:i]]:
            raise ValueError(
                f"class_names holds '{twice[0]}' twice (upper and lower case count as the same)"
            )
        if not all(keys) or any(is_ignored_class(name) for name in self.class_names):
            raise ValueError("class_names holds an empty or an ignored (*) name")
        if self.background_class is not None:
            key = name_key(self.background_class)
            if not key or is_ignored_class(self.background_class):
                raise ValueError(f"background_class '{self.background_class}' is no class name")
            if self.class_names and key not in keys:
                raise ValueError(
                    f"background_class '{self.background_class}' is none of the class_names"
                )
        try:
            parse_overlap(self.overlap, self.patch_size_px)
        except UsageError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def step_px(self) -> int:
        """Distance of neighbouring patches in output pixels."""
        return parse_overlap(self.overlap, self.patch_size_px)

    @property
    def patches_per_shard(self) -> int:
        return max(1, self.shard_bytes // (self.patch_size_px**2 * 3))


@dataclass(frozen=True)
class TileJob:
    """One slide to tile; picklable, holds no open file.

    Attributes
    ----------
    slide_path, store_path : Path, SlideUrl or str
        The slide, and the store to make; either may be an fsspec URL.
    slide_id : str
        Name of the slide in every artifact.
    tissue_path : Path, optional
        Where to put the tissue overlay (PNG).
    annotation_path : Path, optional
        Labelled polygons.
    label : str, optional
        Label to copy onto every patch where there is no annotation file; None copies none.
    mask_path : Path, optional
        A given tissue mask (PNG over the slide's frame, non-zero is tissue).
    mpp : float, optional
        µm per level-0 pixel that wins over the file's.
    overwrite : bool
        Make the store anew even where one with the right fingerprint exists.
    keep_pixels : bool
        Without it all is chosen and nothing cut: the store holds positions of patches, tissue
        and labels, and whoever applies a model reads the pixels from the slide. A store with
        pixels is left.
    fingerprint_key : bytes
        Secret under which the hashes of slide, annotations and mask stand in the store; without
        one they are plain.
    """

    slide_path: Path | SlideUrl | str
    slide_id: str
    store_path: Path | str
    config: TileConfig = field(default_factory=lambda: TileConfig())
    tissue_path: Path | None = None
    annotation_path: Path | None = None
    label: str | None = None
    mask_path: Path | None = None
    mpp: float | None = None
    overwrite: bool = False
    keep_pixels: bool = True
    fingerprint_key: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class TileResult:
    """What tiling a slide came to.

    ``n_unreadable`` patches touch pixels that cannot be decoded and are left out;
    ``n_labelled`` have a label, ``n_labelled_by_class`` of each class; ``skipped`` says that the
    store was already right, ``relabelled`` that its patches were, and got other labels;
    ``same_patches`` that what was made of its patches is right still: they have other labels, or
    their pixels beside them now; ``n_cut`` patches were cut out of the slide now, all if None.
    ``warnings`` are what the user must not miss, and not in ``notes``.
    """

    slide_id: str
    n_patches: int
    n_unreadable: int
    n_labelled: int
    skipped: bool
    seconds: float
    fingerprint: str
    reader: str
    mpp: float
    mpp_source: str = ""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    n_labelled_by_class: Mapping[str, int] = field(default_factory=dict)
    relabelled: bool = False
    same_patches: bool = False
    n_cut: int | None = None
