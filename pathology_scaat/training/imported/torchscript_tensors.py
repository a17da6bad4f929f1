"""The tensors of a TorchScript archive, read as data: none of its code is compiled or run.

TorchScript is a program: ``torch.jit.load`` compiles it, and running it may read and write files.
Its archive keeps the weights apart from the code, as a pickle of module attributes whose classes
are the script's own. Here that pickle is read with every such class replaced by an inert holder
of attributes, and with nothing else allowed but tensors, numbers, texts, lists and dicts.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pathology_scaat.errors import TrainingError

MAX_TENSORS = 100_000
_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Holder:
    """Stands for an object of a class of the script: its attributes, and no behaviour."""

    def __init__(self, *_arguments: object) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.attributes = {str(key): value for key, value in state.items()}


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive with TorchScript code in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _rebuild(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_rest: object
) -> Tensor:
    return torch.as_strided(storage, size, stride, offset).clone()


class _Reader(pickle.Unpickler):
    """An unpickler that knows tensors, plain containers and holders."""

    def __init__(self, data: bytes, storage: Callable[[str, torch.dtype, int], Tensor]) -> None:
        super().__init__(io.BytesIO(data))
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Holder
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_rest: tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return list
        raise pickle.UnpicklingError(f"{module}.{name} is no data")

    def persistent_load(self, identity: Any) -> Tensor:
        kind, dtype, key, _device, count = identity
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("a reference to something that is no storage")
        return self._storage(str(key), dtype, int(count))


def read_torchscript_tensors(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers of a TorchScript file by their names; no code of it is run.

    Parameters
    ----------
    path : Path
        As ``torch.jit.save`` writes it.

    Returns
    -------
    dict of str to Tensor
        As ``state_dict`` of the module would give them.

    Raises
    ------
    TrainingError
        If the file is none, holds anything but data beside its code, or holds no tensor by name
        (the weights of a frozen script are constants of its code).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            (pickled,) = (n for n in names if n.endswith("/data.pkl") and n.count("/") == 1)
            root = pickled.removesuffix("data.pkl")
            known: dict[str, Tensor] = {}

            def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
                if key not in known:
                    entry = archive.getinfo(f"{root}data/{key}")
                    item = torch.empty(0, dtype=dtype).element_size()
                    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size < count * item:
                        raise pickle.UnpicklingError("a tensor of another size than stated")
                    content = bytearray(archive.read(entry))
                    known[key] = (
                        torch.frombuffer(content, dtype=dtype)
                        if content
                        else torch.empty(0, dtype=dtype)
                    )
                return known[key]

            module = _Reader(archive.read(pickled), storage).load()
    except FileNotFoundError:
        raise TrainingError(path.name, "is not there", "correct the path") from None
    except Exception as error:  # a hostile pickle may raise anything
        raise TrainingError(
            path.name,
            f"is no TorchScript whose tensors can be read as data ({type(error).__name__})",
            "give a state dict instead (safetensors, or .pt with tensors only)",
        ) from None
    found: dict[str, Tensor] = {}
    _walk(module, "", found)
    if not found:
        raise TrainingError(
            path.name,
            "holds no weights by name (they are frozen into its code)",
            "save it without torch.jit.freeze",
        )
    return found


def _walk(value: object, prefix: str, found: dict[str, Tensor], depth: int = 0) -> None:
    if depth > 64 or len(found) > MAX_TENSORS or not isinstance(value, _Holder):
        return
    for name, inner in value.attributes.items():
        if isinstance(inner, Tensor):
            found[prefix + name] = inner
        else:
            _walk(inner, f"{prefix}{name}.", found, depth + 1)
