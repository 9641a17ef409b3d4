"""Texts, names and definitions in LaTeX."""

from __future__ import annotations

import re

SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "×": r"$\times$",
           "–": "--", "—": "---", "é": r"\'e", "<": r"\textless{}", ">": r"\textgreater{}",
           **{sign: f"\\{sign}" for sign in "&%$#_{}"}}


def escape(text: object) -> str:
    """A text with LaTeX's special characters made harmless; characters that the fonts lack become question marks."""
    return "".join(SPECIAL.get(sign, sign if sign.isascii() else "?") for sign in str(text))


def typeset(number: str) -> str:
    """A number in words of :mod:`helpers.publish.wording` for LaTeX: with a minus sign, and powers of ten raised."""
    text = re.sub(r"(\d(?:\.\d+)?)e-0*(\d+)", r"\\ensuremath{\1\\times10^{-\2}}", number)
    return re.sub(r"(?<![\w{^])-(?=\d)", r"\\ensuremath{-}", text).replace("±", r"$\pm$").replace(",", r"\,")


def code(text: str) -> str:
    """A name in typewriter type, which may break after an underscore."""
    return r"\texttt{" + escape(text).replace(r"\_", r"\_\allowbreak{}") + "}"


def plain(value: object, digits: int = 10) -> str:
    """A value of a configuration for prose: whole numbers with thin spaces, others as short as they are exact."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return escape(value)
    if float(value).is_integer() and abs(value) >= 1:
        return f"{int(value):,}".replace(",", r"\,")
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    return mantissa if not exponent else rf"\ensuremath{{{mantissa}\times10^{{{int(exponent)}}}}}".replace(r"1\times", "")


def define(kind: str, *names: str, text: str) -> str:
    r"""One definition, found again by ``\lookup{kind}{name/...}``."""
    return rf"\expandafter\def\csname {kind}/{'/'.join(names)}\endcsname{{{text}}}"


def row(command: str, *cells: str) -> str:
    """A LaTeX command with its arguments."""
    return f"\\{command}" + "".join(f"{{{cell}}}" for cell in cells)
