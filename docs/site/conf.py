"""What Sphinx needs to know to make the site of the checkout's Markdown pages; `./dev docs` runs it."""

import re
from importlib import metadata

project = "Beeline"
release = version = metadata.version("beeline")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

# The pages stay where they are, so that their links hold in the checkout and on the site.
root_doc = "docs/site/index"
include_patterns = ["README.md", "CHANGELOG.md", "docs/**", "benchmarks/README.md", "examples/**/README.md"]
exclude_patterns = [".*", "build", "dist", "include", "python", "requirements", "shared", "src", "tests", "tools"]

# Headings get the anchors that GitHub gives them.
myst_heading_anchors = 4
# Docstrings mark code with single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False

# Of several arguments that share a line, Napoleon escapes the stars of the first alone.
STARS = re.compile(r", (\*{1,2})(?=\w)")

html_theme = "furo"
html_title = f"Beeline {version}"
html_copy_source = False
html_show_sourcelink = False


def mark_code(app, what, name, obj, options, lines):
    """Docstrings show code as Markdown does, by indenting it: reStructuredText wants that announced."""
    marked = []
    for at, line in enumerate(lines):
        is_block = line.startswith("    ") and at > 0 and not lines[at - 1].strip()
        before = next((earlier for earlier in reversed(lines[:at]) if earlier.strip()), "")
        if is_block and before and not before.startswith(" "):
            marked += ["::", ""]
        marked.append(STARS.sub(lambda match: ", " + match[1].replace("*", "\\*"), line))
    lines[:] = marked


def setup(app):
    """Before Napoleon (500), which knows sections alone."""
    app.connect("autodoc-process-docstring", mark_code, priority=400)
