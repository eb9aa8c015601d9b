"""What can be built and with which options, read from the source text without importing it (or torch).

The constructor is the configuration, so its signature and its docstring are the list of options.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from likeli.config import snake_case
from likeli.errors import InputError, nearest

PACKAGE = Path(__file__).resolve().parent.parent
FROM_DATA = ("space", "condition", "trees", "features")  # arguments that come from the data, not from the user
BUILT_IN: dict[str, Any] = {t.__name__: t for t in (int, float, bool, str, tuple, list, dict)}


@dataclass(frozen=True)
class Argument:
    """One option.

    Arguments:
        name: as in the constructor.
        annotation: its type, as source text.
        default: its default as a Python value, or as source text where it is not a literal.
        required: it has no default.
        literal: `default` is a value.
        help: its line in the docstring.
    """

    name: str
    annotation: str
    default: Any
    required: bool
    literal: bool
    help: str

    @property
    def hint(self) -> Any:
        """The type that the annotation stands for; a class of ours may be anything here."""
        return _type(ast.parse(self.annotation or "Any", mode="eval").body)


@dataclass(frozen=True)
class Class:
    """One class statement."""

    name: str
    bases: tuple[str, ...]
    doc: str
    own: tuple[Argument, ...] | None
    attributes: dict[str, Any]
    methods: frozenset[str]
    abstract: frozenset[str]
    fields: tuple[Argument, ...] = field(default=())


class Catalogue:
    """The classes of some source files.

    Arguments:
        files: Python files; a later class of the same name replaces an earlier one.
    """

    def __init__(self, files: list[Path]) -> None:
        trees = [_parsed(path) for path in files]
        self.files = [(_first_line(tree), {n.name for n in tree.body if isinstance(n, ast.ClassDef)}) for tree in trees]
        self.classes = {node.name: _read(node) for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}
        self.aliases = dict(alias for tree in trees for alias in _aliases(tree))

    def lineage(self, name: str) -> list[Class]:
        """The class and its known ancestors, nearest first."""
        cls = self.classes.get(name)
        if cls is None:
            return []
        found = [cls]
        for base in cls.bases:
            found += [c for c in self.lineage(base) if c not in found]
        return found

    def is_abstract(self, name: str) -> bool:
        """Whether some abstract method is left unwritten."""
        open_: set[str] = set()
        for cls in reversed(self.lineage(name)):
            open_ = (open_ - cls.methods) | cls.abstract
        return bool(open_)

    def concrete(self, base: str) -> dict[str, str]:
        """Registered name → class name of everything buildable under `base`."""
        under = [c for c in self.classes if any(a.name == base for a in self.lineage(c))]
        return {snake_case(c): c for c in sorted(under, key=snake_case) if not self.is_abstract(c)}

    @cached_property
    def models(self) -> dict[str, str]:
        """Every family, by registered name."""
        return self.concrete("GenerativeModel")

    def constructor(self, name: str) -> dict[str, Argument]:
        """The constructor's arguments, with the choices that a name such as `Kind = Literal[...]` stands for."""
        own = next((c.own for c in self.lineage(name) if c.own is not None), ())
        spelt = [re.sub(r"[A-Za-z_]\w*", lambda m: self.aliases.get(m[0], m[0]), a.annotation) for a in own]
        return {a.name: replace(a, annotation=text) for a, text in zip(own, spelt)}

    def arguments(self, name: str) -> dict[str, Argument]:
        """The constructor's arguments that a user chooses."""
        return {k: a for k, a in self.constructor(name).items() if k not in FROM_DATA}

    def attribute(self, name: str, attribute: str) -> Any:
        """A class attribute, inherited ones included; None when there is none."""
        return next((c.attributes[attribute] for c in self.lineage(name) if attribute in c.attributes), None)

    def summary(self, name: str) -> str:
        """What its file says it is, or its own docstring where one file holds several families."""
        families = set(self.models.values())
        about, classes = next((about, classes) for about, classes in reversed(self.files) if name in classes)
        return about if about and len(classes & families) == 1 else _first_line(self.classes[name].doc)

    def family(self, name: str) -> str:
        """The class name of the family called `name`.

        Raises:
            InputError: unknown family; the nearest known name is suggested.
        """
        if name in self.models:
            return self.models[name]
        raise InputError(f"model: unknown family {name!r}{nearest(name, self.models)}; known are {', '.join(self.models)}")

    def single(self, annotation: str) -> tuple[str, str] | None:
        """Registered name and class name of what can only be an object of one class, such as `DenoiserBackbone | None`."""
        words = re.findall(r"[A-Za-z_]\w*", annotation)
        named = [w for w in words if any(a.name == "Configurable" for a in self.lineage(w))]
        choices = list(self.concrete(named[0]).items()) if len(named) == 1 and not self.is_abstract(named[0]) else []
        return choices[0] if len(choices) == 1 else None

    def nested(self, annotation: str) -> dict[str, str]:
        """Registered name → class name of what an argument annotated with a class of ours can be."""
        for word in re.findall(r"[A-Za-z_]\w*", annotation):
            if any(a.name == "Configurable" for a in self.lineage(word)):
                return self.concrete(word)
        return {}


@cache
def catalogue(plugins: tuple[str, ...] = ()) -> Catalogue:
    """The catalogue of the package and of the user's plugin files."""
    # no helper hides a family of its name
    rooms = ("gaussian", "nn", "spaces", "latent", "diffusion", "discrete", "energy", "models")
    files = [*PACKAGE.glob("*.py"), *(p for room in rooms for p in sorted((PACKAGE / room).rglob("*.py")))]
    return Catalogue(files + [Path(p) for p in plugins])


@cache
def training_options() -> dict[str, Argument]:
    """The fields of the training settings."""
    settings = Catalogue([PACKAGE / "training" / "settings.py"]).classes["TrainSettings"]
    return {a.name: a for a in settings.fields}


def _type(node: ast.expr) -> Any:
    match node:
        case ast.Name(id=name):
            return BUILT_IN.get(name, Any)
        case ast.Constant(value=value):
            return value  # None, and the … of tuples
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _type(left) | _type(right)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inside):
            return Literal[ast.literal_eval(inside)]
        case ast.Subscript(value=ast.Name(id=name), slice=inside) if name in BUILT_IN:
            return BUILT_IN[name][tuple(map(_type, inside.elts)) if isinstance(inside, ast.Tuple) else _type(inside)]
    return Any


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path}: not a readable Python file ({error})") from None


def _first_line(doc: str | ast.Module) -> str:
    text = (ast.get_docstring(doc) or "") if isinstance(doc, ast.Module) else doc
    return " ".join(text.strip().split("\n\n")[0].split()).rstrip(".")


def _aliases(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """`Name = Literal[...]` at the top of a file."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            text = ast.unparse(node.value)
            if text.startswith("Literal["):
                yield node.targets[0].id, text


def _read(node: ast.ClassDef) -> Class:
    doc = ast.get_docstring(node) or ""
    methods = {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}
    init, help_ = methods.get("__init__"), _argument_help(doc)
    assigned = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    fields = tuple(_argument(n.target.id, n.annotation, n.value, help_) for n in assigned)
    attributes = {n.target.id: _value(n.value)[0] for n in assigned if n.value is not None}
    for n in node.body:
        if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name):
            attributes[n.targets[0].id] = _value(n.value)[0]
    return Class(
        name=node.name,
        bases=tuple(ast.unparse(b).partition("[")[0].rpartition(".")[2] for b in node.bases),
        doc=doc,
        own=None if init is None else tuple(_signature(init, help_)),
        attributes=attributes,
        methods=frozenset(methods) | frozenset(attributes),
        abstract=frozenset(m for m, n in methods.items() if "abstractmethod" in map(ast.unparse, n.decorator_list)),
        fields=fields,
    )


def _signature(init: ast.FunctionDef, help_: dict[str, str]) -> Iterator[Argument]:
    args = init.args
    positional = (args.posonlyargs + args.args)[1:]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(args.defaults)) + list(args.defaults)
    for arg, default in zip(positional + args.kwonlyargs, defaults + list(args.kw_defaults)):
        yield _argument(arg.arg, arg.annotation, default, help_)


def _argument(name: str, annotation: ast.expr | None, default: ast.expr | None, help_: dict[str, str]) -> Argument:
    value, literal = _value(default)
    text = ast.unparse(annotation) if annotation is not None else ""
    return Argument(name, text, value, default is None, literal, help_.get(name, ""))


def _value(node: ast.expr | None) -> tuple[Any, bool]:
    if node is None:
        return None, False
    try:
        return ast.literal_eval(node), True
    except ValueError:
        return ast.unparse(node), False


def _argument_help(doc: str) -> dict[str, str]:
    """`{name: text}` of the docstring's Arguments section; `a, b: text` gives both names the text."""
    section = re.search(r"^Arguments:\n(.*?)(?=^\S|\Z)", doc, re.DOTALL | re.MULTILINE)
    found: dict[str, str] = {}
    entries = re.split(r"\n(?= {4}\w)", "\n" + section.group(1).rstrip()) if section else []
    for entry in entries:
        names, _, text = entry.partition(":")
        for name in names.split(","):
            found[name.strip()] = " ".join(text.split())
    return found
