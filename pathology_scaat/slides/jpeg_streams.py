"""JPEG streams as bytes: what a tile's header says, and one stream that is whole by itself.

A TIFF keeps the tables of its tiles (quantisation, Huffman) apart from them, and says by a tag
which colours they hold. A stream that is to be read without the TIFF has its tables in it, and
an Adobe marker (APP14) that says the colours. What stands in neither, such as comments, thumbnails
and profiles, does not go along: it may name people, and no decoder looks at it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

START = b"\xff\xd8"
END = b"\xff\xd9"
_SCAN = b"\xff\xda"
_SOS, _DQT, _DHT, _DRI, _APP0, _APP14, _COM = 0xDA, 0xDB, 0xC4, 0xDD, 0xE0, 0xEE, 0xFE
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PLAIN_FRAMES = (0xC0, 0xC1)
"""Baseline and extended sequential, Huffman-coded: one scan, decoded as it comes."""
_KEPT = (_DQT, _DHT, _DRI, *_PLAIN_FRAMES, _SOS)
_IGNORED = frozenset((*range(0xE0, 0xF0), _COM))
_NO_DATA = re.compile(rb"\xff[^\x00\xd0-\xd7]", re.DOTALL)
"""What is neither data of a scan nor a restart within it."""
_MOST_HEAD_BYTES = 1 << 17


class JpegStreamError(ValueError):
    """A stream that cannot be kept as it is; the reason, in words that follow 'tiles'."""


@dataclass(frozen=True)
class JpegHead:
    """What stands before the data of a stream's first scan.

    Attributes
    ----------
    segments : tuple of (int, bytes)
        Marker and whole bytes (marker, length, content) of each segment, in order.
    length : int
        Where the data of the scan begin.
    """

    segments: tuple[tuple[int, bytes], ...]
    length: int

    def of(self, *markers: int) -> list[bytes]:
        return [segment for marker, segment in self.segments if marker in markers]

    @property
    def frame(self) -> bytes:
        frames = self.of(*_FRAMES)
        if len(frames) != 1:
            raise JpegStreamError("are damaged")
        return frames[0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = struct.unpack_from(">HH", self.frame, 5)
        return int(height), int(width)


def _segments(data: bytes, start: int) -> Iterator[tuple[int, bytes, int]]:
    """Marker, bytes and end of each segment from a place on; ends with the first scan or END."""
    place = start
    while True:
        if data[place : place + 1] != b"\xff" or place + 2 > min(len(data), _MOST_HEAD_BYTES):
            raise JpegStreamError("are damaged")
        marker = data[place + 1]
        if marker == END[1]:
            return
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        end = place + 2 + length
        if length < 2 or end > len(data) or marker < 0xC0 or 0xD0 <= marker <= 0xD8:
            raise JpegStreamError("are damaged")
        yield marker, data[place:end], end
        if marker == _SOS:
            return
        place = end


def read_head(data: bytes) -> JpegHead:
    """The header of a stream, up to the data of its scan.

    Raises
    ------
    JpegStreamError
        If it is none.
    """
    if data[:2] != START:
        raise JpegStreamError("are damaged")
    found = list(_segments(data, 2))
    if not found or found[-1][0] != _SOS:
        raise JpegStreamError("are damaged")
    return JpegHead(tuple((marker, segment) for marker, segment, _ in found), found[-1][2])


def tables_of(stream: bytes | None) -> bytes:
    """The tables in a TIFF's tag JPEGTables, to be put into each of its tiles."""
    if not stream:
        return b""
    if stream[:2] != START:
        raise JpegStreamError("are damaged")
    parts = [s for marker, s, _ in _segments(stream, 2) if marker in (_DQT, _DHT)]
    return b"".join(parts)


def holds_rgb(head: JpegHead, *, said_to_be_rgb: bool) -> bool:
    """Whether a stream's three components are red, green and blue, else they are YCbCr.

    ``said_to_be_rgb`` is what the TIFF says, where it overrules the stream. Without that the rule
    is libjpeg's: a JFIF marker means YCbCr, else an Adobe marker tells, else the components' names.
    """
    if said_to_be_rgb:
        return True
    if any(s[4:9] == b"JFIF\0" and len(s) >= 18 for s in head.of(_APP0)):
        return False
    adobe = [s for s in head.of(_APP14) if s[4:9] == b"Adobe" and len(s) >= 16]
    if adobe:
        return adobe[-1][15] == 0
    return head.frame[10:19:3] == b"RGB"


def _adobe(is_rgb: bool) -> bytes:
    return b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + (b"\x00" if is_rgb else b"\x01")


def whole_head(head: JpegHead, tables: bytes, *, is_rgb: bool) -> bytes:
    """A stream's header with its tables in it, and nothing that a decoder does not need."""
    own = [segment for marker, segment in head.segments if marker in _KEPT]
    return b"".join((START, _adobe(is_rgb), tables, *own))


def check_head(head: JpegHead, height: int, width: int) -> None:
    """Whether a stream is one plain scan of three components of 8 bits, of the right size.

    Raises
    ------
    JpegStreamError
        If it is not; decoding it may need another codec, more memory or more time.
    """
    frame = head.frame
    if frame[1] not in _PLAIN_FRAMES:
        raise JpegStreamError("are progressive, lossless or arithmetic-coded JPEG")
    if len(frame) < 11 or len(frame) != 10 + 3 * frame[9]:
        raise JpegStreamError("are damaged")
    if frame[4] != 8:
        raise JpegStreamError(f"have {frame[4]} bits per channel")
    if frame[9] != 3:
        raise JpegStreamError(f"have {frame[9]} channel(s)")
    if head.size != (height, width):
        raise JpegStreamError("are of another size in their JPEG than in their TIFF")
    scan = head.segments[-1][1]
    if len(scan) != 14 or scan[4] != 3:
        raise JpegStreamError("have their channels in several scans")
    if any(m not in _KEPT and m not in _IGNORED for m, _ in head.segments):
        raise JpegStreamError("have markers in their JPEG that are not known")
    for table in head.of(_DHT):
        if not _is_huffman(table):
            raise JpegStreamError("are damaged")


@lru_cache(maxsize=1024)
def _is_huffman(segment: bytes) -> bool:
    """Whether the tables of a DHT segment are codes: else a decoder refuses them."""
    place = 4
    while place < len(segment):
        kind, counts = segment[place], segment[place + 1 : place + 17]
        symbols = segment[place + 17 : place + 17 + sum(counts)]
        if len(counts) != 16 or len(symbols) != sum(counts) or len(symbols) > 256:
            return False
        if kind & 0x0F > 3 or kind >> 4 > 1 or (kind >> 4 == 0 and max(symbols, default=0) > 15):
            return False
        code = 0
        for bits, count in enumerate(counts, start=1):
            code += count
            if count and code >= 1 << bits:  # no code is all ones
                return False
            code <<= 1
        place += 17 + len(symbols)
    return place == len(segment)


def scan_end(data: bytes, start: int) -> int:
    """Where the data of a scan that begins at ``start`` end, END included.

    Raises
    ------
    JpegStreamError
        If anything but END follows the scan's data: it is cut off, or holds more than one scan.
    """
    found = _NO_DATA.search(data, start)
    if found is None or found.group() != END:
        raise JpegStreamError("are cut off, or have several scans")
    return found.end()


def check_stored(data: bytes | memoryview, height: int, width: int) -> None:
    """Whether what is said to be a whole stream may be given to a decoder.

    Raises
    ------
    JpegStreamError
        If it is none of the right size, or would be decoded scan after scan.
    """
    stream = bytes(data)
    if stream.count(_SCAN) != 1:
        raise JpegStreamError("have several scans")
    place = stream.index(_SCAN)
    _check_whole_head(stream[: place + 14], height, width)


@lru_cache(maxsize=256)
def _check_whole_head(head: bytes, height: int, width: int) -> None:
    """The same for a stream's beginning with its only scan; most tiles of a slide share it."""
    check_head(read_head(head), height, width)
