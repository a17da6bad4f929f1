"""TorchScript as a network: code, so run only where this user has said so of this very file.

Importing with ``--torchscript`` writes the file's SHA-256 into a list of the user's own. A bundle
that holds a script is loaded only if its script is on that list: one that a colleague sent, or
that lies in a shared folder, is refused until the user imports its script on purpose.
"""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from pathology_scaat.artifacts.fingerprint import file_sha256
from pathology_scaat.errors import BundleError, TrainingError
from pathology_scaat.system.memory import is_out_of_memory
from pathology_scaat.system.own_files import read_own, replace_file
from pathology_scaat.system.signals import raise_again
from pathology_scaat.training.bundle_reading import SCRIPT_FILE

TRUST_VARIABLE = "SCAAT_CONFIG_DIR"
"""Environment variable: where the list is kept instead of the user's configuration folder."""
_LIST = "trusted_scripts"
MAX_LIST_BYTES = 1 << 20


class Script(nn.Module):
    """A TorchScript module with its answer checked to be logits."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, P, P) normalised to (B, K) logits."""
        answer: Tensor = self.inner(images)
        return answer


def trust_list() -> Path:
    """The file with the hashes of scripts that this user has imported."""
    named = os.environ.get(TRUST_VARIABLE)
    if named:
        return Path(named) / _LIST
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "pathology_scaat" / _LIST


def _trusted() -> list[str]:
    with suppress(OSError):
        return read_own(trust_list(), MAX_LIST_BYTES).decode("ascii", "replace").split()
    return []


def trust_script(digest: str) -> Path:
    """Note that this user runs the script of this SHA-256; returns where that is noted."""
    path = trust_list()
    known = _trusted()
    if digest not in known:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(path, "".join(f"{d}\n" for d in [*known, digest]).encode(), mode=0o600)
    return path


def run_script(path: Path) -> nn.Module:
    """Load a TorchScript file that its user has named. **This runs its code.**

    Raises
    ------
    TrainingError
        If it is no TorchScript, or gives anything but one tensor.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch announces its successor
            inner = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:
        raise_again()
        if is_out_of_memory(error):
            raise
        raise TrainingError(
            path.name,
            f"is no TorchScript that can be loaded ({type(error).__name__})",
            "save it with torch.jit.save, or give its weights and --backbone",
        ) from None
    for parameter in inner.parameters():  # a script cannot do so for itself
        parameter.requires_grad_(False)
    return Script(inner.eval())


def load_trusted_script(path: Path, digest: str, bundle_name: str) -> nn.Module:
    """The script of a bundle, if it is the one the bundle was made with and this user trusts it.

    Raises
    ------
    BundleError
    """
    if not path.is_file() or file_sha256(path) != digest:
        raise BundleError(
            bundle_name,
            f"has no {SCRIPT_FILE}, or another one than it was saved with",
            "import the model again",
        )
    if digest not in _trusted():
        raise BundleError(
            bundle_name,
            "holds TorchScript, which is a program, and you have not imported it yourself",
            "if you trust who made it, import its script.pt with 'scaat import-model "
            "--torchscript'",
        )
    try:
        return run_script(path)
    except TrainingError as error:
        raise BundleError(bundle_name, error.problem, "import the model again") from None
