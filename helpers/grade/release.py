"""The command ``release``: the student edition of the suite, written from its own sources.

It holds the notebooks as :mod:`helpers.grade.handout` makes them, the helpers that these and a student's commands reach, and
what the sheets ask for. Records, figures, executed notebooks, the report, tests, benchmarks, the quick twins of tasks and the
tools of the staff stay behind.
"""

from __future__ import annotations

import ast
import re
import shutil
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from helpers import settings
from helpers.files import write_together
from helpers.grade import handout, marking
from helpers.grade.submission import Unreadable
from helpers.results import deliverables

ROOT = settings.PROJECT_ROOT
STUDENT = Path(__file__).with_name("student")
COPIED = (".gitattributes", ".gitignore", "LICENSE", "data/README.md", "requirements.txt",
          "scripts/environment.sh")
COMMANDS = ("build", "check", "train", "full", "status", "weights", "check-run")  # of python -m helpers, for students
LEFT_OUT = ("code",)  # tables of deliverables.toml that are the staff's
SAYS_SOMETHING = 24  # signs of a line that two functions do not share by chance
_TABLE = re.compile(r"^\[\[?(\w+)", re.MULTILINE)


def register(commands) -> None:
    """Add the command ``release``."""
    command = commands.add_parser("release", help=release.__doc__)
    command.add_argument("out", metavar="OUT", help="a folder that does not exist or is empty")
    command.add_argument("--sheet", metavar="NAME,...", help=f"of {', '.join(deliverables.sheets())}; all by default")
    command.set_defaults(function=release, default_profile="full")


def release(arguments) -> int:
    """Write the student edition: tasks without bodies, questions without answers, no results."""
    removed = write(Path(arguments.out), marking.sheets_named(arguments.sheet))
    tasks = sum(map(len, removed.values()))
    lines = sum(len(code) for notebook in removed.values() for code in notebook.values())
    print(f"{arguments.out}: {len(removed)} notebooks, {tasks} tasks, {lines:,} lines of code left out")
    return 0


def write(out: Path, sheets: Sequence[str] = ()) -> dict[str, dict[str, tuple[str, ...]]]:
    """Write the student edition into a folder.

    Args:
        out: does not exist, or is empty.
        sheets: short names, all by default; notebooks without a run of theirs are left out.

    Returns:
        What was left out: notebook -> task -> lines of code.

    Raises:
        Unreadable: the folder holds something, or lies in a folder of this suite that the edition is made from.
        HandoutError: a source does not fit what is said of its tasks.
    """
    sheets = sheets or deliverables.sheets()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Unreadable(f"{out} is not an empty folder: a release is written into a new one")
    if any(out.resolve().is_relative_to(ROOT / name) for name in ("helpers", "notebooks", "data")):
        raise Unreadable(f"{out} lies within the suite's own sources: name a folder elsewhere")
    notebooks = marking.reference.notebooks(sheets)
    answers = {entry["id"]: entry["text"] for entry in deliverables.answers()}
    sources = {name: (ROOT / "notebooks" / f"{name}.py").read_text(encoding="utf-8") for name in notebooks}
    asked_for = tasks_of(sources, sheets)
    files: dict[str, bytes] = {name: (ROOT / name).read_bytes() for name in COPIED}
    files |= {name: (STUDENT / name).read_bytes() for name in ("Makefile", "pyproject.toml", "requirements-dev.txt")}
    removed, texts = {}, []
    for name, source in sources.items():
        made = handout.of(name, source, [task for task in asked_for if task["notebook"] == name], answers)
        removed[name] = dict(made.removed)
        texts.append(made.text)
        files[f"notebooks/{name}.py"] = made.text.encode()
    asked = (ROOT / "deliverables.toml").read_text(encoding="utf-8")
    files["deliverables.toml"] = asked_of_students(asked, notebooks, sheets).encode()
    main = student_commands((ROOT / "helpers" / "__main__.py").read_text(encoding="utf-8"))
    files |= {name: (ROOT / name).read_bytes() for name in reached([main, *texts])}
    files["helpers/__main__.py"] = main.encode()
    files["README.md"] = readme(asked_for).encode()
    write_together({out / name: content for name, content in files.items()})
    shutil.copymode(ROOT / "scripts/environment.sh", out / "scripts/environment.sh")
    return removed


def tasks_of(sources: Mapping[str, str], sheets: Collection[str]) -> list[dict]:
    """The tasks of some sheets, and what would tell their solution of those of other sheets in the same notebooks.

    What the other sheets ask is given, unless it shares its name or a statement with something that is asked.
    """
    there = {name: handout.definitions(text) for name, text in sources.items()}
    mine = [task for task in deliverables.tasks() if task["notebook"] in sources and task["sheet"] in sheets]
    others = [task for task in deliverables.tasks() if task["notebook"] in sources and task["sheet"] not in sheets]
    names = {name for task in mine for name in task["names"]}
    told = set().union(*(_statements(task, name, sources, there) for task in mine for name in task["names"]))
    for task in others:
        alike = [name for name in task["names"] if name in names or told & _statements(task, name, sources, there)]
        mine += [{**task, "names": alike}] * bool(alike)
    return mine


def _statements(task: Mapping, name: str, sources: Mapping[str, str], there: Mapping[str, Mapping]) -> set[str]:
    """The lines of code of what a name of a task means, without blanks, as far as they say something."""
    definitions, lines = there[task["notebook"]], sources[task["notebook"]].split("\n")
    blocks = [lines[slice(*handout.body_lines(definitions[found], lines))] for found in handout.functions(name, definitions)]
    found = {re.sub(r"\s", "", line) for block in blocks for line in block}
    return {line for line in found if len(line) > SAYS_SOMETHING and not line.startswith("#")}


def asked_of_students(text: str, notebooks: Collection[str], sheets: Collection[str]) -> str:
    """``deliverables.toml`` for students: their notebooks, runs of other sheets as supporting ones, no known verdicts."""
    starts = [match.start() for match in _TABLE.finditer(text) if text.startswith("[[", match.start())]
    kept = [text[: starts[0]]]
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        block = "".join(line for line in text[start:end].splitlines(keepends=True) if not line.startswith("#"))
        block = re.split(r"^\[run\.verdicts\]", block, flags=re.MULTILINE)[0].rstrip("\n") + "\n\n"
        ((kind, (entry,)),) = tomllib.loads(block).items()
        if kind in LEFT_OUT or entry.get("notebook", notebooks[0]) not in notebooks:
            continue
        if kind == "order" and deliverables.entry(entry["run"])["notebook"] not in notebooks:
            continue
        if kind in ("answer", "task") and entry["sheet"] not in sheets:
            continue
        if kind == "run" and entry["sheet"] not in sheets:
            block = re.sub(r"^question = ", "text = ", block.replace("[[run]]", "[[support]]", 1), flags=re.MULTILINE)
        kept.append(block)
    return "".join(kept).rstrip("\n") + "\n"


def student_commands(text: str) -> str:
    """The text of ``helpers/__main__.py`` with the commands of students alone."""
    table = re.search(r"^COMMANDS = \{.*?^\}\n", text, flags=re.MULTILINE | re.DOTALL)[0]
    known = ast.literal_eval(table.removeprefix("COMMANDS = "))
    rows = "".join(f'    "{name}": "{known[name]}",\n' for name in COMMANDS)
    return text.replace(table, f"COMMANDS = {{\n{rows}}}\n")


def reached(texts: Iterable[str]) -> list[str]:
    """The files of ``helpers`` that Python texts import or name in a string, and those that these import, and so on."""
    waiting, found = list(texts), set()
    while waiting:
        for name in _modules_in(waiting.pop()):
            for path in (ROOT.joinpath(*name.split(".")).with_suffix(".py"), ROOT.joinpath(*name.split("."), "__init__.py")):
                if path.is_file() and path not in found:
                    found.add(path)
                    waiting.append(path.read_text(encoding="utf-8"))
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def _modules_in(text: str) -> set[str]:
    """Dotted names below ``helpers`` that may be modules, with their packages."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"helpers(\.\w+)+", node.value):
            names.add(node.value)
    parts = [name.split(".") for name in names if name.split(".")[0] == "helpers"]
    return {".".join(name[:length]) for name in parts for length in range(1, len(name) + 1)}


def readme(tasks: Sequence[Mapping]) -> str:
    """The README of the student edition, with a table of its tasks."""
    rows = []
    for name in notebooks_of(tasks):
        rows += [f"\n### {name}\n\n| task | to write | what | points |\n|---|---|---|---:|"]
        rows += [f"| {task['id']} | {', '.join(f'`{part}`' for part in task['names'])} | {task['statement']} | {task['points']} |"
                 for task in tasks if task["notebook"] == name]
    template = (STUDENT / "README.md").read_text(encoding="utf-8")
    return template.replace("TASKS", "\n".join(rows).strip("\n")).replace("FIRST", notebooks_of(tasks)[0])


def notebooks_of(tasks: Sequence[Mapping]) -> list[str]:
    """The notebooks that tasks are in."""
    return sorted({task["notebook"] for task in tasks})
