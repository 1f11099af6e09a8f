"""The site's configuration with its navigation: the named pages, then all others in the section of their folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

CONFIGURATION = Path(__file__).with_name("zensical.yml")
SECTIONS = {"start": "Start"}  # of pages that are not named, by first folder; others are guides
LINKED = "Linked files"  # pages of the repository's files that are not named
INDEX = "README.md"
BUILT = "site"  # the folder of the written pages, beside the configuration


def configuration(pages: Mapping[str, str]) -> dict[str, Any]:
    """The configuration for Zensical, with every page in the navigation; `pages` are titles by path.

    Exits with a line if the navigation names a page that does not exist.
    """
    values: dict[str, Any] = yaml.safe_load(CONFIGURATION.read_text(encoding="utf-8"))
    nav = [{name: completed(entry, pages)} for name, entry in entries(values["nav"])]
    named = set(paths(nav))
    if missing := sorted(named - pages.keys()):
        sys.exit(f"{CONFIGURATION.name}: no such pages: {', '.join(missing)}")
    by_section = {name: entry for item in nav for name, entry in item.items()}
    linked = sorted(path for path in pages.keys() - named if path.startswith("repository/"))
    by_section["Project"] += [{LINKED: linked}] if linked else []
    for path in sorted(pages.keys() - named - {*linked}):
        by_section[SECTIONS.get(path.partition("/")[0], "Guides")].append(path)
    values["nav"] = nav
    values["site_dir"] = BUILT
    values["docs_dir"] = "docs"
    return values


def entries(nav: list[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    for item in nav:
        yield from item.items()


def completed(entry: Any, pages: Mapping[str, str]) -> Any:
    """An entry of the navigation with the pages of a folder in place of its name."""
    return entry if isinstance(entry, list) or entry.endswith(".md") else folder_pages(entry, pages)


def folder_pages(folder: str, pages: Mapping[str, str]) -> list[Any]:
    """The pages of a folder, its README.md first, the others by title."""
    members = [path for path in pages if path.startswith(f"{folder}/")]
    return sorted(members, key=lambda path: (not path.endswith(f"/{INDEX}"), pages[path].lower()))


def paths(nav: Any) -> Iterator[str]:
    """Every page that a navigation names."""
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, list):
        for item in nav:
            yield from paths(item)
    else:
        for item in nav.values():
            yield from paths(item)
