"""Sphinx settings: `sphinx-build docs docs/_build`."""

from likeli import __version__

project = "likeli"
release = __version__
extensions = ["myst_parser", "sphinx.ext.mathjax", "sphinx-mathjax-offline"]  # formulas need no network to be read
html_theme = "furo"
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
