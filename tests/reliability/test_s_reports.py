"""S2: whatever a model, a data set or a problem's name says, the report shows it as text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from report.folders import write_run
from report.test_page import Parsed

from obverse.config.commands import ReportConfig
from obverse.report.write import report

PAYLOADS = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<iframe src=https://evil.example></iframe>",
    "<a href=javascript:alert(1)>x</a>",
    "<body onload=alert(1)>",
    "<style>*{display:none}</style>",
    "<link rel=stylesheet href=//evil.example/a.css>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<base href=https://evil.example/>",
    "<form action=//evil>",
    "<input autofocus onfocus=alert(1)>",
    "<math><mi xlink:href=javascript:alert(1)>",
    "<object data=x></object>",
    "<embed src=x>",
    '" onmouseover="alert(1)',
    "' onmouseover='alert(1)",
    "`onmouseover=alert(1)",
    "--><script>alert(1)</script>",
    "]]><x>",
    "{{ 7*7 }}{% for x in y %}",
    "${7*7}",
    "\u2028alert(1)\u2029",
    "</title><x>",
    "</textarea><x>",
    "<!--",
    "&lt;script&gt;",
    "\u202e</x>",
    "<plaintext>",
    "<ScRiPt>alert(1)</sCrIpT>",
]


def page_of(folder: Path) -> Parsed:
    (written,) = report(ReportConfig(run=folder))
    return Parsed(written)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Parsed:
    return page_of(write_run(tmp_path_factory.mktemp("plain") / "run", text="text", dataset="data"))


# every third in `make test`: scripts, handlers, attributes and comments are among them
@pytest.mark.parametrize(
    "payload",
    [pytest.param(text, marks=pytest.mark.slow) if number % 3 else text for number, text in enumerate(PAYLOADS)],
)
def test_s2_a_payload_adds_no_element_and_no_attribute(payload: str, plain: Parsed, tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run", text=payload, dataset=payload))
    shape = [(tag, sorted(attrs)) for tag, attrs in page.elements]
    assert shape == [(tag, sorted(attrs)) for tag, attrs in plain.elements]
    policy = [each["content"] for each in page.of("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert len(policy) == 1 and "default-src 'none'" in str(policy[0]) and "unsafe" not in str(policy[0])
    links = [value or "" for _, attrs in page.elements for name, value in attrs.items() if name in ("href", "src")]
    assert not [link for link in links if re.match(r"(?i)\s*(https?:|//|javascript:)", link)]
