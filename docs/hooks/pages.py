"""Adapts the pages, which are also read on GitHub, to the site's Markdown."""

from __future__ import annotations

import posixpath
import re
from typing import Any

_LINK = re.compile(r"(\]\()((?:\.\./)+[^)\s]*)(\))")
_FOLDED = re.compile(r"^<details>", re.MULTILINE)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Points links that leave docs/ to the repository, and renders Markdown inside <details>."""
    folder = posixpath.dirname(posixpath.join("docs", page.file.src_uri))

    def absolute(match: re.Match[str]) -> str:
        path, mark, anchor = match[2].partition("#")
        target = posixpath.normpath(posixpath.join(folder, path))
        if target.startswith("docs/"):
            return match[0]
        return f"{match[1]}{config['repo_url']}/blob/main/{target}{mark}{anchor}{match[3]}"

    markdown = _LINK.sub(absolute, markdown)
    return _FOLDED.sub('<details markdown="1">', markdown)
