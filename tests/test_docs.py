"""Every code block of README.md and of docs/ runs, on a budget of a moment.

The blocks of a page run one after the other and share names and a folder.  What a block needs and no reader wants to see stands
before it, in a block within an HTML comment.  `printed.py` cuts the budgets.  `python` blocks are executed (`>>>` ones as
doctests), each line of a `sh` block is a command, a `yaml` block is a `--config` file, `text` is output; a block in any other
language, or in none, is an error.  `sh needs PACKAGE` runs where the package is installed.
"""

import doctest
import json
import re
from importlib.util import find_spec

import pytest

from likeli.cli import main
from likeli.cli.app import commands
from printed import ROOT, brief, place, shell

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
SILENT = {"text", "{toctree}", "{figure}", "mermaid"}
__all__ = ["place"]


def blocks(page):
    """(language, code, line) of every block of a page, those in comments too."""
    text = page.read_text(encoding="utf-8")
    return [(m[1].strip(), m[2], text.count("\n", 0, m.start()) + 2) for m in FENCE.finditer(text)]


def python(code, line, names, page):
    if not code.startswith(">>>"):
        exec(compile("\n" * (line - 1) + brief(code), page.name, "exec"), names)
        return
    test = doctest.DocTestParser().get_doctest(code, names, page.name, page.name, line - 1)
    failures = []
    doctest.DocTestRunner().run(test, out=failures.append, clear_globs=False)
    names.update(test.globs)  # a test runs in a copy
    assert not failures, "".join(failures)


@pytest.mark.parametrize("page", PAGES, ids=[p.stem for p in PAGES])
def test_every_block_runs(page, place):
    names = {"__name__": f"page_{page.stem}"}
    for language, code, line in blocks(page):
        where = f"{page.name}:{line}"
        language, _, package = language.partition(" needs ")
        if package and find_spec(package) is None:
            continue
        if language == "python":
            python(code, line, names, page)
        elif language == "sh":
            for command in filter(None, (command.partition(" #")[0].strip() for command in code.splitlines())):
                shell(command)
        elif language == "yaml":
            (place / "config.yaml").write_text(code)
            assert main(["fit", "--config", "config.yaml", "--print-config"]) == 0, where
        else:
            known = language.split(" ")[0] in SILENT
            assert known, f"{where}: a block needs a language, one of python, sh, yaml, text; it has {language!r}"


@pytest.mark.parametrize("page", PAGES, ids=[p.stem for p in PAGES])
def test_no_command_hides_where_nothing_runs(page):
    """Commands stand in `sh` blocks: not indented, not among output; a synopsis in capitals must at least name a verb."""
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"\n\n    (?:likeli|python|make)\b.*", FENCE.sub("", text))
    said = [line for language, code, _ in blocks(page) if language in SILENT for line in code.splitlines()]
    for line in said:
        if line.startswith("likeli "):
            assert line.split()[1] in commands(), f"{page.name}: {line}"
            assert page.stem == "cli", f"{page.name}: run it: {line}"


@pytest.mark.parametrize("page", PAGES, ids=[p.stem for p in PAGES])
def test_formulas_are_typeset_and_pictures_are_there(page):
    """No indented block outside a list; dollars come in pairs; a figure's file is in the repository."""
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text(encoding="utf-8")))
    assert not re.findall(r"\n\n {4}\S.*", text)
    display = re.findall(r"^\$\$\n(.*?)\n\$\$$", text, re.MULTILINE | re.DOTALL)
    assert text.count("$$") == 2 * len(display)
    assert all(formula.count("{") == formula.count("}") for formula in display)
    assert text.replace("$$", "").count("$") % 2 == 0
    for language, code, _ in blocks(page):
        named = re.match(r"\{figure\} (\S+)", language)
        assert named is None or (page.parent / named[1]).is_file()


def test_every_page_is_on_the_index():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    trees = re.findall(r"```{toctree}\n(.*?)```", index, re.DOTALL)
    listed = [name for tree in trees for name in re.findall(r"^[\w-]+$", tree, re.MULTILINE)]
    assert sorted(listed) == sorted(p.stem for p in (ROOT / "docs").glob("*.md") if p.stem != "index")


def test_the_synopsis_names_every_verb():
    page = ROOT / "docs" / "cli.md"
    said = re.findall(r"^likeli (\w+)", next(code for language, code, _ in blocks(page) if language == "text"), re.MULTILINE)
    assert sorted(said) == sorted(commands())


def test_the_family_of_the_contract_page_is_a_plugin(place, capsys):
    """As printed: the file alone is enough for the command line, the options, a checkpoint and its number."""
    code = next(code for language, code, _ in blocks(ROOT / "docs" / "contract.md") if "class Laplace" in code)
    (place / "laplace.py").write_text(code)
    words = ["gaussian", "--plugin", "laplace.py", "--model", "laplace", "--steps", "40", "--quiet", "--out", "x"]
    assert main(["fit", *words]) == 0
    capsys.readouterr()
    assert main(["evaluate", "x", "--plugin", "laplace.py", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["knows"] == "exact"
