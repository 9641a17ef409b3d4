"""What is handed in from a Colab runtime: one zip of results, figures, sources and the notebook, as the grade reads them."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from helpers import settings
from helpers.files import write_atomically
from helpers.publish import percent
from helpers.results import sources

SECONDS = 20  # to wait for Colab's answer
KEPT = ("results", "figures")


def typed_cells() -> list[str]:
    """The cells of this session as they were typed; none where there is no session, as in a script."""
    shell = sys.modules["IPython"].get_ipython() if sys.modules.get("IPython") else None
    return [] if shell is None else [cell for cell in sources.typed(shell) if cell.strip()]


def end_line(cells: Sequence[str]) -> str:
    """The line by which a saved notebook tells that its outputs are of its code."""
    return f"run to its end, code {percent.code_digest(cells)}"


def pack(output: Path, name: str, cells: Sequence[str]) -> tuple[Path, int, bool]:
    """Write the zip.

    Args:
        output: folder of ``results/`` and ``figures/``.
        name: of the notebook that is open.
        cells: of the session, as they were typed.

    Returns:
        The zip's path, the number of its files, and whether this notebook is among them.
    """
    files = [path for name in KEPT for path in sorted((output / name).rglob("*"))
             if path.is_file() and not any(part.startswith((".", "__MACOSX")) for part in path.relative_to(output).parts)]
    written = {path.relative_to(output).as_posix(): path for path in files}
    written |= {f"notebooks/{path.name}": path for path in sorted((settings.PROJECT_ROOT / "notebooks").glob("[0-9]_*.py"))}
    notebook = this_notebook(cells)

    def write(stream) -> None:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
            for place, path in written.items():
                archive.write(path, place)
            if notebook is not None:
                archive.writestr(f"notebooks/{name}.ipynb", json.dumps(notebook, ensure_ascii=False, indent=1) + "\n")

    target = output / "hand_in.zip"
    write_atomically(target, write)
    return target, len(written) + (notebook is not None), notebook is not None


def this_notebook(cells: Sequence[str]) -> dict | None:
    """The notebook that is open in Colab, None where Colab does not give it.

    Its last cell is running as this is called, so Colab has neither its number nor its output yet: they are added.
    """
    try:
        from google.colab import _message

        content = _message.blocking_request("get_ipynb", request="", timeout_sec=SECONDS)["ipynb"]
        code = [cell for cell in content["cells"] if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
        code[-1]["execution_count"] = code[-2]["execution_count"] + 1
        code[-1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": [end_line(cells) + "\n"]}]
    except Exception:  # a part of Colab that is not documented: whatever it does, results and figures are packed
        return None
    return content
