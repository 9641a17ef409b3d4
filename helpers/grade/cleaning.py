"""What a student wrote, before it reaches a console, a table, a page or a spreadsheet: cleaned and cut."""

from __future__ import annotations

import re
import unicodedata

LONGEST, MOST_MARKS = 300, 2
FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r", "|", "%")
# Control characters, marks of direction, invisible characters, halves of pairs and what is not assigned to anything.
LEFT_OUT = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})


def clean(text: object, longest: int = LONGEST) -> str:
    """A text on one line, of printable characters, at most so long; what was left out is a blank or a question mark."""
    kept, marks = [], 0
    for character in str(text)[: 4 * longest]:
        kind = unicodedata.category(character)
        marks = marks + 1 if kind in ("Mn", "Me") else 0
        if kind in LEFT_OUT or kind in ("Zl", "Zp"):
            kept.append(" " if character.isspace() else "?" if kind != "Cf" else "")
        elif marks <= MOST_MARKS:
            kept.append(character)
    line = re.sub(r"\s+", " ", "".join(kept)).strip()
    return line if len(line) <= longest and len(str(text)) <= 4 * longest else line[: longest - 3].rstrip() + "..."


def cell(text: object, longest: int = LONGEST) -> str:
    """A text for a spreadsheet: never a formula."""
    line = clean(text, longest)
    return f"'{line}" if line.startswith(FORMULA_SIGNS) else line
