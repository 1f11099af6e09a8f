"""The Markdown pages of the site: those of docs/, generated ones, and the repository's files that they link to."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from os.path import normpath, relpath
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from recipes.site import choice, reference
from recipes.site.drawing import CSS, inline
from recipes.site.notebook_page import notebook_page
from recipes.site.package_map import package_map

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
FENCE = re.compile(r"^ *(```+|~~~+)")
UNTIL_END = r"\n(?:.*\n)*?<!-- end -->"  # what a repository host shows in place of the section or table
INCLUDE = re.compile(rf"<!-- (\S+\.md): (.+) -->{UNTIL_END}")
BLOCK = re.compile(rf"<!-- generated: (\w+) -->{UNTIL_END}")
MERMAID = re.compile(r"```mermaid\n.*?```", re.DOTALL)
EXTERNAL = re.compile(r"^[a-z][a-z0-9+.-]*:|^//", re.IGNORECASE)
PATH_TEXT = re.compile(r"[\w./-]+\.md")  # a link's text that is a file's name becomes the page's title
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json", ".sh": "bash"}
PROJECT = ("CONTRIBUTING.md", "CHANGELOG.md", "recipes/README.md", "examples/one_file.py")  # files of the repository
REPOSITORY = "repository"  # the site's folder for files of the repository outside docs/
ASSETS = [Path(__file__).with_name(name) for name in ("site.css", "iframe-worker.js")]
PACKAGE_MAP = (
    "The packages in their order, later ones above: an arrow leads to what a package imports, unless a longer path "
    "implies it"
)


@dataclass
class Site:
    """The pages by their path in the site, and the repository's files that are still to be added."""

    root: Path
    target: Path
    pages: dict[str, str] = field(default_factory=dict)  # title by path: "methods/hpt.md"
    pending: list[str] = field(default_factory=list)  # paths in the repository
    files: set[str] = field(default_factory=set)

    def write(self, path: str, text: str, source: str) -> None:
        """Write the page `path`; the links in `text` are relative to the repository's file `source`."""
        text = "".join(self.resolved(text, path, source))
        self.pages[path] = title(text)
        file = self.target / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def resolved(self, text: str, path: str, source: str) -> Iterator[str]:
        """The lines of a page with the links that lead from `path` in the site to the same files."""
        fence = ""
        for line in text.splitlines(keepends=True):
            if match := FENCE.match(line):
                if not fence:
                    fence = match[1]
                elif match[1].startswith(fence):
                    fence = ""
                yield line
            elif fence or line.startswith("    "):
                yield line
            else:
                yield LINK.sub(lambda link: self.link(link, path, source), line)

    def link(self, link: re.Match[str], path: str, source: str) -> str:
        """A link of a page as it is in the site; a drawing as the SVG element itself."""
        mark, text, target = link[1], link[2], link[3]
        if EXTERNAL.match(target) or target.startswith("#"):
            return link[0]
        location, hash_sign, anchor = target.partition("#")
        in_repository = normpath(PurePosixPath(source).parent / unquote(location))
        file = self.root / in_repository
        is_page = in_repository in self.generated
        if not is_page and not file.exists():
            sys.exit(f"{source}: {target}: there is no such file")
        if mark and file.suffix == ".svg":
            return inline(file.read_text(encoding="utf-8"), text)
        if mark and (dark := file.with_name(file.name.replace("-light.", "-dark."))) != file and dark.is_file():
            place = relpath(self.site_path(in_repository), PurePosixPath(path).parent)
            schemes = (place, "light"), (place.replace("-light.", "-dark."), "dark")
            return "".join(f"![{text}]({picture}#only-{scheme})" for picture, scheme in schemes)
        if PATH_TEXT.fullmatch(text) and file.suffix == ".md":
            text = title(file.read_text(encoding="utf-8")) or text
        in_site = in_repository.removeprefix("docs/") if is_page else self.site_path(in_repository)
        return f"{mark}[{text}]({relpath(in_site, PurePosixPath(path).parent)}{hash_sign}{anchor})"

    @property
    def generated(self) -> set[str]:
        """Pages of the reference as paths below docs/, where hand-written pages expect them."""
        return {f"docs/{path}" for path in reference.PAGES}

    def site_path(self, in_repository: str) -> str:
        """The path in the site of a file of the repository, which becomes a page if it is not below docs/."""
        if in_repository == "README.md":
            return "index.md"
        if in_repository.startswith("docs/"):
            if (self.root / in_repository).is_dir():
                return f"{in_repository.removeprefix('docs/')}/README.md"
            return in_repository.removeprefix("docs/")
        path = f"{in_repository}/README.md" if (self.root / in_repository).is_dir() else in_repository
        self.pending.append(path)
        is_page = not path.endswith((".png", ".svg"))
        return f"{REPOSITORY}/{path.removesuffix('.md')}.md" if is_page else f"{REPOSITORY}/{path}"


def assemble(root: Path, target: Path) -> dict[str, str]:
    """Write the site's sources into `target`; returns the title of every page by its path.

    Exits with a line if a page links to a file that does not exist or includes a section that does not exist.
    """
    site = Site(root, target)
    for source in sorted((root / "docs").rglob("*")):
        path = source.relative_to(root / "docs").as_posix()
        if source.suffix == ".md":
            site.write(path, with_blocks(source.read_text(encoding="utf-8"), root, path), f"docs/{path}")
        elif source.is_file() and source.suffix != ".py":
            copy(source, target / path)
    for path, make in reference.PAGES.items():
        site.write(path, make(), f"docs/{path}")
    site.pending += PROJECT
    while site.pending:
        add_file(site, site.pending.pop())
    (target / "pictures.css").write_text(CSS, encoding="utf-8")
    for asset in ASSETS:
        copy(asset, target / asset.name)
    return site.pages


def add_file(site: Site, path: str) -> None:
    """Add a file of the repository: Markdown and pictures as they are, others as a page with their text."""
    if path in site.files:
        return
    site.files.add(path)
    source = site.root / path
    page = f"{REPOSITORY}/{path.removesuffix('.md')}.md"
    if source.suffix in (".png", ".svg"):
        copy(source, site.target / REPOSITORY / path)
    elif source.suffix == ".ipynb":
        site.write(page, notebook_page(source), path)
    elif source.suffix == ".md":
        site.write(page, source.read_text(encoding="utf-8"), path)
    else:
        text, fence = source.read_text(encoding="utf-8"), "`" * 6
        language = LANGUAGES.get(source.suffix, "text")
        site.write(page, f"# {path}\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n", path)


def with_blocks(text: str, root: Path, path: str) -> str:
    """A page of docs/ with included sections, generated blocks and the package map in place of their marks."""
    blocks: dict[str, Callable[[], str]] = choice.blocks(root)

    def section_of(mark: re.Match[str]) -> str:
        body = section((root / mark[1]).read_text(encoding="utf-8"), mark[2], f"docs/{path}")
        return LINK.sub(lambda link: moved(link, mark[1], f"docs/{path}"), body)

    text = INCLUDE.sub(section_of, text)
    text = BLOCK.sub(lambda mark: blocks[mark[1]](), text)
    return MERMAID.sub(lambda _: inline(package_map(), PACKAGE_MAP), text)


def moved(link: re.Match[str], source: str, page: str) -> str:
    """A relative link of the file `source` as a link of `page`, into which its text is included."""
    if EXTERNAL.match(link[3]) or link[3].startswith("#"):
        return link[0]
    target = PurePosixPath(source).parent / link[3]
    return f"{link[1]}[{link[2]}]({relpath(target, PurePosixPath(page).parent)})"


def section(text: str, heading: str, page: str) -> str:
    """The body of a `## heading` of a Markdown text; exits with a line for `page` if there is none."""
    body = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    if body is None:
        sys.exit(f"{page}: the included file has no section {heading!r}")
    return body[1].strip()


def title(text: str) -> str:
    """The first heading of a page."""
    heading = re.search(r"^# (.+)$", text, re.MULTILINE)
    return heading[1].strip() if heading else ""


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
