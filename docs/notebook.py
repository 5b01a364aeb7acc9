"""Makes from_keras.ipynb of from_keras.md, and runs it from top to bottom."""

import re
import tempfile
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

PAGE = Path(__file__).with_name("from_keras.md")


def notebook() -> Any:
    """The page as a notebook without outputs: what the page prints goes, and every figure that is saved is shown."""
    text = re.sub(r"```text\n.*?```\n", "", PAGE.read_text(), flags=re.DOTALL)
    text = text.replace("```r\n", "```r .noeval\n")  # which stays text
    made = jupytext.reads(text, fmt="md")
    made.cells = [cell for one in made.cells for cell in (one, *shown(one))]
    for number, cell in enumerate(made.cells):
        cell.source = cell.source.replace("```r .noeval\n", "```r\n")
        cell["id"] = f"cell-{number}"
    made.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    made.nbformat, made.nbformat_minor = 4, 5
    return made


def shown(cell: Any) -> list[Any]:
    """A cell that shows the figure that a cell has saved."""
    name = re.search(r'figures\.save\(.*Path\("(\w+\.png)"\)\)', cell.source) if cell.cell_type == "code" else None
    code = f'from IPython.display import Image\n\nImage("{name[1]}", width=480)' if name else ""
    return [nbformat.v4.new_code_cell(code)] if name else []


def run(made: Any) -> Any:
    """The notebook with its outputs, without warnings."""
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(made, timeout=600, coalesce_streams=True, resources={"metadata": {"path": folder}}).execute()
    for cell in made.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    return made


if __name__ == "__main__":
    nbformat.write(run(notebook()), PAGE.with_suffix(".ipynb"))
