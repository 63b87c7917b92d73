"""How Sphinx builds the course's site: `make site`, or `make site PROFILE=laptop` for the one that is published.

Nothing is fetched, by the build or by the pages: theme, icons and search come with the theme's wheel, formulae are
MathML (`docs/mathml.py`), and sliders, which would need a script from elsewhere, are left to the notebooks.
"""

import ast
import hashlib
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from sphinx import addnodes  # noqa: E402

import lora_ref  # noqa: E402
from autograder.publish.pages import write_pages  # noqa: E402
from lora_ref import profiles  # noqa: E402

project = "LoRA from scratch"
author = "the LoRA from scratch authors"
version = release = lora_ref.__version__
html_title = project
language = "en_GB"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "figure_text",
    "mathml",
]


def code_of(path: Path) -> str:
    """What a module does, without its comments and docstrings: rewording those draws no figure again."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:]
    return ast.dump(tree)


# --- The stages' pages: made from the masters, executed once, kept until something that they show can have changed
write_pages(ROOT, HERE / "stages")
profile = profiles.get(os.environ.setdefault("LORA_PROFILE", "tiny"))  # the notebooks' kernels inherit it
state = f"{sys.version} {torch.__version__} {np.__version__}"
state += "".join(code_of(path) for path in sorted(ROOT.glob("lora_ref/**/*.py")))
digest = hashlib.sha256(state.encode()).hexdigest()[:12]
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "build" / "site-cache" / f"{profile.name}-{digest}")
nb_execution_timeout = 1800  # seconds a cell: training on a laptop
nb_execution_raise_on_error = True
nb_output_stderr = "remove"  # progress bars, each of their states on a line of its own
nb_ipywidgets_js = {}  # else each page asks a content network for them

# --- Markdown and docstrings
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3
myst_substitutions = {
    "profile": f"It ran on the **{profile.name}** profile: {profile.base_model}; {profile.data}. {profile.meaning}"
}
myst_links_external_new_tab = False
suppress_warnings = ["mystnb.unknown_mime_type"]  # a widget's view; its figure is shown beside it
default_role = "py:obj"  # `name` in a docstring is a link where the name is documented
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # `methods=SMALL_METHODS`, not a line of what is in it
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_param = False  # "rank, alpha: ..." is two names, not a type and a name
napoleon_custom_sections = [("Attributes", "params_style")]
python_use_unqualified_type_names = True
copybutton_exclude = ".linenos, .gp, .go"

# --- How it looks
html_theme = "sphinx_book_theme"
html_theme_options = {
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "navbar_persistent": [],
    "use_download_button": False,
    "use_fullscreen_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_context = {"default_mode": "auto"}
html_static_path = ["_static"]
html_favicon = "_static/icon.svg"  # a tall matrix and a wide one
html_css_files = ["course.css"]
html_js_files = [("course.js", {"defer": "defer"})]
html_math_renderer = "mathml"
html_copy_source = False  # the sources of pages are the repository's business
html_show_sphinx = False
html_use_index = False  # search and the package's page find more, and it does not fit a telephone


def leave_out_long_values(app, domain, objtype, content) -> None:
    """A constant's value stands beside its name where it fits there."""
    for note in list(content.parent.findall(addnodes.desc_annotation)):
        if note.astext().startswith(" = ") and len(note.astext()) > 80:
            note.parent.remove(note)


def setup(app) -> None:
    """Leave the comments on a module's constants alone: napoleon would take what stands before a colon for a type."""
    app.connect("object-description-transform", leave_out_long_values)
    written = {}

    def keep(app, what, name, obj, options, lines):
        if what in ("data", "attribute"):
            written[name] = list(lines)

    def put_back(app, what, name, obj, options, lines):
        lines[:] = written.pop(name, lines)

    app.connect("autodoc-process-docstring", keep, priority=400)  # napoleon has 500
    app.connect("autodoc-process-docstring", put_back, priority=600)
