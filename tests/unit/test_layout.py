"""Every module has a docstring and a place among the layers."""

import ast
import tomllib

import pytest
from support.paths import ROOT

PACKAGE = ROOT / "aragora_q"
MODULES = sorted(PACKAGE.rglob("*.py"))


def name(path):
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_module_has_a_docstring(path):
    """A docstring whose first paragraph is a sentence."""
    doc = ast.get_docstring(ast.parse(path.read_text()))
    assert doc
    assert doc.split("\n\n")[0].rstrip().endswith((".", ":")), doc


def test_every_module_has_a_layer():
    """The list of layers has every module, so that none is exempt from the direction of imports."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    [layers] = [
        contract["layers"]
        for contract in project["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers" and contract["containers"] == ["aragora_q"]
    ]
    listed = [module.strip() for line in layers for module in line.split("|")]
    present = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert sorted(listed) == sorted(present - {"__init__", "__main__", "_version"})


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_pickle_no_eval(path):
    """Data is JSON; nothing in the package can execute what it reads."""
    tree = ast.parse(path.read_text())
    imported = {
        alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {
        (node.module or "").partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }
    assert not imported & {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"eval", "exec", "__import__"}
