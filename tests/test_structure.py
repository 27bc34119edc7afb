"""The tree's own rules (CONTRIBUTING.md): files stay short, packages depend one way, modules in no
circle, and what the documents name is there."""

import ast
import re
import subprocess
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MAX_LINES = 400

MAY_IMPORT = {
    "service": set[str](),
    "prefstream": {"service", "trainer"},
    "worker": {"service"},
    "trainer": {"service"},
}
"""Of our own packages; tests and benchmarks may import all."""


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_of(path): path for path in tracked("*.py")}


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported: neither functions nor what is for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        yield node
        yield from at_import(node)


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Our own modules that these nodes import; `from package import module` is the module."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            package = str(node.module)
            submodules = {f"{package}.{name.name}" for name in node.names}
            found |= {name if name in SOURCES else package for name in submodules}
    return found & SOURCES.keys()


def test_files_stay_short() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in SOURCES.values()}
    long = {str(p.relative_to(ROOT)): count for p, count in lines.items() if count > MAX_LINES}
    assert long == {}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_depend_one_way(package: str) -> None:
    """Anywhere: also in functions, and for type checkers."""
    others = MAY_IMPORT.keys() - MAY_IMPORT[package] - {package} | {"tests"}
    wrong = {
        module: sorted(names)
        for module, path in SOURCES.items()
        if module.split(".")[0] == package
        and (
            names := {
                name
                for name in imported(ast.walk(ast.parse(path.read_text())))
                if name.split(".")[0] in others
            }
        )
    }
    assert wrong == {}


def test_modules_import_each_other_in_no_circle() -> None:
    graph = {
        module: imported(at_import(ast.parse(path.read_text()))) - {module}
        for module, path in SOURCES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_every_path_in_the_documents_exists() -> None:
    folders = "|".join(("docs", "docker", "scripts", "tests", *MAY_IMPORT))
    wrong: list[str] = []
    for document in tracked("*.md"):
        text = document.read_text()
        named = re.findall(rf"`((?:{folders})/[^`\s:]*)(?:::?[^`\s]*)?`", text)
        linked = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text)
        wrong += [
            f"{document.relative_to(ROOT)}: {path}"
            for start, paths in ((ROOT, named), (document.parent, linked))
            for path in paths
            if not (any(start.glob(path)) if "*" in path else (start / path).exists())
        ]
    assert wrong == []
