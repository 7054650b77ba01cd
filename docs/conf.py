"""How Sphinx builds the site (`make docs`): the Markdown of the project, where it lies."""

import os

from pygments.lexers.special import TextLexer
from sphinx.highlighting import lexers

import genobird

project = "genobird"
version = release = genobird.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_show_copyright = False

# The sources are the whole project, so that a link that works between its files works on the site.
root_doc = "docs/index"
include_patterns = [
    *("docs/**", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data_manifests/README.md"),
    *("genobird/bundled/**README.md", "workflows/*/README.md"),
]
exclude_patterns = [".*", "docs/_build", "logs", "results", "runs", "tests"]
html_extra_path = ["index.html"]  # leads from the folder to the first page

myst_heading_anchors = 4
lexers["mermaid"] = TextLexer()  # drawn where the file is read, shown as text here
default_role = "code"  # docstrings have single backticks
autodoc_default_options = {"members": True, "exclude-members": "model_config"}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True

nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 1200  # of one cell, against hanging alone
nb_output_stderr = "remove-warn"  # a reader sees no warning, and the build fails by it
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm's, of bars that are not shown
