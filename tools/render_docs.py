"""Renders the checkout's Markdown pages to HTML in build/docs, with links between them kept alive.

Run as `python -m tools.render_docs`, with markdown-it-py (a dependency of rich).
"""

import html
import re
import shutil
import sys
from pathlib import Path

from markdown_it import MarkdownIt

from tools.check_links import pages
from tools.steps import BUILD, ROOT

OUTPUT = BUILD / "docs"
STYLE = (
    "body{max-width:50rem;margin:2rem auto;padding:0 1rem;font:16px/1.5 sans-serif}"
    "pre{background:#f4f4f4;padding:.8rem;overflow:auto}"
    "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.3rem .6rem}img{max-width:100%}"
)
MARKDOWN_LINK = re.compile(r'(href="[^":]*)\.md((?:#[^"]*)?")')
LOCAL_IMAGE = re.compile(r'<img src="([^":]+)"')


def render(page: Path) -> Path:
    """Writes one page, and the images it shows, below OUTPUT; returns the HTML file."""
    target = OUTPUT / page.relative_to(ROOT).with_suffix(".html")
    target.parent.mkdir(parents=True, exist_ok=True)
    body = MarkdownIt("commonmark").enable("table").render(page.read_text(encoding="utf-8"))
    for image in LOCAL_IMAGE.findall(body):
        copy = target.parent / image
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(page.parent / image, copy)
    body = MARKDOWN_LINK.sub(r"\1.html\2", body)
    title = html.escape(page.stem)
    target.write_text(
        f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>\n{body}', encoding="utf-8"
    )
    return target


def main() -> int:
    """Renders every page."""
    shutil.rmtree(OUTPUT, ignore_errors=True)
    rendered = [render(page) for page in pages(ROOT)]
    print(f"{len(rendered)} pages in {OUTPUT.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
