"""The real command in a process of its own, forked from one that has the libraries loaded.

Importing torch, SciPy, zarr and matplotlib takes longer than the work of most tests. A server
process imports these libraries and what this package consists of below the command line, once;
each command is a fork of it that runs ``python -m pathology_scaat`` to the end of the interpreter,
with its own arguments, environment, folder and exit code. Other modules are started likewise and
go on beside the test (:func:`start_forked`). What tests the start of a process itself (limits of
memory, another user, no home) starts Python anew instead.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

LIBRARIES = (
    "torch", "zarr", "numba", "cv2", "scipy.optimize", "scipy.ndimage", "scipy.special",
    "matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg",
    "dask", "distributed", "tensorstore", "imagecodecs", "tifffile", "openslide", "shapely",
    "pydantic", "typer", "rich.progress", "safetensors.torch", "sklearn.metrics",
    "PIL.Image", "yaml", "blake3", "google_crc32c", "fsspec",
    # What these import themselves when a network is first trained, a kernel first compiled, a
    # picture first drawn.
    "torch._dynamo", "numba.typed", "numba.experimental", "cffi", "sqlite3", "email.policy",
    "skimage.color.colorconv", "skimage.color.delta_e", "skimage.exposure",
    "PIL.ImageDraw", "PIL.ImageOps", "PIL.BmpImagePlugin", "PIL.GifImagePlugin",
    "PIL.JpegImagePlugin", "PIL.PngImagePlugin", "PIL.PpmImagePlugin",
    "imagecodecs._blosc", "imagecodecs._deflate", "imagecodecs._zlib", "imagecodecs._zstd",
    "pydantic.root_model", "pydantic.type_adapter", "pydantic.json_schema", "pydantic.plugin",
)  # fmt: skip

NOT_AHEAD = ("pathology_scaat.__main__", "pathology_scaat.cli", "pathology_scaat.metrics.streaming")
"""Modules of this package that a command imports itself, with what stands below them: the command
line looks at the environment when it is imported; the last brings a library that no command needs.
"""

GOES_ON = 1 << 20
"""What stands for the exit code of a process that has not ended."""


def _end(command: Callable[[], object]) -> NoReturn:
    """Run a command and end as the interpreter does, but for freeing what the server loaded.

    That takes seconds after a fork, since all memory would be copied to be freed.
    """
    code: object = 0
    try:
        command()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if not isinstance(code, int | None):
        sys.stderr.write(f"{code}\n")
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # threads that are no daemons are waited for
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def _own_modules() -> Iterator[str]:
    """Names of this package's modules, but for ``NOT_AHEAD``: none reads the environment."""
    import pathology_scaat

    folder = Path(pathology_scaat.__path__[0])
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not f"{name}.".startswith(tuple(f"{other}." for other in NOT_AHEAD)):
            yield name


def serve() -> None:
    """Fork for each request on standard input; the child runs the command and ends normally."""
    import importlib
    import runpy
    import warnings

    import dask.config

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in LIBRARIES:
            importlib.import_module(name)
        for name in _own_modules():
            with contextlib.suppress(ImportError):  # of an extra that is not installed
                importlib.import_module(name)
        from numba.core.registry import cpu_target

        # As the first kernel that is compiled or read from a cache would.
        cpu_target.typing_context.refresh()
        cpu_target.target_context.refresh()
    gc.freeze()
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    replies = os.dup(1)
    while line := requests.readline():
        request: dict[str, Any] = json.loads(line)
        if "ended" in request:
            found, status = os.waitpid(request["ended"], os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if found else GOES_ON
            os.write(replies, f"{code}\n".encode())
            continue
        child = os.fork()
        if child:
            os.write(replies, f"{child}\n".encode())
            continue
        requests.close()
        os.close(replies)
        if request["own_session"]:
            os.setsid()
        appended = os.O_WRONLY | os.O_APPEND
        for descriptor, path, flags in (
            (0, os.devnull, os.O_RDONLY),
            (1, request["stdout"], appended),
            (2, request["stderr"], appended),
        ):
            opened = os.open(path, flags)
            os.dup2(opened, descriptor)
            os.close(opened)
        os.environ.clear()
        os.environ.update(request["environment"])
        dask.config.refresh()  # it reads variables when it is loaded
        os.chdir(request["folder"])
        sys.argv = [request["module"], *request["words"]]
        # What `python -m` puts there: the folder of the call.
        sys.path[0] = request["folder"]
        run = partial(runpy.run_module, request["module"], run_name="__main__", alter_sys=True)
        _end(run)


class ForkedProcess:
    """A process that the server has started: ``Popen``, as far as needed."""

    def __init__(self, server: _Server, pid: int) -> None:
        self._server, self.pid = server, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._server.ended(self.pid)
        return self.returncode

    def wait(self, timeout_s: float = 60) -> int:
        began = time.monotonic()
        while (code := self.poll()) is None:
            waited_s = time.monotonic() - began
            if waited_s > timeout_s:
                raise subprocess.TimeoutExpired(str(self.pid), timeout_s)
            time.sleep(0.01 if waited_s < 1 else 0.04)  # each question costs the server's time
        return code


class _Server:
    """A process with the libraries loaded for one number of threads, and what it was begun with."""

    def __init__(self, threads: str, preloaded: str) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
            env={
                **os.environ, "OMP_NUM_THREADS": threads,
                **({"LD_PRELOAD": preloaded} if preloaded else {}),
            },
        )  # fmt: skip
        atexit.register(self.close)

    def close(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(30)

    def _ask(self, request: dict[str, Any]) -> int:
        with self._lock:
            assert self._process.stdin
            assert self._process.stdout
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            ready, _, _ = select.select([self._process.stdout], [], [], 120)
            assert ready, "the server of commands does not answer"
            line = self._process.stdout.readline()
            assert line, "the server of commands has ended"
            return int(line)

    def start(self, request: dict[str, Any]) -> ForkedProcess:
        return ForkedProcess(self, self._ask(request))

    def ended(self, pid: int) -> int | None:
        """Exit code of a process that was started, None while it runs."""
        code = self._ask({"ended": pid})
        return None if code == GOES_ON else code


_servers: dict[tuple[int, int, str], _Server] = {}


def _server(threads: int, preloaded: str = "") -> _Server:
    """That of this process."""
    key = (os.getpid(), threads, preloaded)
    if key not in _servers:
        _servers[key] = _Server(str(threads), preloaded)
    return _servers[key]


def run_forked(
    words: Sequence[object],
    *,
    threads: int = 1,
    folder: Path | None = None,
    environment: dict[str, str] | None = None,
    timeout_s: float = 280,
) -> subprocess.CompletedProcess[str]:
    """Run ``scaat`` with some arguments; what it printed and its exit code.

    Parameters
    ----------
    words : sequence
        The arguments, each as ``str`` gives it.
    threads : int
        ``OMP_NUM_THREADS`` of the process.
    folder : Path, optional
        Working directory.
    environment : dict, optional
        Variables beside those of this process; not those that the libraries read when they load.
        With ``LD_PRELOAD`` it is a fork of a process that was started with that.
    timeout_s : float
        Seconds after which it is killed and ``subprocess.TimeoutExpired`` raised.
    """
    arguments = [str(word) for word in words]
    with tempfile.TemporaryDirectory(prefix="scaat-command-") as scratch:
        out, err = Path(scratch) / "stdout", Path(scratch) / "stderr"
        out.touch()
        err.touch()
        request = {
            "module": "pathology_scaat",
            "own_session": False,
            "words": arguments,
            "stdout": str(out),
            "stderr": str(err),
            "folder": str(folder or Path.cwd()),
            "environment": {
                **os.environ, "OMP_NUM_THREADS": str(threads), "COLUMNS": "200",
                **(environment or {}),
            },
        }  # fmt: skip
        preloaded = (environment or {}).get("LD_PRELOAD", "")
        process = _server(threads, preloaded).start(request)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait(60)
            raise subprocess.TimeoutExpired(arguments, timeout_s) from None
        return subprocess.CompletedProcess(
            arguments, code,
            out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"),
        )  # fmt: skip


def start_forked(
    module: str, words: Sequence[str], *, output: Path, folder: Path, environment: dict[str, str]
) -> ForkedProcess:
    """Start ``python -m module`` in a session of its own, and go on.

    Parameters
    ----------
    module, words
        What is run, with which arguments.
    output : Path
        What it prints is appended there.
    folder : Path
        Working directory.
    environment : dict
        Variables beside those of this process; not those that the libraries read when they load.
    """
    output.touch()
    return _server(1).start(
        {
            "module": module, "own_session": True, "words": list(words),
            "stdout": str(output), "stderr": str(output), "folder": str(folder),
            "environment": {**os.environ, "OMP_NUM_THREADS": "1", **environment},
        }
    )  # fmt: skip


if __name__ == "__main__":
    serve()
