"""The reader of tutorials: cells, line numbers, failures, notebooks."""

import json
import re

import pytest

from refimpl.lab import tutorials
from refimpl.lab.errors import RunError, UsageError

TEXT = """---
kernelspec:
  name: python3
---

# A title

Prose with {func}`refimpl.ops.linear` and {eq}`one`.

$$
a = b
$$ (one)

```python
```{code-cell} is not a cell inside another block
```

```{code-cell} ipython3
:tags: [hide-cell, x]

a = 1
```

:::{dropdown} Solution
Because.
:::

```{code-cell} ipython3
assert a == 1
b = a / 0
```
"""


def test_cells_are_prose_and_code_in_order_with_their_lines():
    found = tutorials.cells(TEXT)
    assert [c.code for c in found] == [False, True, False, True]
    lines = TEXT.split("\n")
    for c in found:
        assert lines[c.line - 1] == c.source.split("\n")[0]
    assert found[1].source.strip() == "a = 1"
    assert found[1].tags == ("hide-cell", "x")
    assert tutorials.title(TEXT) == "A title"


def test_a_cell_without_end_is_an_error():
    with pytest.raises(ValueError, match="line 3: this code cell has no end"):
        tutorials.cells("# t\n\n```{code-cell} ipython3\nx = 1\n")


def test_a_failing_cell_is_reported_with_file_and_line(tmp_path):
    file = tmp_path / "broken.md"
    file.write_text(TEXT, encoding="utf-8")
    line = TEXT.split("\n").index("b = a / 0") + 1
    with pytest.raises(RunError, match=rf"broken\.md, line {line}: ZeroDivisionError") as failed:
        tutorials.execute(file)
    assert "b = a / 0" in str(failed.value)


def test_a_syntax_error_is_reported_with_its_line(tmp_path):
    file = tmp_path / "broken.md"
    file.write_text("# t\n\n```{code-cell}\nx = 1\nx = = 2\n```\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"broken\.md, line 5: SyntaxError"):
        tutorials.execute(file)


@pytest.mark.parametrize(("body", "fails"), [("1 / 0", False), ("1 / 1", True)])
def test_a_cell_that_is_to_raise_must(tmp_path, body, fails):
    file = tmp_path / "raises.md"
    file.write_text(f"# t\n\n```{{code-cell}}\n:tags: [raises-exception]\n{body}\n```\n", encoding="utf-8")
    if fails:
        with pytest.raises(RunError, match="line 5: this cell is to raise an error"):
            tutorials.execute(file)
    else:
        assert tutorials.execute(file) >= 0


def test_cells_share_one_namespace_and_figures_are_drawn_and_closed(tmp_path):
    file = tmp_path / "figures.md"
    body = "import matplotlib.pyplot as plt\nplt.plot([1, 2])"
    file.write_text(
        f"# t\n\n```{{code-cell}}\n{body}\n```\n\n```{{code-cell}}\nassert not plt.get_fignums()\n```\n",
        encoding="utf-8",
    )
    tutorials.execute(file)


def test_a_notebook_has_the_cells_and_plain_markdown():
    made = json.loads(json.dumps(tutorials.notebook(TEXT)))
    assert made["nbformat"] == 4
    kinds = [c["cell_type"] for c in made["cells"]]
    assert kinds == ["markdown", "code", "markdown", "code"]
    assert len({c["id"] for c in made["cells"]}) == 4
    assert "`refimpl.ops.linear`" in made["cells"][0]["source"]
    assert "\\tag{one}\n$$" in made["cells"][0]["source"] and "and (one)." in made["cells"][0]["source"]
    assert re.search(r"<details><summary>Solution</summary>\s+Because\.\s+</details>", made["cells"][2]["source"])


def test_tutorials_are_found_by_name_with_and_without_number():
    assert tutorials.path("00-gradients-by-hand") == tutorials.path("gradients-by-hand")
    with pytest.raises(UsageError, match="no tutorial named 'nothing', expected one of 00-gradients-by-hand"):
        tutorials.path("nothing")


def test_published_results_are_found():
    assert tutorials.results("noprop")["slug"] == "noprop"
    with pytest.raises(RunError, match="no results of nothing are published yet"):
        tutorials.results("nothing")
