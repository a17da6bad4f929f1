"""A signal ends the work wherever it comes: nothing swallows it, and no lease stays."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import FrameType

import pytest

from pathology_scaat.artifacts.leases import lease, lease_path
from pathology_scaat.system.locks import file_lock
from pathology_scaat.system.signals import in_native_callback

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "setitimer"), reason="ends are told by signals on Unix only"
)


def answer(script: str, *words: str) -> str:
    """What a script prints; a process of its own, since signal handlers are a process's."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def frame_in(*modules: str) -> FrameType | None:
    """The innermost of frames of some modules, the outermost first."""
    code = "import sys\ndef call(rest):\n    return rest[0](rest[1:]) if rest else sys._getframe()"
    functions = []
    for module in modules:
        names: dict[str, object] = {"__name__": module}
        exec(compile(code, f"{module}.py", "exec"), names)
        functions.append(names["call"])
    frame: FrameType | None = functions[0](functions[1:])  # type: ignore[operator]
    return frame


def test_what_numba_and_the_recorder_of_models_call_back_is_fragile() -> None:
    ours = "pathology_scaat.tissue"
    assert not in_native_callback(None)
    assert not in_native_callback(frame_in(ours))
    assert not in_native_callback(frame_in(ours, "zarr.core.sync"))
    assert in_native_callback(frame_in(ours, "numba.core.codegen"))
    assert in_native_callback(frame_in(ours, "numba.core.codegen", "os"))
    assert in_native_callback(frame_in(ours, "torch.jit._trace", "torch.nn.modules.module"))
    assert not in_native_callback(frame_in("torch.jit._trace", "pathology_scaat.training.export"))
    assert not in_native_callback(frame_in(ours, "numbapro", "torch.nn"))


def test_a_signal_while_numba_loads_a_kernel_is_not_lost() -> None:
    """Raised within the compiler's call-back it was dropped, and the work went on."""
    script = """
        import os, signal, time
        import numba
        from numba.core import codegen
        from pathology_scaat.cli import Terminated, listen

        compiled = codegen.CPUCodeLibrary._object_compiled_hook.__func__
        asked = []

        def hook(cls, module, buffer):
            asked.append(1)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            asked.append(2)  # whoever called was not disturbed
            return compiled(cls, module, buffer)

        codegen.CPUCodeLibrary._object_compiled_hook = classmethod(hook)
        listen()
        try:
            numba.njit(lambda x: x + 1)(1)
            time.sleep(5)
        except Terminated:
            print("ended", asked[:2])
    """
    assert answer(script) == "ended [1, 2]"


def test_a_signal_is_deferred_until_the_end_of_the_block() -> None:
    """Whichever thread the system gives it to; and whoever has an alarm keeps it."""
    script = """
        import os, signal, threading, time
        from pathology_scaat.cli import Terminated, listen
        from pathology_scaat.system.signals import defer_signals

        threading.Thread(target=time.sleep, args=(1,), daemon=True).start()  # may take a signal
        listen()
        try:
            with defer_signals():
                os.kill(os.getpid(), signal.SIGTERM)
                print("held back", end=", ")
        except Terminated:
            print("then ended")
        signal.signal(signal.SIGALRM, lambda *_: print("theirs"))
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        time.sleep(0.1)
    """
    assert answer(script) == "held back, then ended\ntheirs"


def test_a_later_alarm_does_not_end_the_work_again() -> None:
    """The handler that looked once more stays, and must know that nothing is asked any more."""
    script = """
        import os, signal, time
        from pathology_scaat.cli import Terminated, listen

        def called_back():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            print("went on", end=", ")

        names = {"__name__": "numba.core.codegen", "called_back": called_back}
        exec("def compiler():\\n    called_back()", names)
        listen()
        try:
            names["compiler"]()
            time.sleep(5)
        except Terminated:
            print("ended", end=", ")
        assert callable(signal.getsignal(signal.SIGALRM))
        os.kill(os.getpid(), signal.SIGALRM)
        time.sleep(0.05)
        print("nothing more")
    """
    assert answer(script) == "went on, ended, nothing more"


def test_an_end_that_compiled_code_made_another_error_is_no_failed_job() -> None:
    """A loader of weights made a ValueError of it, and the slide counted as failed."""
    script = """
        import os, signal, time
        from pathology_scaat.execution.jobs import guarded
        from pathology_scaat.cli import Terminated, listen

        def work(job):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
            except Terminated:
                raise ValueError("could not determine the shape")

        listen()
        try:
            print(guarded(work, None, 1))
        except Terminated:
            print("ended")
    """
    assert answer(script) == "ended"


def test_no_lease_stays_whatever_line_a_signal_comes_at(tmp_path: Path) -> None:
    """A signal at every line that taking, holding and giving back a lease goes through."""
    script = """
        import contextlib, os, signal, sys
        from pathlib import Path
        from pathology_scaat.artifacts import leases
        from pathology_scaat.system import signals
        from pathology_scaat.cli import Terminated, listen

        listen()
        artifact = Path(sys.argv[1]) / "slide.zarr"
        watched = {leases.__file__, signals.__file__, contextlib.__file__}

        def try_at(wanted):
            seen = 0

            def trace(frame, event, argument):
                nonlocal seen
                if frame.f_code.co_filename not in watched:
                    return None
                if event == "line":
                    seen += 1
                    if seen == wanted:
                        os.kill(os.getpid(), signal.SIGTERM)
                return trace

            ended = False
            sys.settrace(trace)
            try:
                with leases.lease_if_writable(artifact):
                    pass
            except Terminated:
                ended = True
            finally:
                sys.settrace(None)
            leases.release_all()
            assert not leases.lease_path(artifact).exists(), wanted
            with leases.lease(artifact):  # and nothing is locked
                pass
            return ended, seen

        ends, wanted = 0, 0
        while True:
            wanted += 1
            ended, seen = try_at(wanted)
            ends += ended
            if seen < wanted:
                break
        print(ends, wanted - 1)
    """
    ends, lines = map(int, answer(script, str(tmp_path)).split())
    assert lines > 40
    assert ends >= lines - 2  # one at the very end may come too late to be raised inside


def test_a_lease_that_is_garbage_waits_for_no_lock(tmp_path: Path) -> None:
    """The collector may come while this very thread holds the folder's lock."""
    artifact = tmp_path / "slide.zarr"
    forgotten = lease(artifact)
    forgotten.__enter__()
    assert lease_path(artifact).exists()
    with file_lock(tmp_path / ".leases.lock"):
        begin = time.monotonic()
        del forgotten
        gc.collect()
        assert time.monotonic() - begin < 10
        assert not lease_path(artifact).exists()
    with lease(artifact):
        pass
