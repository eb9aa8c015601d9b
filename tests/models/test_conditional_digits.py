"""The example that draws digits as asked."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLE = Path(__file__).parents[2] / "examples" / "conditional_digits.py"


@pytest.mark.slow
def test_the_conditional_example_draws_what_it_is_asked_for(tmp_path):
    """Above 95 % of 2,000 draws by more than 4 binomial standard errors (0.49 % at 95 %)."""
    done = subprocess.run([sys.executable, EXAMPLE, "--out", tmp_path], capture_output=True, text=True, check=True)
    share = float(re.search(r"samples classified as asked: ([\d.]+)", done.stdout)[1])
    assert share > 95 + 4 * 0.49
    sizes = {path.name: Image.open(path).size for path in tmp_path.glob("*.png")}
    assert sizes == {
        "samples.png": (502, 502),
        "from_3_to_8.png": (602, 302),
        "analogies.png": (502, 502),
        "traversal.png": (1002, 1002),
    }
