"""Every public function, method and field that takes or gives an array says its shape.

Read from the source: nothing is imported, so that optional libraries need not be there. A state
dict (tensors by name) has no shape to say; a method without words of its own has those of the
class that it overrides, and a constructor, ``forward`` or call those of its class.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pathology_scaat

ROOT = Path(pathology_scaat.__file__).parent
_NAMED = "batch rows? cols? columns height width size side count length channels cells n_[a-z]+"
_AXIS = rf"(?:\.\.\.|[A-Za-z]\w?|\d+|{_NAMED.replace(' ', '|')}|\w+(?: ?[-+*/] ?\w+)+)"
SHAPE = re.compile(
    rf"\((?!x, ?y\)){_AXIS}(?:, ?{_AXIS})+\)|\({_AXIS},\)|\bany shape\b|\bscalars?\b"
)
STATE_DICT = re.compile(r"\b(?:dict|Mapping)\[str, (?:torch\.)?Tensor\]")
ARRAY_NAME = re.compile(
    r"^(?P<name>\w+)(?:: TypeAlias)? = (?:tuple\[|.* \| )?(?:NDArray|np\.ndarray)\[.*$",
    re.MULTILINE,
)
BY_THE_CLASS = ("__init__", "__call__", "forward")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _docstring_after(body: list[ast.stmt], index: int) -> str:
    """The text below an assignment, as editors show it."""
    following = body[index + 1] if index + 1 < len(body) else None
    value = following.value if isinstance(following, ast.Expr) else None
    return str(value.value) if isinstance(value, ast.Constant) else ""


@cache
def texts() -> dict[str, str]:
    return {str(p.relative_to(ROOT)): p.read_text("utf-8") for p in sorted(ROOT.rglob("*.py"))}


@cache
def arrays() -> re.Pattern[str]:
    """Words that are arrays in an annotation: the libraries', and names of ours without a shape."""
    words = ["NDArray", "ndarray", "Tensor"]
    for text in texts().values():
        for line in re.finditer(ARRAY_NAME, text):
            words_after = re.match(r'\s*"""(.*?)"""', text[line.end() :], re.DOTALL)
            if words_after is None or not SHAPE.search(words_after[1]):
                words.append(line["name"])
    return re.compile(rf"\b(?:{'|'.join(words)})\b")


@cache
def modules() -> dict[str, ast.Module]:
    return {name: ast.parse(text) for name, text in texts().items() if arrays().search(text)}


def _is_array(annotation: ast.expr | None) -> bool:
    text = STATE_DICT.sub("", ast.unparse(annotation)) if annotation is not None else ""
    return arrays().search(text) is not None


def _takes_or_gives_arrays(function: Function) -> bool:
    a = function.args
    given = [one.annotation for one in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
    return any(map(_is_array, [*given, function.returns]))


def _inherited(cls: ast.ClassDef, method: str, seen: tuple[str, ...] = ()) -> str:
    """What a class above says of a method; empty where none does."""
    for base in cls.bases:
        name = re.split(r"\[", ast.unparse(base))[0].rpartition(".")[2]
        above = None if name in seen else classes().get(name)
        if above is None:
            continue
        own = [n for n in above.body if isinstance(n, Function) and n.name == method]
        words = (ast.get_docstring(own[0]) or "") if own else ""
        if words or (words := _inherited(above, method, (*seen, name))):
            return words
    return ""


@cache
def classes() -> dict[str, ast.ClassDef]:
    found = (node for module in modules().values() for node in module.body)
    return {node.name: node for node in found if isinstance(node, ast.ClassDef)}


def _words(function: Function, cls: ast.ClassDef | None) -> str:
    own = ast.get_docstring(function) or ""
    if cls is None:
        return own
    if function.name in BY_THE_CLASS:
        own += ast.get_docstring(cls) or ""
    return own or _inherited(cls, function.name)


def without_shape(body: list[ast.stmt], cls: ast.ClassDef | None = None) -> Iterator[str]:
    """Names of the public things in a module or class that hold arrays and say no shape."""
    for index, node in enumerate(body):
        name = str(getattr(node, "name", getattr(getattr(node, "target", None), "id", "_")))
        if name.startswith("_") and name not in BY_THE_CLASS:
            continue
        of = f"{cls.name}." if cls is not None else ""
        if isinstance(node, ast.ClassDef):
            yield from without_shape(node.body, node)
        elif isinstance(node, Function):
            if _takes_or_gives_arrays(node) and not SHAPE.search(_words(node, cls)):
                yield f"{of}{name}, line {node.lineno}"
        elif isinstance(node, ast.AnnAssign) and cls is not None and _is_array(node.annotation):
            words = (ast.get_docstring(cls) or "") + _docstring_after(body, index)
            if not SHAPE.search(words):
                yield f"{of}{name}, line {node.lineno}"


def test_whatever_takes_or_gives_arrays_says_their_shape() -> None:
    found = [f"{m}: {n}" for m, module in modules().items() for n in without_shape(module.body)]
    assert not found, "say the shapes, as (N, 3) or (H, W), in the docstring of:\n" + "\n".join(
        found
    )


def test_what_says_no_shape_is_found() -> None:
    source = '''
class Store:
    """Patches."""

    values: NDArray[np.float32]
    _own: NDArray[np.float32]

    def read(self) -> NDArray[np.uint8]:
        """Pixels (see Smith, 2020)."""

    def said(self) -> Tensor:
        """Pixels, (N, P, P, 3) uint8."""

def weights(state: dict[str, Tensor]) -> int:
    """How many."""

def loss(logits: Tensor) -> float:
    """A number."""
'''
    found = list(without_shape(ast.parse(source).body))
    assert found == ["Store.values, line 5", "Store.read, line 8", "loss, line 17"]
