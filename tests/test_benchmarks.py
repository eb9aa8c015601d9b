"""What benchmarks ask of the package is there, and variants are what both sides take; without peers, and without a run."""

import ast
import importlib
import inspect

import pytest
from benchmarks._harness import HERE, entries

IMPORTS = sorted(
    {
        (node.module, name.name)
        for path in HERE.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("likeli", "benchmarks")
        for name in node.names
    }
)


@pytest.mark.parametrize(("module", "name"), IMPORTS)
def test_every_imported_name_is_there(module, name):
    found = importlib.import_module(module)
    assert hasattr(found, name) or importlib.import_module(f"{module}.{name}")


@pytest.mark.parametrize("entry", entries())
def test_every_variant_is_what_both_sides_take(entry):
    module = importlib.import_module(f"benchmarks.{entry}")
    for variant in getattr(module, "VARIANTS", [{}]):
        for side in (module.ours, module.peer):
            inspect.signature(side).bind("folder", **variant)
