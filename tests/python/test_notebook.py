"""A search in a real kernel: progress in the cell while it goes on, the run with its figure as the cell's value."""

import re

import pytest

pytest.importorskip("ipykernel", reason="needs a Jupyter kernel")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient, a development tool")
nbformat = pytest.importorskip("nbformat", reason="needs nbclient, a development tool")

CELLS = (
    """
import torch
import flexor_search as fs

torch.set_num_threads(1)


class Net(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(16, 80), torch.nn.ReLU(), torch.nn.Linear(80, 2))


inputs = torch.randn(96, 16, generator=torch.Generator().manual_seed(0))
data = [(inputs[i::3], (inputs[i::3, 0] > 0).long()) for i in range(3)]
""",
    'run = fs.search(Net(), data, "0.7bpw", fs.Question(trials=2, epochs=1, seeds=1), out="run")',
    "run",
    "fs.plan(Net(), '0.7bpw')",
    "run.best().load()(inputs).shape, type(run.front()).__name__",
)


def test_progress_and_results_are_in_the_cells(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # an exception in a cell is raised here
    _, search, shown, plan, last = (cell.outputs for cell in client.nb.cells)
    (progress,) = (output for output in search if output.output_type == "display_data")  # one output, updated
    page = progress.data["text/html"]
    told = re.sub("<[^>]*>", "", page)
    assert "in all about" in told
    assert re.search(r"confirm [0-9]/[0-9]", told)
    assert "packed file verified" in told
    assert not [output for output in search if output.output_type == "stream"]
    html = shown[0].data["text/html"]
    assert "<svg" in html
    assert "chosen" in html
    assert "may_take" in plan[0].data["text/html"]
    assert last[0].data["text/plain"] == "(torch.Size([96, 2]), 'DataFrame')"
    assert (tmp_path / "run" / "report.html").exists()
