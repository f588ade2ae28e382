"""Adapts the pages, which are also read on GitHub, to the site's Markdown."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"(\]\()((?:\.\./)+[^)\s]*)(\))")
_FOLDED = re.compile(r"^<details>", re.MULTILINE)


def on_config(config: Any) -> Any:
    """Replaces each pattern in `nav` by pages that no entry and no longer pattern names."""
    docs = Path(config["docs_dir"])
    entries = _entries(config["nav"])
    patterns = sorted((entry for entry in entries if "*" in entry), key=len, reverse=True)
    taken = set(entries)
    pages: dict[str, list[str]] = {}
    for pattern in patterns:
        found = sorted(path.relative_to(docs).as_posix() for path in docs.glob(pattern))
        pages[pattern] = [path for path in found if path not in taken]
        taken.update(found)
    config["nav"] = _expanded(config["nav"], pages)
    return config


def _entries(part: Any) -> list[str]:
    """The paths and patterns in a part of `nav`."""
    if isinstance(part, str):
        return [part]
    parts = part.values() if isinstance(part, dict) else part
    return [entry for each in parts for entry in _entries(each)]


def _expanded(part: Any, pages: dict[str, list[str]]) -> Any:
    if isinstance(part, dict):
        return {title: _expanded(each, pages) for title, each in part.items()}
    if not isinstance(part, list):
        return part
    expanded: list[Any] = []
    for each in part:
        if isinstance(each, str) and each in pages:
            expanded += pages[each]
        else:
            expanded.append(_expanded(each, pages))
    return expanded


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
