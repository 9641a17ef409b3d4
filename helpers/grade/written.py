"""What the notebooks of a copy hold: the answers, the saved cells beside their source, and the numbers that tables show."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from difflib import SequenceMatcher

from helpers.grade import cells as notebook_cells
from helpers.grade.cells import Cell, Code
from helpers.grade.submission import NOTEBOOK_LIMIT, Submission, Unreadable
from helpers.publish import notebooks
from helpers.results import deliverables
from helpers.results.records import Record
from helpers.results.verdicts import Verdict

WORDS_OF_AN_ANSWER = 15
PLACEHOLDER = re.compile(
    r"\b(your (answer|text|derivation|proof)|answer here|write (it|here|your)|to be written|lorem ipsum)\b", re.IGNORECASE)
# Scripts that are written without blanks between the words: a sign or two say as much as a word.
SIGNS = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\u0e00-\u0e7f]")
SIGNS_A_WORD = 1.5
FORMULA = re.compile(r"\$\$.{8,}?\$\$|\\\[.{8,}?\\\]|\\begin\{(align|equation|gather|multline|eqnarray|split|cases)", re.DOTALL)
PICTURE = re.compile(r"!\[[^\]]*\]\([^)]+\)|<img\s", re.IGNORECASE)
HEADING = re.compile(r"^\s*(#{1,6}\s|\*\*[^*]+\*\*\s*$|\*\*Answer)", re.IGNORECASE)
LIKE_ENOUGH, SHARE_PRESENT = 0.75, 0.5
PROFILE_PRINTED = re.compile(r"^profile: (smoke|quick|full)\b|: (?:recorded|done), (smoke|quick|full) profile", re.MULTILINE)


def absent(copy: Submission, file: str) -> str:
    """A sentence on a file that is not there, with what to do where files are looked for everywhere."""
    if not copy.search:
        return f"{file} is not there"
    number = copy.index.number
    looked = f"none of the {number:,} files handed in has that name" if number else "nothing was handed in"
    cut = ", and only the first of the files were looked at" if copy.index.cut else ""
    return f"{file} is not there: {looked}{cut}; hand in the folders results, figures and notebooks"


def prose_of(*sources: str) -> list[str]:
    """Digests of the Markdown that sources give, answers left out: where a copy has it below a question, it answers nothing."""
    cells = [cell for text in filter(None, sources) for cell in notebook_cells.of_source(text)]
    return sorted({_digest(cell) for cell in cells if cell.kind == "markdown" and not _tagged(cell)})


def _digest(cell: Cell) -> str:
    return hashlib.sha256(" ".join(cell.source.split()).encode()).hexdigest()[:16]


def answer(entry: dict, copy: Submission, given: Collection[str] = ()) -> tuple[str, list[str], str]:
    """Status, reasons and file of a written answer; ``given`` are digests of the course's own texts, see :func:`prose_of`."""
    file, tag = f"notebooks/{entry['notebook']}.ipynb", f"answer:{entry['id']}"
    cells = copy.cells(entry["notebook"])
    if not cells:
        text = copy.source(entry["notebook"])
        file = file if text is None else f"notebooks/{entry['notebook']}.py"
        cells = [] if text is None else notebook_cells.of_source(text)
    if not cells:
        return "missing", [absent(copy, file)], ""
    file = copy.place(file)
    found = answer_cells([cell for cell in cells if cell.kind != "markdown" or _digest(cell) not in given], entry, tag)
    if not found:
        return "missing", [f"{file} has no Markdown cell with the tag {tag} or with its question as a heading"], file
    text = "\n".join(cell.source for cell in found)
    attached = any(cell.attached for cell in found)
    if not is_answered(text, entry["text"], attached):
        return "fail", [f"unanswered: the cell {tag} is empty or unchanged"], file
    return "manual", [f"answered in {_said(text, attached)}; a person marks the text"], file


def answer_cells(cells: Sequence[Cell], entry: dict, tag: str) -> list[Cell]:
    """The cells of an answer: by its tag, else by its heading; with the Markdown below where they hold the question alone."""
    chosen = [index for index, cell in enumerate(cells) if cell.kind == "markdown" and tag in cell.tags]
    if not chosen:
        chosen = [index for index, cell in enumerate(cells) if cell.kind == "markdown" and not _tagged(cell)
                  and _is_heading_of(cell.source, entry)][:1]
    found = [cells[index] for index in chosen]
    if found and not is_answered("\n".join(cell.source for cell in found), entry["text"], any(cell.attached for cell in found)):
        for cell in cells[chosen[-1] + 1 :]:
            if cell.kind != "markdown" or _tagged(cell) or HEADING.match(cell.source):
                break
            found.append(cell)
    return found


def _tagged(cell: Cell) -> bool:
    return any(tag.startswith("answer:") for tag in cell.tags)


def _is_heading_of(text: str, entry: dict) -> bool:
    """Whether the first lines of a cell name the answer or repeat its question."""
    first = [line for line in text.splitlines() if line.strip()][:2]
    head = " ".join(first)
    if re.search(rf"\b{re.escape(entry['id'])}\b", head):
        return True
    wanted = _words(entry["text"])
    return any(HEADING.match(line) and _alike(_words(line), wanted) for line in first)


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text.lower()) if word not in ("answer", "question")]


def _alike(words: list[str], wanted: list[str]) -> bool:
    return bool(words) and SequenceMatcher(None, words, wanted, autojunk=False).ratio() >= LIKE_ENOUGH


def is_answered(text: str, question: str = "", attached: bool = False) -> bool:
    """Whether the text of an answer's cell says something beyond its heading, the question and a placeholder.

    A display formula or a picture is something to look at; words are counted in any script.
    """
    lines = [line for line in text.replace(question, "").splitlines()
             if not line.lstrip().startswith("#") and not re.match(r"\s*\*\*[^*]*\*\*\s*$", line)]
    body = re.sub(r"<!--.*?(-->|$)", "", "\n".join(lines), flags=re.S)
    if attached or FORMULA.search(body) or PICTURE.search(body):
        return True
    number = words_in(body)
    return number >= WORDS_OF_AN_ANSWER and not (PLACEHOLDER.search(body) and number < 3 * WORDS_OF_AN_ANSWER)


def words_in(text: str) -> int:
    """The number of words, where scripts without blanks between words are counted by their signs."""
    signs = len(SIGNS.findall(text))
    return len(re.findall(r"\w+", SIGNS.sub(" ", text))) + int(signs / SIGNS_A_WORD)


def _said(text: str, attached: bool) -> str:
    parts = [f"{words_in(text):,} words"]
    parts += ["a formula"] * bool(FORMULA.search(text)) + ["a picture"] * bool(attached or PICTURE.search(text))
    return " and ".join(parts)


def code_of(record: Record, copy: Submission) -> tuple[list[str], list[str]]:
    """Remarks and faults on the code that a record came from: it is judged against the notebook that was run."""
    notebook, function = record["notebook"], record["function"]
    if notebook not in {entry["notebook"] for entry in deliverables.asked_runs()}:
        return [], ["stale: there is no such notebook"]
    digests = {saved: copy.code_digest(notebook, function, saved=saved) for saved in (True, False)}
    there = {saved: copy.code(notebook, saved=saved) is not None for saved in (True, False)}
    if record["source"] not in digests.values():
        return [], ["stale: the code that the record came from has changed since"]
    if all(there.values()) and digests[True] != digests[False]:
        names = ", ".join(copy.differing(notebook, function)[:6]) or function
        if record["source"] == digests[False]:
            return [], [f"stale: the saved notebook is of other code than the record: {names[:200]}"]
        return [f"{names[:200]} differ from {notebook}.py: judged by the notebook"], []
    return [], []


def notebook(name: str, copy: Submission) -> tuple[str, list[str], str]:
    """Status, reasons and file of an executed notebook."""
    file = f"notebooks/{name}.ipynb"
    cells, place = copy.cells(name), copy.place(file)
    if not cells and copy.file(file, NOTEBOOK_LIMIT) is None:
        return "missing", [absent(copy, file)], ""
    if copy.search:
        remarks, faults = _code_remarks(name, copy)
        faults = [*_run_faults(cells), *faults]
    else:  # this suite: as strict as its own check
        found = notebooks.check(name, copy.root / "notebooks", copy.source_root / "notebooks")
        remarks, faults = [], [] if found.state == "fresh" else [f"{found.state}: {reason}" for reason in found.reasons]
    faults += wrong_prints(name, copy)
    if faults:
        return "fail", faults, place
    smaller = profiles_of(name, cells, copy) - {"full"}
    if smaller:
        return "partial", [f"run with the {' and '.join(sorted(smaller))} profile: SUITE_PROFILE=full asks for all"], place
    return "pass", remarks, place


def _run_faults(cells: Iterable[Cell]) -> Iterable[str]:
    """Whether the cells were run, from top to bottom, without an error; a count that begins later is no fault."""
    ran = [cell for cell in cells if cell.kind == "code" and cell.source.strip()]
    for number, cell in enumerate(ran, 1):
        if any(kind == "error" for kind, _ in cell.outputs):
            yield f"failed: code cell {number} ends in an error"
            return
    counts = [cell.count for cell in ran]
    if not counts or None in counts or counts != list(range(counts[0], counts[0] + len(counts))):
        yield "hollow: its cells were not run from top to bottom in one go"
    elif not any(cell.outputs for cell in ran):
        yield "hollow: it has no outputs"


def _code_remarks(name: str, copy: Submission) -> tuple[list[str], list[str]]:
    """Remarks and faults on the saved cells beside the source, one verdict with the runs of the notebook."""
    saved, source = copy.code(name, saved=True), copy.code(name, saved=False)
    if saved is None or source is None:
        return [], [] if saved else ["hollow: it has no code that can be read"]
    lost = [definition for definition in source.definitions if definition not in saved.definitions]
    if lost or _share_present(saved, source) < SHARE_PRESENT:
        what = ", ".join(lost[:6]) if lost else "most of the statements"
        word = "hollow" if 2 * len(lost) > len(source.definitions) or not lost else "stale"
        return [], [f"{word}: its saved cells lack {what[:200]} of {name}.py"]
    changed = [definition for definition, form in source.definitions.items() if saved.definitions[definition] != form]
    if not changed:
        return [], []
    older = [run_id for run_id, record in _records_of(name, copy) if code_of(record, copy)[1]]
    sentence = f"{', '.join(changed[:6])[:200]} differ from {name}.py"
    if older:
        return [], [f"stale: {sentence}, and {', '.join(older[:4])} were not made by the saved code"]
    return [f"{sentence}: judged by the notebook"], []


def _share_present(saved: Code, source: Code) -> float:
    there = set(saved.statements)
    return sum(statement in there for statement in source.statements) / max(1, len(source.statements))


def _records_of(name: str, copy: Submission) -> Iterable[tuple[str, Record]]:
    for entry in deliverables.asked_runs():
        if entry["notebook"] == name:
            try:
                record = copy.record(entry["id"])
            except Unreadable:
                continue  # said at the run
            if record is not None and record["notebook"] == name:
                yield entry["id"], record


def profiles_of(name: str, cells: Iterable[Cell], copy: Submission) -> set[str]:
    """The profiles that a notebook says it was run with: in its outputs, else in its stamp."""
    text = "\n".join(text for cell in cells for kind, text in cell.outputs if kind == "stdout")
    printed = {first or second for first, second in PROFILE_PRINTED.findall(text)}
    return printed or {str(copy.stamp(name).get("profile", "full"))[:20]}


def printed_numbers(notebook: str, copy: Submission) -> dict[tuple[str, str], list[str]]:
    """Run and metric -> every number that a saved notebook's tables show for it; said elsewhere where it cannot be read."""
    def read() -> dict[tuple[str, str], list[str]]:
        printed: dict[tuple[str, str], list[str]] = {}
        for row in notebook_cells.printed_rows(copy.cells(notebook)):
            printed.setdefault((row["run"], row["metric"]), []).append(row["ours"])
        return printed

    try:
        return copy.once(("printed", notebook), read)
    except Unreadable:
        return {}


def misprinted(entry: dict, record: Record, printed: dict[tuple[str, str], list[str]]) -> list[str]:
    """Metrics of a run that its notebook prints otherwise than the record has them."""
    wrong = []
    for metric in record.metrics:
        ours = Verdict(metric, record.metrics[metric], record.spread[metric]).measured
        for shown in printed.get((entry["id"], metric), ()):
            if shown.strip("* ") != ours:
                wrong.append(f"{metric} of {entry['id']}: the notebook prints {shown[:40]}, the record has {ours}")
                break
    return wrong


def wrong_prints(name: str, copy: Submission) -> list[str]:
    """Numbers in a notebook's tables of results that are missing, or not those of the records."""
    printed, wrong = printed_numbers(name, copy), []
    for run_id, record in _records_of(name, copy):
        entry = deliverables.entry(run_id)
        asked = [metric for metric in entry.get("metrics", {}) if metric in record.metrics]
        wrong += [f"no table shows {metric} of {run_id}" for metric in asked if (run_id, metric) not in printed]
        wrong += misprinted(entry, record, printed)
    return wrong[:12]
