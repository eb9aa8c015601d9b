"""The house rules that a reader relies on, checked on the syntax tree: layers, sizes, words that never appear."""

import ast
import importlib
import inspect
import pkgutil
import statistics
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import likeli

ROOT = Path(likeli.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}

LAYERS = [
    "errors config core information space random distributions arrays table gaussian",
    "nn observation data checkpoint",
    "diffusion",
    "models",
    "training analysis",
    "__init__ estimator",
    "cli report pictures studio __main__",
]
LAYER = {room: level for level, rooms in enumerate(LAYERS) for room in rooms.split()}
SHARED_MODELS = {"density", "hierarchy", "linear_gaussian", "symbols", "gaussian_diffusion"}

BANNED_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
BANNED_BUILTINS = {"eval", "exec", "__import__", "compile"}
BANNED_ATTRIBUTES = {
    ("torch", "save"), ("torch", "load"), ("yaml", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load"),
}
IMPORT_BY_NAME = {"__init__.py", "analysis/identities/__init__.py"}  # a table, and a folder of our own
CONCRETE_BASES = {"Pixels"}  # Binary is an image of two levels, and whoever takes images takes it


def name_of(path):
    """`likeli/models/flow.py` → ("models", "flow"); a package's own `__init__` is left out except the root's."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return tuple(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {name_of(path): path for path in FILES}


def imports(tree, *, everywhere):
    """Every (module path below likeli) that a file imports; function bodies and TYPE_CHECKING blocks only if `everywhere`."""
    nodes = ast.walk(tree) if everywhere else tree.body
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "likeli":
                    yield resolve(alias.name.split(".")[1:])
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "likeli":
            for alias in node.names:
                yield resolve([*node.module.split(".")[1:], alias.name])


def resolve(parts):
    while parts and tuple(parts) not in MODULES:
        parts = parts[:-1]
    return tuple(parts) or ("__init__",)


def functions(tree):
    return [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]


def length(function):
    """Lines of a function, its docstring left out."""
    first = function.body[0]
    doc = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    return function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1 if doc else 0)


def short(path):
    return str(path.relative_to(ROOT))


def test_every_room_has_a_layer():
    assert not {name[0] for name in MODULES} - set(LAYER)


def test_imports_go_down_the_layers():
    wrong = [
        f"{short(path)} imports {'.'.join(target)}"
        for name, path in MODULES.items()
        for target in imports(TREES[path], everywhere=True)
        if LAYER[target[0]] > LAYER[name[0]] and target != ("__init__",)
    ]
    assert not wrong


def test_only_the_version_is_taken_from_the_root():
    wrong = [
        f"{short(path)}: {alias.name}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "likeli" and LAYER[name_of(path)[0]] < LAYER["__init__"]
        for alias in node.names
        if alias.name != "__version__" and (alias.name,) not in MODULES
    ]
    assert not wrong


def test_families_do_not_lean_on_each_other():
    wrong = [
        f"{short(path)} imports {'.'.join(target)}"
        for name, path in MODULES.items()
        if name[0] == "models" and len(name) > 1
        for target in imports(TREES[path], everywhere=True)
        if target[0] == "models" and target[1:2] and target[1] != name[1] and target[1] not in SHARED_MODELS
    ]
    assert not wrong


def test_no_import_cycles():
    graph = {
        name: {t for t in imports(TREES[path], everywhere=False) if t not in (name, ("__init__",))}
        for name, path in MODULES.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError with the cycle


def test_files_stay_below_four_hundred_lines():
    assert not [short(p) for p in FILES if len(p.read_text(encoding="utf-8").splitlines()) >= 400]


def test_functions_are_short():
    lengths = sorted((length(f), f"{short(p)}:{f.name}") for p, tree in TREES.items() for f in functions(tree))
    sizes = [n for n, _ in lengths]
    assert statistics.median(sizes) <= 8
    assert statistics.quantiles(sizes, n=10)[-1] < 30
    assert not [where for n, where in lengths if n > 60]


def test_no_drawer_for_odds_and_ends():
    assert not [short(p) for p in FILES if p.stem in {"utils", "util", "helpers", "misc", "common"}]


def test_public_things_say_what_they_are():
    documented = {f.name for tree in TREES.values() for f in functions(tree) if ast.get_docstring(f)} | {"forward"}
    missing = []
    for path, tree in TREES.items():
        if not ast.get_docstring(tree) and path.name != "__init__.py":
            missing.append(short(path))
        for node in [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith("_")]:
            marks = [ast.dump(d) for d in node.decorator_list]
            decorated = any("overload" in m or "'identity'" in m for m in marks)  # an identity's title says what it is
            if not ast.get_docstring(node) and not decorated:
                missing.append(f"{short(path)}:{node.name}")
            for method in node.body if isinstance(node, ast.ClassDef) else []:
                # an override needs no second docstring, so a name documented in some class is enough
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_") and method.name not in documented:
                    missing.append(f"{short(path)}:{node.name}.{method.name}")
    assert not missing


def test_nothing_that_can_run_a_strangers_code():
    wrong = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong += [f"{short(path)}: import {n}" for n in names if n.split(".")[0] in BANNED_MODULES]
            if not isinstance(node, ast.Call):
                continue
            f = node.func
            if isinstance(f, ast.Name) and f.id in BANNED_BUILTINS:
                wrong.append(f"{short(path)}:{node.lineno} {f.id}")
            if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name):
                if (f.value.id, f.attr) in BANNED_ATTRIBUTES:
                    wrong.append(f"{short(path)}:{node.lineno} {f.value.id}.{f.attr}")
                if f.attr == "import_module" and short(path) not in IMPORT_BY_NAME:
                    wrong.append(f"{short(path)}:{node.lineno} import by name")
                if (f.value.id, f.attr) == ("np", "load") and not refuses_pickle(node):
                    wrong.append(f"{short(path)}:{node.lineno} np.load without allow_pickle=False")
    assert not wrong


def refuses_pickle(call):
    return any(k.arg == "allow_pickle" and isinstance(k.value, ast.Constant) and k.value.value is False for k in call.keywords)


@pytest.mark.parametrize("word", ["TO" + "DO", "FIX" + "ME", "XX" + "X", "# no" + "qa", "print(\"DEBUG"])
def test_words_that_do_not_belong(word):
    assert not [short(p) for p in FILES if word in p.read_text(encoding="utf-8")]


def test_nothing_is_left_unimplemented():
    wrong = [
        f"{short(path)}:{node.lineno}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and node.exc is not None and "NotImplementedError" in ast.dump(node.exc)
    ]
    assert not wrong


def test_no_test_is_skipped():
    marks = {"skip", "skipif", "xfail", "importorskip"}
    tests = sorted(Path(__file__).parent.rglob("*.py"))
    wrong = [
        f"{path.name}:{node.lineno}"
        for path in tests
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in marks
    ]
    assert not wrong


def test_no_function_is_written_twice():
    bodies = defaultdict(list)
    for path, tree in TREES.items():
        for f in functions(tree):
            code = [n for n in f.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
            if length(f) >= 5:
                bodies[ast.dump(ast.Module(code, []))].append(f"{short(path)}:{f.name}")
    assert not [where for where in bodies.values() if len(where) > 1]


def test_a_class_is_abstract_or_final():
    for module in pkgutil.walk_packages([str(ROOT)], "likeli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    wrong, stack = [], [object]
    seen = set()
    while stack:
        for cls in type.__subclasses__(stack.pop()):
            if cls in seen:
                continue
            seen.add(cls)
            stack.append(cls)
            for base in cls.__bases__:
                ours = str(cls.__module__).startswith("likeli") and str(base.__module__).startswith("likeli")
                if ours and not may_be_extended(base):
                    wrong.append(f"{cls.__module__}.{cls.__name__} extends the concrete {base.__name__}")
    assert not wrong


def may_be_extended(base):
    marker = base.__name__ == "Configurable" or getattr(base, "_is_protocol", False)
    return inspect.isabstract(base) or marker or issubclass(base, BaseException) or base.__name__ in CONCRETE_BASES
