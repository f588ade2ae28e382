"""Adapts the pages, which are also read on GitHub, to the site's Markdown."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"(\]\()((?:\.\./)+[^)\s]*)(\))")
_FOLDED = re.compile(r"^<details>", re.MULTILINE)


def on_config(config: Any) -> Any:
    """Replaces a pattern in `nav`, such as results/*.md, by the pages that no other entry names."""
    docs = Path(config["docs_dir"])
    config["nav"] = _expanded(config["nav"], docs, set(_named(config["nav"])))
    return config


def _named(entry: Any) -> list[str]:
    """The paths in a part of `nav`."""
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [path for part in parts for path in _named(part)]


def _expanded(entry: Any, docs: Path, named: set[str]) -> Any:
    if isinstance(entry, dict):
        return {title: _expanded(part, docs, named) for title, part in entry.items()}
    if not isinstance(entry, list):
        return entry
    pages: list[Any] = []
    for part in entry:
        if isinstance(part, str) and "*" in part:
            found = sorted(path.relative_to(docs).as_posix() for path in docs.glob(part))
            pages += [path for path in found if path not in named]
        else:
            pages.append(_expanded(part, docs, named))
    return pages


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
