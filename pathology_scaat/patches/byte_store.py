"""Reading a store's files from a local folder or from a URL, behind one interface."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from pathology_scaat.artifacts.urls import (
    SlideUrl,
    check_url,
    open_filesystem,
    refusal_in,
    slide_location,
)
from pathology_scaat.errors import AddressError

Data = bytes | memoryview


class RangeFile(Protocol):
    """A file that is read in byte ranges; to be used by one thread."""

    def read(self, offset: int, length: int, buffer: bytearray) -> Data:
        """Bytes from an offset on (from the end where it is negative); fewer at the end.

        ``buffer``, at least so long, may be used for them. Raises OSError.
        """
        ...


class ByteStore(Protocol):
    """The files of one store, read by their relative path."""

    name: str

    def read(self, relative: str) -> bytes:
        """All of a file. Raises FileNotFoundError where there is none, OSError otherwise."""
        ...

    def open(self, relative: str) -> AbstractContextManager[RangeFile]: ...


class LocalByteStore:
    """Files of a patch store in a local folder, by paths relative to it.

    Reading raises :class:`OSError`, of files that do not exist as well.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = path.name

    def read(self, relative: str) -> bytes:
        return (self._path / relative).read_bytes()

    @contextmanager
    def open(self, relative: str) -> Iterator[RangeFile]:
        with (self._path / relative).open("rb", buffering=0) as stream:
            yield _LocalFile(stream)


class _LocalFile:
    def __init__(self, stream: Any) -> None:
        self._stream: BinaryIO = stream

    def read(self, offset: int, length: int, buffer: bytearray) -> Data:
        self._stream.seek(offset, 2 if offset < 0 else 0)
        part = memoryview(buffer)[:length]
        done = 0
        while done < length:
            count: int = self._stream.readinto(part[done:])  # type: ignore[attr-defined]
            if not count:
                break
            done += count
        return part[:done]


class RemoteByteStore:
    """A store at a URL; credentials come from the environment, as fsspec documents."""

    def __init__(self, url: SlideUrl) -> None:
        check_url(url)
        self.name = url.name
        self._url = url

    def _system(self) -> tuple[Any, str]:
        system, path = open_filesystem(self._url)
        return system, path.rstrip("/")

    def _read(self, relative: str, start: int | None = None, end: int | None = None) -> bytes:
        try:
            system, path = self._system()
            return bytes(system.cat_file(f"{path}/{relative}", start=start, end=end))
        except Exception as error:
            refusal = refusal_in(error)
            if refusal is not None:
                raise AddressError(self.name, refusal.problem, refusal.remedy) from None
            if isinstance(error, FileNotFoundError):
                raise
            # fsspec passes on what its many backends raise; their words hold hosts and paths.
            raise OSError(f"cannot be reached ({type(error).__name__})") from None

    def read(self, relative: str) -> bytes:
        """All bytes of a file of the store.

        Raises
        ------
        AddressError
            If its address may not be opened.
        OSError
            If it cannot be read.
        """
        return self._read(relative)

    @contextmanager
    def open(self, relative: str) -> Iterator[RangeFile]:
        yield _RemoteFile(self, relative)


class _RemoteFile:
    def __init__(self, store: RemoteByteStore, relative: str) -> None:
        self._store, self._relative = store, relative

    def read(self, offset: int, length: int, buffer: bytearray) -> Data:
        if offset < 0:
            return self._store._read(self._relative, start=offset)[:length]
        return self._store._read(self._relative, start=offset, end=offset + length)


def byte_store_of(path: str | Path) -> ByteStore:
    """The byte store at a path or URL.

    Raises
    ------
    AddressError
        If it is a URL that may not be opened.
    """
    location = slide_location(path)
    return LocalByteStore(location) if isinstance(location, Path) else RemoteByteStore(location)
