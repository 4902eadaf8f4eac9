"""What :mod:`plasmid.data.transforms.deidentify` finds in a text, and how.

Rules
-----
1. Patterns and checksums of mail addresses, IP addresses, cards, IBANs, national numbers and numeric dates
   are Presidio's; what it lacks (numbers by their label, dates in words, names after a title) is here, in the
   same form. Its analyzer is not used: it wants a language model and skips a pattern whose time is up. Nor
   is its check of mail domains, which fetches a list of them. Nothing here opens a file or a connection.
2. A finder comes with a *prefilter*, an RE2 pattern that matches every text in which it finds something. It
   only saves time: results are the same without it.
3. A pattern that takes longer than :data:`PATTERN_LIMIT_S` raises TimeoutError. Nothing is skipped.
4. Presidio's logger is silenced: it may write what it looked at.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Entity = Literal[
    "IBAN", "CREDIT_CARD", "NATIONAL_ID", "RECORD_ID", "EMAIL", "URL", "IP", "DATE", "PHONE", "NAME"
]
ENTITIES: tuple[Entity, ...] = (
    "IBAN", "CREDIT_CARD", "NATIONAL_ID", "RECORD_ID", "EMAIL", "URL", "IP", "DATE", "PHONE", "NAME",
)  # fmt: skip
Span = tuple[int, int]

PATTERN_LIMIT_S = 5.0
"""How long one pattern may take on one text."""

SCORE = 0.4
"""The least confidence of a match, as Presidio counts it; a good checksum is 1, a wrong one 0."""

_MONTHS = "jan|feb|mär|mar|apr|mai|may|jun|jul|aug|sep|okt|oct|nov|dez|dec"
_MONTH = (
    r"(?:jan(?:uary|uar)?|feb(?:ruary|ruar)?|märz?|march|mar|apr(?:il)?|mai|may|june?|juni|july?|juli|"
    r"aug(?:ust)?|sept?(?:ember)?|okt(?:ober)?|oct(?:ober)?|nov(?:ember)?|dez(?:ember)?|dec(?:ember)?)\.?"
)
_DATES = {
    "day month year": rf"\b\d{{1,2}}(?:\.|st|nd|rd|th)?\s?(?:of\s)?{_MONTH}(?:,?\s?\d{{4}})?\b",
    "month day year": rf"\b{_MONTH}\s\d{{1,2}}(?:st|nd|rd|th)?,?\s\d{{4}}\b",
    "month year": rf"\b{_MONTH}\s(?:19|20)\d\d\b",
    "month day": rf"\b{_MONTH}\s\d{{1,2}}(?:st|nd|rd|th)\b",
    "without separators": r"\b(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\b",
    "two digits each": r"\b(?:0[1-9]|[12]\d|3[01])-(?:0[1-9]|[12]\d|3[01])-\d\d\b",
    "number of month and year": r"\b(?:0?[1-9]|1[0-2])/(?:19|20)\d\d\b",
    "day and month": r"\b(?:am|vom|seit|bis|zum|den|ab)\s"
    r"\K(?:0?[1-9]|[12]\d|3[01])\.(?:0?[1-9]|1[0-2])\.(?!\d)",
}

_RECORD_LABEL = (
    r"(?:MRN|PID|SSN|KVNR|Akte|vers\.?-?nr|"
    r"NHS (?:number|no)|medical record (?:number|no)|hospital (?:number|no)|"
    r"(?:case|accession|passport|insurance|social security)[- ]?(?:number|no|id)|"
    r"patient(?:en)?[- ]?(?:id|nr|no|nummer|number)|pat\.?[- ]?(?:nr|id)|"
    r"(?:fall|aufnahme|versicherten|versicherungs|sozialversicherungs|ausweis|personalausweis|pass|"
    r"krankenkassen|barcode|auftrags|befund)[- ]?(?:nummer|nr|id))"
)
_RECORD = (
    rf"\b{_RECORD_LABEL}\b\.?\s?(?:[:#=]|is|lautet)?\s?"
    r"\K(?:[A-Z]{1,4}[-/ ]?)?\d(?:[-/. ]?(?:\d|[A-Z](?=[-/. ]?\d))){3,20}[A-Z]?\b"
)

_TITLES = (
    "Herrn|Herr|HERR|Frau|FRAU|Hr|Fr|Mr|Mrs|Ms|Miss|Mister|Mme|Madame|Monsieur|Dr|DR|Prof|PROF|Professor|"
    "Doctor|Doktor|Schwester|Pfleger|Nurse|Sister"
)
_NAME_LABEL = "Name|Nachname|Familienname|Vorname|Surname|First name|Last name|Patient|Patientin"
_PARTICLE = r"(?:(?:von|van|de|der|den|zu|zur|vom|di|da|del|la|le|el|al|bin|ten|ter|dos)[ \t])*"
_WORD = rf"{_PARTICLE}(?:\p{{Lu}}\.|(?:\p{{Lu}}['\u2019])?\p{{Lu}}[\p{{L}}'\u2019\-]+)"
_DEGREE = r"(?:(?:med|rer|nat|phil|dent|vet|habil|h\.[ ]?c|univ|Dipl\.-\p{L}+)\.?[ \t]+)*"
_NAMES = {
    "title": rf"\b(?:(?:{_TITLES})\b(?:\.[ \t]*|[ \t]+){_DEGREE})+\K{_WORD}(?:[ \t]+{_WORD}){{0,2}}",
    "label": rf"\b(?:{_NAME_LABEL})[ \t]*:[ \t]*\K{_WORD}(?:,?[ \t]+{_WORD}){{1,2}}|"
    rf"\b(?:Nachname|Familienname|Vorname|Surname|First name|Last name)[ \t]*:[ \t]*\K{_WORD}",
}

# Between two digits of a telephone number stand at most four other characters, and no letter but an x.
_DIGIT = r"(?:[^\p{L}\p{Nd}]|[xX]){0,4}\p{Nd}"
_PHONE = rf"\p{{Nd}}(?:{_DIGIT}){{6}}"
_BEFORE, _AFTER = 16, 40
"""How many characters beside its digits a telephone number may reach: brackets and a plus; an extension."""


@dataclass(frozen=True)
class Finder:
    """Finds spans of one kind.

    Attributes
    ----------
    prefilter
        RE2; a text that does not match it holds nothing.
    find
        Text, in NFC, -> spans of characters. Raises TimeoutError.
    """

    entity: Entity
    prefilter: str
    find: Callable[[str], Iterable[Span]]


def finders(entities: Collection[Entity], regions: Sequence[str], names: Collection[str]) -> list[Finder]:
    """Return the finders of *entities*, in the order of :data:`ENTITIES`.

    Parameters
    ----------
    regions
        ISO 3166 codes of the countries whose telephone numbers are found without their country's code.
    names
        Names that are found wherever they stand, of one or several words.
    """
    import presidio_analyzer.predefined_recognizers as known

    logging.getLogger("presidio-analyzer").disabled = True
    national: list[Any] = [
        known.UsSsnRecognizer(),
        known.NhsRecognizer(),
        known.DeHealthInsuranceRecognizer(),
    ]
    national += [known.DeSocialSecurityRecognizer(), known.DeTaxIdRecognizer(), known.DeIdCardRecognizer()]
    found = [
        Finder("IBAN", r"\pL\pL\p{Nd}\p{Nd}", _recognized(known.IbanRecognizer())),
        Finder("CREDIT_CARD", r"(?:\p{Nd}[- ]?){12}", _recognized(known.CreditCardRecognizer())),
        Finder(
            "NATIONAL_ID",
            r"\p{Nd}{3}|\pL\p{Nd}",
            _all(*map(_recognized, national)),
        ),
        Finder("RECORD_ID", f"(?i){_RECORD_LABEL}", _own(_RECORD)),
        # A mail address is one by its form: the domains of hospitals' own networks are on no public list.
        Finder("EMAIL", "@", _recognized(known.EmailRecognizer(), checked=False)),
        Finder("URL", r"(?i)://|www|\.\pL\pL", _urls(known.UrlRecognizer.BASE_URL_REGEX)),
        Finder("IP", r"\p{Nd}\.\p{Nd}{1,3}\.\p{Nd}|:[0-9a-fA-F]*:", _recognized(known.IpRecognizer())),
        Finder(
            "DATE",
            rf"(?i)\p{{Nd}}[-/.]|\p{{Nd}}{{8}}|{_MONTHS}",
            _all(_recognized(known.DateRecognizer()), _own(*_DATES.values())),
        ),
        Finder("PHONE", _PHONE, _phones(known.PhoneRecognizer(supported_regions=tuple(regions)))),
        Finder("NAME", f"(?:{_TITLES}|{_NAME_LABEL})", _own(*_NAMES.values(), any_case=False)),
    ]
    if names:
        found.append(Finder("NAME", r"\pL", _listed(names)))
    return [finder for finder in found if finder.entity in entities]


def _all(*finds: Callable[[str], Iterable[Span]]) -> Callable[[str], Iterator[Span]]:
    def find(text: str) -> Iterator[Span]:
        for each in finds:
            yield from each(text)

    return find


def _own(*patterns: str, any_case: bool = True) -> Callable[[str], Iterator[Span]]:
    import regex
    from presidio_analyzer import Pattern, PatternRecognizer

    made = [Pattern(name=str(number), regex=text, score=1.0) for number, text in enumerate(patterns)]
    flags = int(regex.IGNORECASE) if any_case else 0
    return _recognized(PatternRecognizer("own", patterns=made, global_regex_flags=flags))


def _urls(address: str) -> Callable[[str], Iterator[Span]]:
    # Presidio's ends after any top-level domain: in "war.Der" it finds "war.De", and "Pat.Nr".
    return _own(
        r"\bhttps?://[^\s<>\"']+",
        r"\bwww\.[^\s<>\"']+",
        rf"(?<![\w.-])(?!(?-i:[\w.-]*\.[A-Z][a-z])){address}(?!\w)",
    )


def _recognized(recognizer: Any, *, checked: bool = True) -> Callable[[str], Iterator[Span]]:
    """Return what Presidio's *recognizer* finds, with its checks if *checked*, under a time limit."""
    import regex
    from presidio_analyzer import PatternRecognizer

    has_check = type(recognizer).validate_result is not PatternRecognizer.validate_result
    patterns = [
        (regex.compile(pattern.regex, recognizer.global_regex_flags), pattern.score)
        for pattern in recognizer.patterns
        if pattern.score >= SCORE or has_check
    ]
    is_iban = type(recognizer).__name__ == "IbanRecognizer"

    def find(text: str) -> Iterator[Span]:
        for pattern, score in patterns:
            for match in pattern.finditer(text, timeout=PATTERN_LIMIT_S):
                for start, end in _prefixes(match) if is_iban else [match.span()]:
                    valid = recognizer.validate_result(text[start:end]) if checked else None
                    sure = score if valid is None else float(valid)
                    if start < end and sure >= SCORE and not recognizer.invalidate_result(text[start:end]):
                        yield start, end
                        break

    return find


def _prefixes(match: Any) -> Iterator[Span]:
    """Yield the match up to the end of each of its groups, longest first: words may follow an IBAN."""
    for group in range(match.re.groups, 0, -1):
        yield match.start(), match.end(group)


def _phones(recognizer: Any) -> Callable[[str], Iterator[Span]]:
    import regex

    enough, digits = regex.compile(_PHONE), regex.compile(rf"{_PHONE}(?:{_DIGIT})*")

    def find(text: str) -> Iterator[Span]:
        # Presidio tries every number of a text in every region; here, those with seven digits.
        for match in digits.finditer(text, timeout=PATTERN_LIMIT_S):
            start = max(0, match.start() - _BEFORE)
            near = text[start : match.end() + _AFTER]
            for found in recognizer.analyze(near, []):
                if enough.search(near, found.start, found.end):
                    yield start + found.start, start + found.end

    return find


def _listed(names: Collection[str]) -> Callable[[str], Iterator[Span]]:
    import regex

    word = regex.compile(r"\p{L}[\p{L}'\u2019]*(?:-\p{L}[\p{L}'\u2019]*)*")
    known: dict[str, set[tuple[str, ...]]] = {}
    for name in names:
        words = tuple(word.findall(unicodedata.normalize("NFC", name).casefold()))
        if words:
            known.setdefault(words[0], set()).add(words)

    def find(text: str) -> Iterator[Span]:
        spans = [match.span() for match in word.finditer(text, timeout=PATTERN_LIMIT_S)]
        words = [text[start:end].casefold() for start, end in spans]
        for at, first in enumerate(words):
            # A name is written with a capital: "brown sugar" is none.
            if first in known and text[spans[at][0]].isupper():
                lengths = [len(name) for name in known[first] if tuple(words[at : at + len(name)]) == name]
                if lengths:
                    yield spans[at][0], spans[at + max(lengths) - 1][1]

    return find
