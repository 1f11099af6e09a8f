"""The links and resources of built HTML pages: every internal one must exist, and nothing may load from a network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

RESOURCES = {  # by tag: the attribute that makes a browser load a file
    "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src", "embed": "src",
    "object": "data", "image": "href", "use": "href",
}  # fmt: skip
LOADING_RELATIONS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "manifest"}
FETCHED = {"mermaid", "glightbox", "pyodide"}  # classes for which the theme's script loads a library from a network
IN_STYLE = re.compile(r"(?:url\(|@import)\s*['\"]?\s*((?:https?:)?//[^'\")\s]+)", re.IGNORECASE)


@dataclass
class HtmlPage(HTMLParser):
    """A page's links, resources and anchors."""

    links: list[str] = field(default_factory=list)
    resources: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    fetched: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        self.fetched |= FETCHED & set(values.get("class", "").split())
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if RESOURCES.get(tag, "") in values:
            self.resources.append(values[RESOURCES[tag]])
        if tag == "link" and LOADING_RELATIONS & set(values.get("rel", "").split()):
            self.resources.append(values.get("href", ""))


def check(site: Path) -> list[str]:
    """The broken links, missing files and external resources of a built site, a line each."""
    site = site.resolve()
    pages = {path: parse(path) for path in sorted(site.rglob("*.html"))}
    problems = [
        f"{path.relative_to(site)}: {problem}" for path in pages for problem in page_problems(path, pages, site)
    ]
    for path in sorted(site.rglob("*.css")):
        urls = IN_STYLE.findall(path.read_text(encoding="utf-8"))
        problems += [f"{path.relative_to(site)}: loads {url}" for url in urls]
    return problems


def parse(path: Path) -> HtmlPage:
    page = HtmlPage()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def page_problems(path: Path, pages: dict[Path, HtmlPage], site: Path) -> Iterator[str]:
    """What is wrong with the links and resources of one page."""
    page = pages[path]
    yield from (f"loads a library for class {name}" for name in sorted(page.fetched))
    for address in page.resources:
        if is_external(address):
            yield f"loads {address}"
        elif not address.startswith("data:") and not target_of(path, address, site).is_file():
            yield f"{address}: no such file"
    for address in page.links:
        if is_external(address):
            if (reason := address_error(address)) is not None:
                yield f"{address}: {reason}"
            continue
        target = target_of(path, address, site)
        anchor = unquote(urlsplit(address).fragment)
        if not target.is_file():
            yield f"{address}: no such page"
        elif anchor and target in pages and anchor not in pages[target].anchors:
            yield f"{address}: no such anchor"


def is_external(address: str) -> bool:
    """Whether an address names a scheme or a host; `data:` content is part of the page."""
    parts = urlsplit(address)
    return bool(parts.netloc) or parts.scheme not in ("", "data")


def address_error(address: str) -> str | None:
    """Why an external address cannot be right; None if its syntax is valid. Nothing is requested."""
    parts = urlsplit(address)
    if parts.scheme == "mailto":
        return None if "@" in parts.path else "no address"
    if parts.scheme not in ("http", "https"):
        return "expects http or https"
    return None if "." in parts.netloc or parts.hostname in ("localhost",) else "no host"


def target_of(path: Path, address: str, site: Path) -> Path:
    """The file that an internal address of a page leads to; a leading slash is the site's folder."""
    location = unquote(urlsplit(address).path)
    folder = site if location.startswith("/") else path.parent
    target = (folder / location.lstrip("/")).resolve() if location else path
    return target / "index.html" if target.is_dir() else target
