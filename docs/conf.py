"""Settings of Sphinx for the book. docs/check.sh builds it."""

import sys
from pathlib import Path

import flowreg
from pygments.lexers.rust import RustLexer
from sphinx.highlighting import lexers

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "flowreg"
author = "the authors of flowreg"
copyright = "the authors of flowreg; MIT or Apache-2.0"
release = version = flowreg.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "program_help",
]
exclude_patterns = ["_build"]

# Headings down to this level can be linked as page.md#heading.
myst_heading_anchors = 3

# A reference to a class or function that is not there is a warning, and warnings are errors.
nitpicky = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = False
napoleon_use_rtype = False
# As a list, like parameters, instead of an entry for each.
napoleon_custom_sections = [("Attributes", "params_style")]

# rustdoc's word for code that is compiled but not run is part of the block's language.
lexers["rust,no_run"] = RustLexer()

# Quotation marks are those of the source, as in 'newton'.
smartquotes = False

html_theme = "furo"
html_title = "flowreg"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_copy_source = False
html_show_sphinx = False

# In docstrings a name in single backticks is a link where the package has it, and else code.
default_role = "py:obj"
# The names of types and parameters that are no links.
nitpick_ignore_regex = [(r"py:.*", r"(?!flowreg\b).*")]
python_maximum_signature_line_length = 80
add_module_names = False
