"""Normalization of answers: Unicode signs as LaTeX, without styles, delimiters and invisible parts."""

from __future__ import annotations

import re
from functools import lru_cache

from obverse.rewards.boxes import unboxed, without_boxes

_SIGNS = {
    "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "-", "\u2212": "-", "\ufe63": "-",
    "\u00d7": "\\times ", "\u2715": "\\times ", "\u22c5": "\\cdot ", "\u2217": "*", "\u00f7": "/", "\u2215": "/",
    "\u2713": "", "\u2714": "", "\u2705": "", "\u220e": "", "\u2236": ":",
    "\u2044": "/", "\u00b7": "\\cdot ", "\u03c0": "\\pi ", "\u221e": "\\infty ", "\u2264": "\\le ",
    "\u2a7d": "\\le ", "\u2265": "\\ge ", "\u2a7e": "\\ge ", "\u2260": "\\ne ", "\u222a": "\\cup ",
    "\u2229": "\\cap ", "\u2208": "\\in ", "\u2205": "\\emptyset ", "\u211d": "\\mathbb{R}",
    "\u2124": "\\mathbb{Z}", "\u00b0": "^\\circ ", "\u00ba": "^\\circ ", "\u00b1": "\\pm ", "\u2213": "\\mp ",
    "\u2248": "\\approx ", "\u2261": "\\equiv ", "\u2032": "'", "\u2033": '"', "\u2019": "'", "\u2018": "'",
    "\u201c": '"', "\u201d": '"', "\u2026": "\\ldots ", "\u2220": "\\angle ", "\u25b3": "\\triangle ",
    "\u20ac": "\\euro ", "\u00a3": "\\pounds ", "\u00a5": "\\yen ", "\u20b9": "\\rupee ", "\u00a2": "\\cent ",
    "\u2126": "\\Omega ", "\u00b5": "\\mu ", "\u27e8": "\\langle ", "\u27e9": "\\rangle ", "\u2223": "|",
    "\u2308": "\\lceil ", "\u2309": "\\rceil ", "\u230a": "\\lfloor ", "\u230b": "\\rfloor ", "\u2192": "\\to ",
    "\u2227": "\\wedge ", "\u2228": "\\vee ", "\u00ac": "\\neg ", "\u2103": "^\\circ C", "\u3000": " ",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2007": " ", "\u2002": " ", "\u2003": " ", "\u200a": " ",
}  # fmt: skip
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi "
    "omicron pi rho varsigma sigma tau upsilon phi chi psi omega"
)
_HALVES = {
    "\u00bd": (1, 2), "\u2153": (1, 3), "\u2154": (2, 3), "\u00bc": (1, 4), "\u00be": (3, 4), "\u2155": (1, 5),
    "\u2156": (2, 5), "\u2157": (3, 5), "\u2158": (4, 5), "\u2159": (1, 6), "\u215a": (5, 6), "\u2150": (1, 7),
    "\u215b": (1, 8), "\u215c": (3, 8), "\u215d": (5, 8), "\u215e": (7, 8), "\u2151": (1, 9), "\u2152": (1, 10),
}  # fmt: skip
_UNICODE = str.maketrans(
    {
        **{chr(0x3B1 + index): f"\\{name} " for index, name in enumerate(_GREEK.split())},
        **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},
        **{sign: f"\\frac{{{top}}}{{{bottom}}}" for sign, (top, bottom) in _HALVES.items()},
        "\u03bc": "\\mu ",
        **_SIGNS,
    }
)
_ABOVE = dict(
    zip(
        "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b\u207d\u207e\u207f\u2071",
        "0123456789+-()ni",
        strict=True,
    )
)
_BELOW = dict(
    zip("\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089\u208a\u208b\u2099", "0123456789+-n", strict=True)
)
_RUNS = [
    (re.compile(f"[{''.join(signs)}]+"), mark, str.maketrans(signs)) for signs, mark in ((_ABOVE, "^"), (_BELOW, "_"))
]
_ROOT_SIGN = re.compile(
    "(\u221a|\u221b|\u221c)\\s*(?:\\(([^()]*)\\)|\\{([^{}]*)\\}|([0-9]+(?:\\.[0-9]+)?|[A-Za-z]|\\\\pi ))"
)
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad"
_CHINESE_DIGITS = {
    sign: str(value) for value, sign in enumerate("\u96f6\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d\u5341")
}

_REPLACED = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right|[Bb]igg?[lrm]?)(?![A-Za-z])\.?", ""),
        (
            r"\\(?:displaystyle|textstyle|limits|large|Large|LARGE|huge|Huge|small|normalsize|bfseries|bf|boldmath|itshape)(?![A-Za-z])",
            "",
        ),
        (r"\\textcolor\s*\{[^{}]*\}|\\color\s*(?:\{[^{}]*\}|\[[^\]]*\]\{[^{}]*\})|\\(?:tag|label)\*?\s*\{[^{}]*\}", ""),
        (r"\\(?:[xb]?cancel|sout|st)\s*\{[^{}]*\}", ""),
        (r"\\[hv]?phantom\s*\{[^{}]*\}", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\[dt]?binom\s*(?:\{([^{}]*)\}|([0-9])|\s([a-z]))\s*(?:\{([^{}]*)\}|([0-9a-z]))", r"\\binom{\1\2\3}{\4\5}"),
        (r"(?<=[0-9])\\,(?=[0-9]{3}(?![0-9]))", ","),  # 1\,080
        (r"(?<!\\)\\(?:[,;: ]|$)|\\q?quad(?![A-Za-z])|~", " "),  # after a backslash it is part of a line end
        (r"(?<!\\)\\[!()\[\]]", ""),
        (r"\{,\}", ","),
        (r"\{\}|\(\)", ""),
        (r"\\%", "%"),
        (r"\\(?:text|textrm|mathrm)\s*\{\s*\\?\$\s*\}", r"\\$"),
        (r"\\(?:text|textrm|mathrm)\s*\{\s*(\\(?:euro|pounds|yen|cent|rupee))\s*\}", r"\1 "),
        (r"\\(le|ge|ne)q(?:slant)?(?![A-Za-z])", r"\\\1"),
        (r"(?<![<>=!])<=(?![=>])", r"\\le "),
        (r"(?<![<>=!])>=(?![=<])", r"\\ge "),
        (r"\\not\s*=|\\not\s*\\(?:approx|equiv|sim|cong)(?![A-Za-z])", r"\\ne "),
        (r"(?:\\(?:checkmark|blacksquare|square|Box|qed|ldotp)(?![A-Za-z])\s*)+$", ""),
        (r"\\(?:lt)(?![A-Za-z])", "<"),
        (r"\\(?:gt)(?![A-Za-z])", ">"),
        (r"\\degree(?![A-Za-z])", r"^\\circ"),
        (r"\\var(epsilon|phi|theta|rho)(?![A-Za-z])", r"\\\1"),
        (r"\\(?:varnothing|empty)(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset"),
        (r"\\lg(?![A-Za-z])", r"\\log_{10}"),
        (r"\\log_\{?e\}?(?![A-Za-z])", r"\\ln"),
        (r"\{?([0-9]{1,3}|[a-z])\s*\\choose\s*([0-9]{1,3}|[a-z])\}?", r"\\binom{\1}{\2}"),
        (r"\\(?:underline|uline|emph)\s*\{([^{}]*)\}", r"\1"),
        (r"\\(?:dots|cdots|dotsc)(?![A-Za-z])", r"\\ldots"),
        (r"\\(?:lbrace)(?![A-Za-z])", r"\\{"),
        (r"\\(?:rbrace)(?![A-Za-z])", r"\\}"),
        (r"\\(?:math|text)(?:rm|bf|it|sf|up)?\s*\{\s*([eid])\s*\}|\\mathrm\s+([eid])(?![A-Za-z])", r"\1\2"),
        (r"\\(?:mathbf|boldsymbol|bm|vec|mathit)\s*(?:\{\s*([A-Za-z])\s*\}|\s([A-Za-z])(?![A-Za-z]))", r"\1\2"),
        (r"\\(?:math(?:rm|bf|it|sf)|textrm|textbf|textit)(?=\s*\{)", r"\\text"),
        (
            r"\\overline(?:\s*\{\s*|\s+)([A-Za-z])(?![A-Za-z])(?:\s*\})?|\\bar\s*\{\s*([A-Za-z])\s*\}|\\bar\s+([A-Za-z])(?![A-Za-z])",
            r"\\bar{\1\2\3}",
        ),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\sqrt(?:\s*([0-9])|\s+([A-Za-z])(?![A-Za-z]))", r"\\sqrt{\1\2}"),
        (r"\\sqrt\s*\[([^\[\]]{1,3})\]\s*([0-9A-Za-z])", r"\\sqrt[\1]{\2}"),
        (r"\\mathbin\s*\{\s*:\s*\}", ":"),
        (r"([0-9])\s*\\text\s*\{\s*and\s*\}\s*(?=\\frac|[0-9]+/)", r"\1 "),
        (
            r"_\s*\{?\s*\\text\s*\{\s*(?:base )?(?:two|2)\s*\}\s*\}?"
            r"|\\text\s*\{\s*\(?(?:in )?base (?:two|2)\)?\s*\}$",
            "_2",
        ),
        (r"\\(lbrack)(?![A-Za-z])", "["),
        (r"\\(rbrack)(?![A-Za-z])", "]"),
    )
]
_COMMAND = re.compile(r"[\\~{}<>()]|%")
_PART = r"(\{[^{}]*\}|[0-9]|\\(?!sqrt|frac)[A-Za-z]+|(?<=[\s\d}])[A-Za-z])"
_FRACTION_PARTS = re.compile(rf"\\frac\s*{_PART}\s*{_PART}")
_SAME_COMMAND = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:text|textrm|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}", r"\1"),
        (r"([\^_])\s*\{([A-Za-z0-9])\}", r"\1\2"),
        (r"(?<![0-9])\s+|\s+(?![0-9])", ""),  # spaces, except between two digits: 1 2 is not 12
    )
]
_TEXT_ONLY = re.compile(r"\\(?:text|mbox)\s*\{([^{}]*)\}")
_LEADING = re.compile(
    r"(?:=|\\text\s*\{\s*(?:the\s)?(?:total|sum|area|result|value|perimeter|volume)(?:\s[a-z]{1,12})?\s*:\s*\}|\\(?:approx|simeq|sim|therefore|implies|Rightarrow|to)(?![A-Za-z])|~"
    r"|(?:\\text\s*\{)?\s*(?:(?:the\s)?(?:final\s)?answer(?:\s*:|\s+is)"
    r"|ans(?:wer)?\s*[:=]|approximately|about|exactly|roughly)\s*:?\s*\}?)\s*",
    re.IGNORECASE,
)
_STRIPPED = " \t\r\n\f\v" + _INVISIBLE


@lru_cache(maxsize=4096)
def bare(text: str) -> str:
    """Return a formula without dollar signs, box, bold stars, braces and a final period around it."""
    text = (text if text.isascii() else in_latex(text)).strip(_STRIPPED).strip("*`").strip()
    if text.isascii() and text.isdigit():
        return text
    text = _without_dollars(without_boxes(unboxed(text)))
    if _COMMAND.search(text):
        for pattern, replacement in _REPLACED:
            text = pattern.sub(replacement, text)
    text = _without_ending(text.strip())
    if text[:1] == "{":
        text = _without_ending(_without_pairs(text, "{", "}"))
    while braced := _TEXT_ONLY.fullmatch(text):
        inner = braced[1].strip()
        if not inner or (
            text[0] == "\\"
            and not re.fullmatch(r"[-+0-9.,/ ]+|-?[0-9][0-9.,]*\s[A-Za-z ]+|\(?[A-Z]\)?|[a-z]?\s?=?\s?[-0-9.,]+", inner)
        ):
            break
        text = _without_ending(inner)
    if lead := _LEADING.match(text):
        text = text[lead.end() :].strip()
    text = _unbracketed(text)
    return _FRACTION_PARTS.sub(lambda part: "\\frac" + "".join(map(_in_braces, part.groups())), text)


def in_latex(text: str) -> str:
    """Return a text with common Unicode signs replaced by LaTeX commands."""
    text = text.strip(_STRIPPED)
    if text in _CHINESE_DIGITS:
        return "10" if text == "\u5341" else _CHINESE_DIGITS[text]
    for pattern, mark, table in _RUNS:
        text = pattern.sub(lambda run, mark=mark, table=table: f"{mark}{{{run.group().translate(table)}}}", text)  # type: ignore[misc]
    text = _ROOT_SIGN.sub(_root, text)
    return text.translate(_UNICODE)


def normalized(text: str) -> str:
    """Return the normalized spelling of a bare formula: no spaces, `\\text{}` unpacked, `x^{2}` as `x^2`."""
    for pattern, replacement in _SAME_COMMAND:
        text = pattern.sub(replacement, text)
    return text.removesuffix(".")


def _root(match: re.Match[str]) -> str:
    index = {"\u221a": "", "\u221b": "[3]", "\u221c": "[4]"}[match[1]]
    return f"\\sqrt{index}{{{match[2] or match[3] or match[4]}}}"


def _without_dollars(text: str) -> str:
    """Remove dollar signs, except for a single one before a number, which is a currency."""
    if "$" not in text:
        return text
    marks = [index for index, sign in enumerate(text) if sign == "$" and text[index - 1 : index] != "\\"]
    if len(marks) == 1 and re.match(r"\$\s?-?[0-9.]", text[marks[0] :]) and not text[: marks[0]].strip(" -+"):
        return text[: marks[0]] + "\\" + text[marks[0] :]
    return re.sub(r"(?<!\\)\$", "", text)


def _without_ending(text: str) -> str:
    if text.endswith((".", ";")) and not text.endswith(("..", "\\;", "\\,")):
        text = text[:-1].rstrip()
    return text


def _unbracketed(text: str) -> str:
    """Remove round brackets around the whole text, or a single unbalanced one at an end."""
    if text[:1] == "(" and not re.search(r"[,;A-Z]", text):
        text = _without_pairs(text, "(", ")")
    if text[:1] == "(" and not re.search(r"[()\[\]]", text[1:]):
        return text[1:].strip()
    if text[-1:] == ")" and not re.search(r"[()\[\]]", text[:-1]) and not re.fullmatch("[A-Za-z]?", text[:-1]):
        return text[:-1].strip()
    return text


def _without_pairs(text: str, opening: str, closing: str) -> str:
    """Remove all pairs of brackets around the whole text, in one pass."""
    first = len(text) - len(text.lstrip(opening + " "))
    last = len(text.rstrip(closing + " "))
    depth = lowest = text.count(opening, 0, first)
    for sign in text[first:last]:
        depth += (sign == opening) - (sign == closing)
        lowest = min(lowest, depth)
    num_pairs = min(lowest, text.count(closing, last)) if depth == text.count(closing, last) else 0
    for _ in range(num_pairs):
        text = text[1:-1].strip()
    return text


def _in_braces(part: str) -> str:
    return part if part.startswith("{") else f"{{{part}}}"
