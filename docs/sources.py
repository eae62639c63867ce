"""Pages of source files: a link from a page to a file of the repository leads to its text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx.addnodes import download_reference, pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

ROOT = Path(__file__).parent.parent


def show_sources(app: Sphinx, tree: nodes.document) -> None:
    """Make links to text files lead to pages of theirs; of a folder the name is shown."""
    shown: dict[str, set[str]] = app.env.__dict__.setdefault("shown_sources", {})
    for link in list(tree.findall(pending_xref)):
        _, name = app.env.relfn2path(link["reftarget"], app.env.docname)
        if link.get("reftype") == "myst" and Path(name).is_dir():
            link.replace_self(link.children)
    for link in list(tree.findall(download_reference)):
        _, name = app.env.relfn2path(link["reftarget"], link["refdoc"])
        file = Path(name).resolve()
        if file.is_file() and file.is_relative_to(ROOT) and file.suffix != ".png":
            path = file.relative_to(ROOT).as_posix()
            shown.setdefault(app.env.docname, set()).add(path)
            reference = nodes.reference("", "", internal=True, source_page=path)
            reference += link.children
            link.replace_self(reference)


def locate_sources(app: Sphinx, tree: nodes.document, page: str) -> None:
    """Write the address of a source page into the links to it."""
    for link in tree.findall(lambda node: isinstance(node, nodes.reference)):
        if "source_page" in link:
            link["refuri"] = app.builder.get_relative_uri(page, f"source/{link['source_page']}")


def source_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each file that is linked."""
    paths = set().union(*app.env.__dict__.get("shown_sources", {}).values())
    for path in sorted(paths):
        text = (ROOT / path).read_text(encoding="utf-8")
        try:
            lexer = get_lexer_for_filename(path)
        except ClassNotFound:
            lexer = TextLexer()
        body = f"<h1>{path}</h1>\n{highlight(text, lexer, HtmlFormatter())}"
        yield f"source/{path}", {"title": path, "body": body}, "page.html"


def forget(app: Sphinx, env: BuildEnvironment, page: str) -> None:
    """Forget what a page linked before it is read again."""
    env.__dict__.get("shown_sources", {}).pop(page, None)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.add_lexer("arrows", TextLexer)
    app.connect("env-purge-doc", forget)
    app.connect("doctree-read", show_sources, priority=400)  # before downloads are collected
    app.connect("doctree-resolved", locate_sources)
    app.connect("html-collect-pages", source_pages)
    return {"parallel_read_safe": False}
