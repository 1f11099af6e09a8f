"""Phrases that announce an answer ("The answer is 42, which ...", "**Answer**"), and sentences that retract one."""

from __future__ import annotations

import re

from obverse.rewards.answer_context import is_denied, is_plain, sentence_before

_QUOTES = "\"'`\u201c\u201d\u2018\u2019\u00ab\u00bb"
_LINK = (
    r"(?:(?<=ans\.)\s{1,4}(?=[-$\\(0-9])|\s{0,4}(?::|=|\uff1a|->|\u2192|\||\u2013|\u2014|(?<=\s)-(?=\s))"
    r"|,?\s{1,4}(?:then,?\s|therefore,?\s|thus,?\s|hence,?\s|so,?\s)?"
    r"(?:is|was|equals|(?:would|should|must|will)\s(?:then\s|therefore\s|thus\s)?be|(?:comes?|turns?"
    r"|works?)\s(?:out\s)?to(?:\sbe)?)\b:?)"
)
_ANSWER_IS = re.compile(
    rf"(?<![A-Za-z0-9])(?:answer|ans\.?(?=\s|:)|ans)(?![A-Za-z0-9])[*_{_QUOTES}]{{0,4}}"
    rf"(?:\s(?:to|of|for|in)\s[^.\n:?!]{{1,60}}?(?=\s(?:is|would|should|must|will)\b|:))?"
    rf"{_LINK}(?:\s{{0,8}}[:*_])*\s{{0,8}}",
    re.IGNORECASE,
)
_HEADED = re.compile(r"[#*_\s>]{0,8}(?:the\s|my\s|final\s|correct\s){0,2}answer[*_:.\s]{0,6}\n\s{0,8}", re.IGNORECASE)
_FOREIGN_WORDS = ("respuesta", "resposta", "risposta", "reponse", "antwort")
_FOREIGN = re.compile(
    r"(?:\u7b54\u6848|\u7b54\u3048)[*\s]{0,4}(?:\u662f|\u4e3a|\u70ba|\u306f|\uff1a|:)[*\s]{0,8}(?:\uff1a|:)?\s{0,8}"
    r"|(?:\uc815\ub2f5|\ub2f5)[*\s]{0,4}(?:\uc740|:|\uff1a)\s{0,8}"
    r"|\b(?:respuesta|resposta|risposta|r[e\u00e9]ponse|antwort)"
    r"(?:\s(?:final|finale|correcta|correcte|correta|corretta))?[*\s]{0,4}"
    r"(?:\bes\b|\best\b|\bist\b|\blautet\b|\b[e\u00e9\u00e8]\b|\u00e9|\u00e8|:)\s{0,8}"
    r"|\b\u043e\u0442\u0432\u0435\u0442[*\s]{0,4}[:\u2014-]\s{0,8}",
    re.IGNORECASE,
)
_MAX_HEAD_CHARS = 40
_LEAD = re.compile(
    r"[\s,]{0,3}(?:(?:therefore|thus|then|hence|so|simply|just|indeed|clearly|exactly|precisely|about|approximately|roughly"
    r"|around|equal to"
    r"|of course|found to be|going to be|equals|given by|actually|option|choice"
    r"|(?:I (?:think|believe) )?(?:it is|it's))\b[\s:,]{0,3})+",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(
    r"[.!?](?=\s|$|\*|_)|\u3002|\n|\||[,;]?\s\(?(?:because|since|as|given that|where|which)\s"
    r"|\s\((?:see|by|from|cf|shown|rounded|not\s[0-9]|in\s)\b"
    r"|[,;]?\s(?:when|after)\s(?:simplified|simplifying|rounded|rounding|reduced)"
    r"|[,;]\s(?:i\.e\.|see\s|obtained|given by)"
    r"|\s[\u2013\u2014]\s(?=[a-z])|\s-\sdone\b"
    r"|[,;]\s(?:so|which"
    r"|where)\s"
    r"|[,;]?\s(?:(?:and|but)\s)?(?:not|rather than|instead of)\s(?=[\\$0-9-])|[,;]?\sand\s(?:the|this|that|it|we|so"
    r"|all)\s(?=[^0-9\\$]*$)",
    re.IGNORECASE | re.MULTILINE,
)
_DENIED_PHRASE = re.compile(
    r"(?:(?:\bnot|n't|\bnever|\bhardly|\bscarcely)(?:\s(?:true|correct|right|the case|possible|certain|sure|say"
    r"|think|believe|mean"
    r"|claim|know|clear|likely))?(?:\s(?:that|if|whether))?"
    r"|\b(?:if|unless|suppose|supposing|assume|assuming|whether|doubt|deny|false|untrue|pretend|claims?|claimed|says"
    r"|said"
    r"|guess|guessed|maybe|perhaps|possibly|impossible|unlikely|wrong|incorrect)(?:\s(?:that|if|whether))?)"
    r"[\s,:]{1,3}(?:(?:the|my|our|an?|his|her|their)\s)?(?:(?:final|correct|right|wrong|incorrect|false)\s)?$"
    r"|\b(?:wrong|incorrect|false|common|naive|tempting|obvious)\s$",
    re.IGNORECASE,
)
_NO_ANSWER = re.compile(
    r"(?:correct|right|wrong|incorrect|false|not|never|verified|confirmed|consistent|reasonable|clear|obvious"
    r"|unknown|above|below"
    r"|in the|as follows|found|obtained|given|the same|therefore correct|n't)\b",
    re.IGNORECASE,
)
_MAX_LATER_CHARS = 60

_CONFIRMED = re.compile(
    r"\b(?:yes|is correct|is right|is indeed|indeed|confirm\w*|consistent|verif\w+|checks?|holds|as (?:expected"
    r"|required)|matches"
    r"|seems (?:right|correct)|looks (?:right|correct)|all good)\b",
    re.IGNORECASE,
)
_RETRACTED = re.compile(
    r"\b(?:wrong|incorrect|mistaken|erroneous|inaccurate|invalid|impossible|false|untrue|nonsense)\b"
    r"|\b(?:a|my|the|an)\s(?:\w+\s)?(?:mistake|error|typo|slip)\b"
    r"|(?:\bnot|n't|\bnever|\bcannot|\bno longer)\s(?:(?:be|the|an?|actually|really|quite|my|our|a valid|final|that"
    r"|possibly)\s)*"
    r"(?:correct|right|true|answer|valid|solution|final|possible|it|what|work)\b"
    r"|\b(?:scratch|strike|disregard|ignore|retract|withdraw|discard|forget)\b(?:\s(?:that|this|it|the))?"
    r"|\btake\s(?:that|it|this)\sback\b"
    r"|\b(?:can't|cannot)\sbe\b|\bshould(?:\sactually)?\s(?:be|have been)\b|\b(?:i\s)?(?:meant|mis(?:read"
    r"|calculated|counted|spoke|typed|stated))\b|\b(?:just\s)?(?:kidding|joking|a joke)\b",
    re.IGNORECASE,
)
_TURN = re.compile(
    r"[\s\"'(*_]{0,4}(?:wait|hmm+|hm|oops|no\b|nope|actually|sorry|but|however|scratch|correction|on second thought"
    r"|edit|my bad|hold on"
    r"|hang on|let me (?:re|correct)|i (?:was|made|take|meant|retract|withdraw)|that|this|it|which|the (?:above"
    r"|answer|previous|box|value)"
    r"|except|forget|ignore|disregard|just kidding|kidding|not\b|wrong|incorrect)",
    re.IGNORECASE,
)
_STRONG_TURN = re.compile(
    r"[\s\"'(*_]{0,4}(?:wait|oops|no\b|nope|scratch|correction|on second thought|my bad|hold on|hang on|i meant"
    r"|actually,?\s(?:no|it|that|this)|forget|(?:or\s)?rather\b(?!\sthan)|i mean\b"
    r"|sorry|apologies|just kidding|kidding)\b",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"[\s\"'(*_]*(?:(?:oh|ah|wait|hm+|oops|sorry)[\s,.!]*)*(?:no|nope|nah|wrong|incorrect|false|oops|whoops|not)[\s).,!*_]*",
    re.IGNORECASE,
)
_SENTENCES = re.compile(
    r"[.!?]+(?=\s|$)|\n+|;\s|,\s(?=but|wait|no\b|which|however|actually|or\srather|rather\b|i\smean)|\s-+\s",
    re.IGNORECASE,
)
_MAX_TURNS, _MAX_TURN_CHARS = 8, 800
_MAX_AWAY = 40  # characters between an answer and a retraction in the same sentence


def last_phrase(text: str, start: int = 0) -> tuple[int, bool]:
    """Return the position after the last phrase (-1 without a phrase) and whether that phrase is denied."""
    lower = text.lower() if text.isascii() else text.encode("ascii", "replace").decode().lower()
    match = _last_answer_is(text, lower, start)
    if not text.isascii() or any(word in lower for word in _FOREIGN_WORDS):
        for phrase in _FOREIGN.finditer(text, start):
            match = phrase if match is None or phrase.end() > match.end() else match
    if match is None:
        return -1, False
    sentence = sentence_before(text, match.start())
    if is_plain(sentence):
        return match.end(), False
    return match.end(), bool(_DENIED_PHRASE.search(sentence[-60:])) or is_denied(sentence)


def _last_answer_is(text: str, lower: str, start: int) -> re.Match[str] | None:
    """Return the last match of "answer is" and the like, searching from the end."""
    position = lower.rfind("ans", start)
    while position >= 0:
        if match := _ANSWER_IS.match(text, position):
            return match
        line = lower.rfind("\n", max(start, position - _MAX_HEAD_CHARS), position) + 1
        if (line or position < _MAX_HEAD_CHARS) and (headed := _HEADED.match(text, max(line, start))):
            return headed if headed.end() > position else None
        position = lower.rfind("ans", start, position)
    return None


def answer_phrase(text: str, start: int) -> tuple[str, int]:
    """Return the answer after a phrase that ends at `start`, without quotes and stars, and the answer's end."""
    quote = text[start : start + 1]
    if quote and quote in '"`\u201c' and text[start - 2 : start] != "\\":
        closing = text.find("\u201d" if quote == "\u201c" else quote, start + 1, start + 200)
        if closing >= 0:
            return text[start + 1 : closing].strip("* "), closing + 1
    start = lead.end() if (lead := _LEAD.match(text, start)) else start
    end = sentence_end.start() if (sentence_end := _SENTENCE_END.search(text, start)) else len(text)
    answer = text[start:end].strip('* _`"\u201c\u201d\u2018\u2019').removesuffix(",")
    if len(answer) > 1 and answer[0] == answer[-1] == "'":
        answer = answer[1:-1]
    return answer.strip(), end


def later_answer(text: str, start: int) -> str | None:
    """Return the answer of a phrase after `start`, "" if it is denied, None without such a phrase."""
    text = text[start:]
    phrase, denied = last_phrase(text)
    if phrase < 0:
        return None
    answer, _ = answer_phrase(text, phrase)
    if re.match(r"(?:not|wrong|incorrect|never)\b", answer, re.IGNORECASE):
        return ""
    is_short = answer and len(answer) <= _MAX_LATER_CHARS and not _NO_ANSWER.match(answer)
    is_value = is_short and (bool(re.search(r"[0-9\\$]", answer)) or re.fullmatch(r"\(?[A-Z]\)?", answer))
    return answer if is_value and not denied else None


def is_taken_back(text: str, start: int) -> bool:
    """Return whether the text after an answer that ends at `start` calls it wrong or gives another one.

    Example:
        is_taken_back("42. Wait, that is wrong. It is 41.", 2) and not is_taken_back("42, as required.", 2)
    """
    text = text[start : start + _MAX_TURN_CHARS]
    position = 0
    for index in range(_MAX_TURNS):
        stop = _SENTENCES.search(text, position)
        sentence = text[position : stop.start() if stop else len(text)]
        following = text[stop.end() :] if stop else ""
        retracted = _RETRACTED.search(sentence)
        confirmed = _CONFIRMED.search(sentence)
        if (
            retracted
            and (_TURN.match(sentence) if index else retracted.start() <= _MAX_AWAY)
            and not (confirmed and confirmed.start() < retracted.start())
        ):
            return True
        if index > 0 and _REFUSAL.fullmatch(sentence):
            return True
        if _STRONG_TURN.match(sentence) and not _CONFIRMED.search(sentence + following):
            refused = _REFUSAL.fullmatch(following.partition("\n")[0])
            return any(map(str.isdigit, sentence + following)) or bool(refused or _RETRACTED.search(following))
        if stop is None:
            return False
        position = stop.end()
    return False
