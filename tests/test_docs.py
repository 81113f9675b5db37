"""Documents name what is there: links, files, functions, and constants with the values of ``docs/tunables.md``."""

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "halfspace"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BASES = [ROOT, PACKAGE, *(PACKAGE / name for name in ("cpu", "gpu", "gpu/kernels", "model")), ROOT / "asv_benchmarks"]
DEFINITIONS = {
    *(
        "BLOCK",
        "TILE",
        "CHUNK",
        "HIGH_MIDDLE, LOW_MIDDLE",
        "MODERATE",
        "AXES_STEP",
        "NO_RECORD",
        "DIGITS",
        "BLOCK_ROWS",
        "THREADS",
    ),
    *(
        "MAX_DIM",
        "MAX_CELL_DIM",
        "MAX_HEAD_DIM",
        "MOST_DIM",
        "MAX_ROWS",
        "MOST_ROWS",
        "ALL",
        "MOST",
        "_BEYOND",
        "STEPS",
    ),
    *(
        "DIGIT_LIMIT",
        "LOWEST",
        "LIMBS",
        "LARGEST_CODE",
        "WORD",
        "_NOTHING",
        "_HEADER",
    ),
    *("NONE, SOME, ALL", "DROP, LOOK, TAKE", "PAUSED, FULL", "OVERFULL, NOT_FINITE"),
    *("GROUP", "PACK", "CAPABILITY", "ALIGNMENT", "CUDA"),
    *("FARTHEST", "NEAREST", "LEAST_COSINE", "COLUMNS"),
}
"""Constants that could not have another value alone: layouts, limits of formats and kernels, codes of states."""
NUMBERS = (ast.BinOp, ast.UnaryOp, ast.Tuple, ast.Name, ast.IfExp, ast.Compare, ast.operator, ast.unaryop, ast.cmpop)
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def headings(page):
    """The anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pages
def test_links_lead_somewhere(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        there = page.parent / place if place else page
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in headings(there)):
            broken.append(target)
    assert broken == []


@pages
def test_files_that_are_named_are_there(page):
    """By their path from the root, the package, a device, or the page."""
    named = re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|cuh?|md|toml|json|txt|h))`", page.read_text("utf-8"))
    assert [path for path in named if not any((base / path).exists() for base in [*BASES, page.parent])] == []


def resolves(name):
    """Whether a dotted name is a module of the package, or something that one defines; nothing is imported."""
    place, parts = ROOT, name.split(".")
    while parts and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    if parts and (place / f"{parts[0]}.py").exists():
        place /= f"{parts.pop(0)}.py"
    else:
        place /= "__init__.py"
    if not parts:
        return place.exists()
    known = {part for node in ast.parse(place.read_text("utf-8")).body for part in defined(node)}
    return parts[0] in known


def defined(node):
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
    return [node.name] if hasattr(node, "name") else []


@pages
def test_names_that_are_named_are_there(page):
    named = set(re.findall(r"`(halfspace(?:\.\w+)+)(?:\([^`]*\))?`", page.read_text("utf-8")))
    assert {name for name in named if not resolves(name)} == set()


def test_kernels_that_are_named_beside_their_file_are_in_it():
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    named = re.findall(r"`(gpu/kernels/[\w/]+\.cuh?)` `(\w+)`", text)
    assert len(named) > 20
    lacking = [(path, name) for path, name in named if not re.search(rf"\b{name}\(", (PACKAGE / path).read_text())]
    assert lacking == []


def constants():
    """Numeric constants of modules that have a docstring: their file, their names, and their value as it is written."""
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text("utf-8")
        for node, after in pairwise(ast.parse(text).body):
            told = isinstance(after, ast.Expr) and isinstance(getattr(after.value, "value", None), str)
            if not told or not isinstance(node, ast.Assign):
                continue
            names = [part.id for part in ast.walk(node.targets[0]) if isinstance(part, ast.Name)]
            if all(re.fullmatch(r"_?[A-Z][A-Z0-9_]*", name) for name in names) and is_number(node.value):
                value = ast.get_source_segment(text, node.value)
                yield path.relative_to(ROOT).as_posix(), ", ".join(names), value


def is_number(value):
    parts = [part for part in ast.walk(value) if not isinstance(part, ast.expr_context)]
    numbers = [part for part in parts if isinstance(part, ast.Constant) and type(part.value) in (int, float)]
    others = [part for part in parts if part not in numbers]
    return all(isinstance(part, NUMBERS) for part in others) and bool(numbers or isinstance(value, ast.BinOp))


def test_tunables_are_told_with_their_values():
    text = (ROOT / "docs/tunables.md").read_text("utf-8")
    told = re.findall(r"^\| `([\w, ]+)` \| `([\w/.]+)` \| `([^`]+)` \| [^|]+ \| [^|]+ \|$", text, re.MULTILINE)
    there = {(path, name): value for path, name, value in constants()}
    assert len(told) > 100
    assert {(path, name): value for name, path, value in told if there.get((path, name)) != value} == {}
    others = {(path, name) for path, name in there} - {(path, name) for name, path, _ in told}
    assert {(path, name) for path, name in others if name not in DEFINITIONS} == set()
    assert {name for _, name in others} >= DEFINITIONS


UNITS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "us": 1e-6}


def section(target):
    """The text of a page from a heading to the next one of its level."""
    place, _, anchor = target.partition("#")
    lines, found, level = (ROOT / place).read_text("utf-8").splitlines(), [], 0
    for line in lines:
        heading = re.match(r"(#+) (.*)", line)
        if heading and level and len(heading[1]) <= level:
            break
        if heading and re.sub(r"[^\w\- ]", "", heading[2].lower()).replace(" ", "-") == anchor:
            level = len(heading[1])
        if level:
            found.append(line)
    return "\n".join(found)


def test_figures_of_the_readme_are_those_of_the_pages_that_it_names():
    """To two digits, in whatever unit the page has them."""
    rows = re.findall(r"^\| (.+?) \| ([\d.]+ \w+) \| (.+?) \|$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert len(rows) >= 7
    page = ""
    for job, ours, others in rows:
        link = re.search(r"\]\(([^)]+)\)", job)
        page = section(link[1]) if link else page
        assert page, job
        numbers = [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", page)]
        near = {f"{number * unit:.1e}" for number in numbers for unit in UNITS.values()}
        for value, unit in re.findall(r"([\d.]+) (s|ms|µs)\b", f"{ours}, {others}"):
            assert f"{float(value) * UNITS[unit]:.1e}" in near, (job, value, unit)
