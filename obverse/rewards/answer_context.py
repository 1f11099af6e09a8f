"""The sentence around an answer: words that deny or change the answer, or offer an alternative to it.

The same words count before a box and before "the answer is". Only the sentence of the answer is searched, and of that
only the part after its last "so", "hence" or the like: "If x = 3, then y = 4. So we get \\\\boxed{57}" is no denial.
Every pattern matches a bounded number of characters.
"""

from __future__ import annotations

import re

MAX_CHARS = 200  # of a sentence that are searched on either side

_SENTENCE = re.compile(r"[.!?][\"')*_$\]}]{0,4}\s|\n", re.DOTALL)
_CONCLUSION = re.compile(
    r"\b(?:so|hence|thus|therefore|consequently|accordingly)\b(?!\s(?:called|far|many|much))"
    r"|\\(?:implies|Rightarrow|therefore|to)(?![A-Za-z])|[=-]>|\u2192|\u21d2|\u2234|;",
    re.IGNORECASE,
)
_FILLER = (
    r"(?:[\s:$(\[{*_`\"'=\u201c]|\\[(\[]|\\text\s*\{|\b(?:that|whether|the|my|our|its?|it's|this|an?|final|correct|right"
    r"|answer|result|value|solution|number|total|is|was|be|equals?|exactly|just|simply|actually|really)\b)*$"
)
_NEAR = r"(?:[\s:$(\[{*_`\"'\u201c]|\\[(\[]|\\text\s*\{|\b(?:the|exactly|just)\b)*$"
_DENYING = re.compile(
    r"(?:\b(?:false|untrue|not\strue|not\sthe\scase|n't\strue)"
    r"|\b(?:wrong|incorrect|false|nonsense|a\smistake|an\serror)\sto\s[a-z]+"
    r"|(?<!no\s)(?<!without\s)(?<!without\sa\s)\b(?:doubt|doubtful|den(?:y|ies|ied)|disbelieve|refuse\sto\s[a-z]+)"
    r"|(?:\bnot|n't|\bnever|\bnobody|\bno\sone|\bnone)(?:\s(?:would|will|could|can|should|ever|really|of\sus))*\s"
    r"(?:believ|think|say|claim|mean|suppose|assume|guess|expect|answer|accept)[a-z]*"
    r"|\b(?:suppos(?:e|ing)|assum(?:e|ing)|imagine|pretend|unless|(?:even\s)?if|whether)"
    r"|(?:^\W*|\b(?:i|please|we|should|must|let's)\s)(?:now\s|hereby\s)?(?:ignor|forget|discard|disregard|retract"
    r"|withdraw|reject|exclud|dismiss)(?:e|ing)?|\bi\s(?:take|took)\sback"
    r"|\b(?:opposite|negative|negation|reciprocal|inverse|square(?:\sroot)?|cube(?:\sroot)?|double|triple|half|third"
    r"|quarter|multiple|factorial|logarithm)\sof"
    r"|\b(?:differs?|differing|different|far)\sfrom|\bother\sthan|\banything\sbut|\beverything\sexcept"
    r"|\b(?:maybe|perhaps|possibly)|\b(?:might|may|could)(?:\s(?:also|well|possibly|instead))*\sbe(?!\s(?:is|was)\b)"
    r"|\b(?:not|un)\s?(?:sure|certain)"
    r"|\b(?:common|typical|usual|frequent|classic|easy)\s(?:mistake|error|slip|misconception|pitfall)s?"
    r"|\b(?:wrong|incorrect|naive|mistaken|flawed|erroneous|faulty|invalid|tempting)\s(?:(?!the\b)[a-z]+\s)?"
    r"(?:approach|method|reasoning|argument|calculation|computation|attempt|solution|answer|idea|way|guess|value)s?"
    r"(?:\s(?:gives?|gave|yields?|leads?\sto|produces?|suggests?|would\s(?:give|be)))?"
    r"|\b(?:first|initial|original|wild)\s(?:guess|thought|idea|attempt|try)"
    r"|\b(?:one|you|some|people|many|students?|most|others?)\s(?:people\s|students\s)?(?:might|may|could|would)\s"
    r"(?:be\stempted\sto\s)?(?:think|expect|guess|say|believe|answer|assume|suspect|conclude)"
    r"|(?!(?:i|we)\s)\b[a-z]+\s(?:claim(?:s|ed)|says|said|thinks|believe[sd]|guess(?:es|ed)|argue[sd]|suspects)"
    r")" + _FILLER + r"|(?:\b(?:twice|thrice|half|minus|negative|plus|times|exceeds?|exceeding)"
    r"|(?<!the\s)\b(?:below|above|beyond|under|over)|\bclose\sto|\bup\sto|\binstead\sof"
    r"|(?<!need\s)(?<!needs\s)(?<!require\s)(?<!requires\s)\bat\s(?:most|least)"
    r"|\b(?:more|less|fewer|greater|larger|bigger|smaller|higher|lower|rather)\sthan"
    r"|\b(?:example|format|such\sas)|\b(?:answer|it|that)\s(?:like|as))" + _NEAR,
    re.IGNORECASE,
)
_CONDITION = re.compile(r"\bif\b(?!\s+(?:a|i)\s[a-z])[\s}]*(?:\$|\\\()?\s*[A-Za-z](?![A-Za-z'])[^.?!]*$", re.IGNORECASE)
_OTHER_BEFORE = re.compile(
    r"(?<![\w.\\/^-])(-?[0-9]+)\$?\s*(?:or|/|vs\.?|versus)\s*(?:maybe\s|perhaps\s)?\$?$", re.IGNORECASE
)
_CLOSED = r"(?:[ \t$)}\]*_\"'`\u201d]|\\[)\]])*"
_ANSWER = r"(?:[a-z]+\s)?(?:answer|solution|result|value)"
_CHANGING = re.compile(
    _CLOSED
    + r"(?:[\u2717\u2718\u2716\u274c\u2612]|X(?=\s*(?:$|[.,\n]))|[(\[,]?\s*(?:maybe|perhaps|possibly|not\ssure|unsure"
    r"|wrong|incorrect|false|a\sguess|just\sa\sguess|rejected|extraneous|invalid)\b"
    r"|[.\s]{0,4},?\s*or\s(?:maybe|perhaps|possibly|rather|even|else|it|is\sit|could|might)\b"
    r"|,?\s*(?:al)?though\s(?:it|this|that)\s(?:may|might|could)\b|,?\s*(?:i\smean|rather\s(?!than))\s?"
    r"|,?\s*(?:(?:which|that|this)\s)?(?:fails?(?:\s(?:the|to|this|because|since|for|when|as)\b|[.,]|$)|contradicts"
    r"|violates|(?:does|do|did|can|could|is|was|would|will|should)(?:\snot|n't)\s(?:work|satisfy|fit|match|hold|solve"
    r"|check|meet|agree|seem|equal|answer|make|be\s|the\b|correct|right|true|valid|possible|it\b|my\b|our\b)"
    r"|cannot\sbe\b|(?:leads?|led|comes?)\s(?:us\s)?to\sa\scontradiction|(?:is|gives?|yields?)\sa\scontradiction"
    r"|(?:must|has\sto|should|can)\sbe\s(?:rejected|discarded|excluded|ignored|dismissed|ruled\sout|thrown)"
    r"|would\s(?:only\s)?be\s(?:[a-z]+\s){0,3}(?:if|only|unless|when)\b"
    r"|(?:were|would\shave\sbeen)\s(?:the|correct|right|true)\b"
    r"|(?:is|was|are|seems?|looks?|would\sbe)\s(?:(?:just|only|clearly|far|way|much|slightly|almost|exactly|probably"
    r"|likely|indeed)\s)*(?:off\b|too\s|(?:one|two|three|[0-9]+)\s(?:too|off|short)\b"
    rf"|(?:(?:one|two|three|[0-9]+)\s)?(?:less|more|greater|smaller|larger|bigger|lower|higher)\sthan\s(?:the|my|our)\s{_ANSWER}"
    rf"|(?:half|twice|double|a\sthird|close\sto|near)\s(?:of\s)?(?:the|my|our)\s{_ANSWER}|close,?\sbut"
    r"|extraneous|rejected|excluded|impossible|invalid|wrong|incorrect"
    r"|false|a\s(?:guess|mistake|trap|common)|my\s(?:first|mistake|initial)|what\s(?!we|i\b|the\s(?:question|problem))"
    r"))"
    r"|,?\s*(?:only\s)?(?:if|unless|provided)\s(?!you|any|needed|necessary|we|rounded)"
    r"|[^.!?\n]{0,60}[;,.]\s*(?:\\text\s*\{\s*)?(?:otherwise|else|if\snot)\b"
    r"|\s*(?:more|less|fewer|greater|larger|smaller)\sthan\s\$?(?:[0-9]|[b-z]\b)|\s*times\s\$?(?:[0-9]|[b-z]\b))",
    re.IGNORECASE,
)
_OTHER_BEHIND = re.compile(_CLOSED + r"[.,\s]*(?:or|/|versus|vs\.?)\s*\$?(-?[0-9]+)\$?\s*(?:[.?!,;)]|$)", re.IGNORECASE)
TAGS = re.compile(r"</?(?:b|i|em|strong|p|u|mark|span|div|br|center|font|h[1-6])\s{0,2}/?>", re.IGNORECASE)
_STRUCK = re.compile(r"(?:~~|<(?:s|del|strike)\b[^<>]{0,20}>|<!--|(?:^|\n)\s{0,3}%)[\s$*_]*$", re.IGNORECASE)
_COMPARED = re.compile(
    r"(?:[^\s<>=-]\s*(?<![=<-])[<>]|\\(?:l|g|n)(?:e|eq|eqslant|t)?(?![A-Za-z])|\\not\s*=?|!=|[<>]=)\s*\$?$"
)


_PLAIN_WORDS = frozenset(
    re.findall(
        "[a-z]+",
        "so we get find have obtain the a an our my final correct answer result value total sum is are equals be"
        " therefore thus hence then and which gives of this number in for solution that he she they has must will",
    )
)
_WORD = re.compile(r"[A-Za-z]+")


def is_plain(line: str) -> bool:
    """Return whether the text before an answer consists of neutral words and delimiters only."""
    return not re.search(r"[0-9\\<>~!=|^/%+-]", line) and _PLAIN_WORDS.issuperset(_WORD.findall(line.lower()))


def sentence_before(text: str, position: int) -> str:
    """Return the part of the sentence, and of the line, before a position."""
    before = text[max(0, position - MAX_CHARS) : position]
    ends = [match.end() for match in _SENTENCE.finditer(before)]
    return before[ends[-1] :] if ends else before


def without_marks(line: str) -> str:
    """Return the line before an answer without Markdown's stars, bullets and dashes and without HTML tags."""
    line = re.sub(r"\*{2,}|__+", "", TAGS.sub("", line))
    line = re.sub(r"(?<=[:.])[*_](?=\s*$)", "", line)
    line = re.sub(r"^\s*(?:[-+*>\u2022]+|[0-9]{1,2}[.)])\s+", "", line)
    return re.sub(r"(?<=[A-Za-z]{2})[:.]?\s+-{1,3}\s+$", " ", line)


def is_denied(before: str) -> bool:
    """Return whether the sentence before an answer denies it, supposes it, compares it or attributes it to others."""
    before = without_marks(before)
    clause = before[max((mark.end() for mark in _CONCLUSION.finditer(before)), default=0) :]
    if _DENYING.search(clause):
        return True
    return bool(_CONDITION.search(clause)) and not clause.rstrip(" {$").endswith("=")


def is_struck(before: str) -> bool:
    """Return whether a text ends with a mark that strikes out, hides or comments out the text after it."""
    return bool(_STRUCK.search(before))


def is_compared(line: str) -> bool:
    """Return whether a line ends with a relation sign, so that the text after it is a side of an inequality."""
    return bool(_COMPARED.search(TAGS.sub("", line))) and bool(re.search(r"[^\s>]", line.rstrip(" <>$")))


def is_changed(after: str, content: str) -> bool:
    """Return whether the rest of the sentence after an answer rejects it, changes it or offers an alternative."""
    after = after[:MAX_CHARS].partition("\n")[0]
    if not after.strip("$.)} "):
        return False
    if _CHANGING.match(after):
        return True
    alternative = _OTHER_BEHIND.match(after)
    return bool(alternative) and _is_other_number(alternative[1], content)  # type: ignore[index]


def has_alternative(before: str, content: str) -> bool:
    """Return whether the text before an answer ends with another whole number and "or"."""
    alternative = _OTHER_BEFORE.search(before)
    return bool(alternative) and _is_other_number(alternative[1], content)  # type: ignore[index]


def _is_other_number(number: str, content: str) -> bool:
    content = content.strip()
    return bool(re.fullmatch("-?[0-9]+", content)) and int(content[:60]) != int(number[:60])
