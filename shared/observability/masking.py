"""Masking of log records: sensitive data is found in free text by pattern and in structured values by name.

Tokens, keys, passwords and credentials in URLs are removed, personal data is hidden, account and card numbers keep
their last four digits, and amounts are hidden at INFO and above. Masking takes time linear in the length of the text.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

REMOVED = "[removed]"
HIDDEN = "[hidden]"

_AMOUNT_NAMES = frozenset({"amount", "balance", "balance_after", "available", "held"})
_PERSONAL_NAMES = frozenset({"name", "email", "e_mail", "owner", "full_name", "first_name", "last_name", "subject"})
# Numbers from here on may be account numbers.
_LONG_NUMBER = 10**9

# Substrings of names of secrets, and words that mean a secret only as a whole or between underscores.
_NAME_PARTS = (
    r"token|passw|passphrase|passcode|pwd|secret|(?:api|access|private|signing)[_-]?key|authorization|cookie|credential"
    r"|session[_-]?id|(?:webhook|database)[_-]?url|connection[_-]?string|signature|jwks?(?![A-Za-z])"
)
_NAME_WORDS = r"(?<![^\W_])(?:pass|pin|cvv|cvc|otp|auth|sid|dsn|private|jwt)(?![^\W_])"
_SECRET_NAME = re.compile(f"{_NAME_PARTS}|{_NAME_WORDS}", re.IGNORECASE)

# Lengths of IBANs after the check digits, by country. Countries with digits only are listed separately, so that
# hexadecimal ids (UUIDs, traces, spans) do not match.
_IBAN_DIGITS = {"BA": 16, "BE": 12, "DE": 18, "EE": 16, "AE": 19}
_IBAN_LENGTHS = {
    **{"AD": 20, "AL": 24, "AT": 16, "AZ": 24, "BG": 18, "BH": 18, "BR": 25, "BY": 24, "CH": 17, "CR": 18, "CY": 24},
    **{"CZ": 20, "DK": 14, "DO": 24, "EG": 25, "ES": 20, "FI": 14, "FO": 14, "FR": 23, "GB": 18, "GE": 18, "GI": 19},
    **{"GL": 14, "GR": 23, "GT": 24, "HR": 17, "HU": 24, "IE": 18, "IL": 19, "IQ": 19, "IS": 22, "IT": 23, "JO": 26},
    **{"KW": 26, "KZ": 16, "LB": 24, "LC": 28, "LI": 17, "LT": 16, "LU": 16, "LV": 17, "LY": 21, "MC": 23, "MD": 20},
    **{"ME": 18, "MK": 15, "MR": 23, "MT": 27, "MU": 26, "NL": 14, "NO": 11, "PK": 20, "PL": 24, "PS": 25, "PT": 21},
    **{"QA": 25, "RO": 20, "RS": 18, "SA": 20, "SC": 27, "SE": 20, "SI": 15, "SK": 20, "SM": 23, "ST": 21, "SV": 24},
    **{"TL": 19, "TN": 20, "TR": 22, "UA": 25, "VA": 18, "VG": 20, "XK": 16},
}
# Separators between groups of digits, also in a `repr`, in JSON and in a URL.
_SPACE = r"(?:[ \u00a0\u2007\u202f-]|\\+(?:xa0|u00a0|u2007|u202f)|%20|%C2%A0|\+)"
_GAP = f"(?:{_SPACE}|[._])?"


def _ibans() -> str:
    forms = [f"{country}\\d\\d(?:{_GAP}\\d){{{length}}}" for country, length in _IBAN_DIGITS.items()]
    by_length: dict[int, list[str]] = {}
    for country, length in _IBAN_LENGTHS.items():
        by_length.setdefault(length, []).append(country)
    forms += [
        f"(?:{'|'.join(names)}){_GAP}\\d{_GAP}\\d(?:{_GAP}[A-Z0-9]){{{length}}}" for length, names in by_length.items()
    ]
    return "|".join(forms)


# Text may be a `repr`: a word may follow an escape (`\n`), and a value that starts with an escaped quote extends to the
# end of the line. Text may be percent-encoded once.
_START = r"(?:(?<![0-9A-Za-z_])|(?<=\\[nrt]))"
_QUOTED = r"\\+[\"'][^\n]*|\"(?:[^\"\\]|\\.)*+(?:\"|\Z)|'(?:[^'\\]|\\.)*+(?:'|\Z)"
# A name and the sign before its value; the value is matched only if the name is that of a secret or a person.
_NAMED = re.compile(
    r"(?<![\w-])(?P<name>[\w-]++)\\*[\"']?"
    r"(?:\s*(?:=>|:=|==|=|:|\uff1d|\uff1a)\s*|%3[AaDd](?:%20|\+)*|>(?=[^\s<>=]))"
)
_BLANK = r"(?:\s|\\+[tnr]|%20|\+)+"
_SCHEME = rf"(?:(?:bearer|basic|digest|token|apikey|negotiate){_BLANK})"
# A separator ends a value only before a quote, a space, the end or another name.
_BARE = r"(?:[^\s,;&}\])]|[,;&}\])](?!\Z|[\s\"'\\,;&}\])]|[\w.-]++\\*[\"']?\s*[=:]))+"
_VALUES = {
    "secret": re.compile(rf"{_SCHEME}?(?:{_QUOTED}|{_BARE})", re.IGNORECASE | re.DOTALL),
    "tagged": re.compile(r"[^<]+"),
    # These headers extend to the end of the line.
    "header": re.compile(rf"{_QUOTED}|[^\n\"'][^\n]*", re.DOTALL),
    "person": re.compile(rf"{_QUOTED}|[^\s\"'\\,;&}}\])]+", re.DOTALL),
    # `name` means a person only if the value is quoted; otherwise it is mostly the name of an object.
    "name": re.compile(_QUOTED, re.DOTALL),
}
_HEADER = re.compile(r"(?:proxy-)?authorization|(?:set-)?cookie2?", re.IGNORECASE)
_PERSON = re.compile(r"owner|(?:full|first|last)_name", re.IGNORECASE)

# Credentials extend from the first `://` of a word to its last `@`, because passwords may contain slashes.
_URL = re.compile(r"(?:[^\s\"<>]|\"(?!\s*[,:}\]]))+")
_CREDENTIALS = re.compile(r"(://|%3A(?:%2F){2}).*(@|%40)", re.IGNORECASE | re.DOTALL)
_QUERY = re.compile(r"\?|%3F", re.IGNORECASE)
_AMOUNTS = re.compile(
    rf"(\b(?:{'|'.join(sorted(_AMOUNT_NAMES))})\\*[\"']?\s*(?:=>|[=:])\s*\\*[\"']?)-?\d+(?:[.,]\d+)*", re.IGNORECASE
)
_CREDENTIAL_FORMS = (
    r"xox[a-z]-[\w-]{10,}|gh[a-z]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{30,}"
    r"|[sr]k_(?:live|test)_\w{16,}"
)


_GAPS = re.compile(rf"{_SPACE}|\W|_", re.IGNORECASE)


def _last_four(match: re.Match[str]) -> str:
    return match["uuid"] or "****" + _GAPS.sub("", match[0])[-4:]


# Patterns of secrets, by hints: every match contains one of the hints (in lower case). Hints are searched first,
# because that is much faster.
_FORMS = {
    "private key": r"-----BEGIN[^-]*PRIVATE KEY[^-]*-----(?s:.*?)(?:-----END[^-]*-----|\Z)",
    "failing row|key (": r"(?i:Failing row contains [^\n]*|Key \([^\n]*)",
    "slack|discord|office.com": r"(?i:hooks\.slack(?:-gov)?\.com|discord(?:app)?\.com(?:/|%2F)api|webhook\.office\.com)"
    r"(?:/|%2[Ff])[^\s\"'<>]*",
    "/b": r"\bT[A-Z0-9]{7,12}/B[A-Z0-9]{7,12}/[A-Za-z0-9]{16,}",
    "eyj|eya|eyi|ewo": rf"{_START}(?:ey[JAI]|ewo)[\w-]{{2,}}(?:(?:\.|%2E)[\w-]*)+",
    "xox|gh|github_pat|glpat|akia|asia|aiza|k_live|k_test": rf"{_START}(?:{_CREDENTIAL_FORMS})",
    "su|sa|so|sn|sc|sx": rf"{_START}S[UAONCX][A-Z2-7]{{56}}",
    "bearer|basic|negotiate|apikey": rf"{_START}(?i:bearer|basic|negotiate|apikey)"
    rf"(?:\s*[:=]\s*|{_BLANK})[^\s\"',;&<>]+",
}
_EMAIL = r"(?<![\w.+%-])[\w.+%-]+(?:@|(?<=[\w.+-])%40)[\w-]+(?:\.[\w-]+)+"
_FORMS_BY_HINT: dict[str, list[tuple[Callable[[str, str], str], str]]] = {}
for _hints, _pattern, _shown in [*((*form, REMOVED) for form in _FORMS.items()), ("@|%40", _EMAIL, HIDDEN)]:
    for _hint in _hints.split("|"):
        _FORMS_BY_HINT.setdefault(_hint, []).append((re.compile(_pattern).sub, _shown))
_BEFORE_A_NUMBER = r"(?:(?<![0-9A-Za-z])|(?<=\\[nrt]))"
# Required in texts with named secrets, and with long numbers.
_SIGN = re.compile("[=:>%\uff1d\uff1a]")
_LONG = re.compile(rf"\d(?:{_GAP}[^\W_]){{9}}")
# An id stays as it is: one in two hundred UUIDs has a group that looks like an account number.
_UUID = r"(?P<uuid>(?<![0-9A-Za-z])[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![0-9A-Za-z]))"
_NUMBERS = re.compile(
    rf"{_UUID}|{_BEFORE_A_NUMBER}(?=[A-Z]{{2}}{_GAP}\d{_GAP}\d)(?:{_ibans()})(?!-?[0-9A-Za-z])"
    rf"|(?:(?<![\w.-])|(?<=\\[nrt]))\d{{4}}"
    rf"(?:(?:{_SPACE}\d{{4}}){{2,4}}(?:{_SPACE}\d{{1,3}})?|{_SPACE}\d{{6}}{_SPACE}\d{{4,5}})(?![\w-])"
    rf"|{_BEFORE_A_NUMBER}(?:[A-Z]{{2}})?\d{{10,}}(?![0-9A-Za-z])",
    re.IGNORECASE,
)


@lru_cache(maxsize=1024)
def _kind(name: str) -> str | None:
    """Return the kind of value that a name has in free text: secret, header, person or name; None for others."""
    if _HEADER.fullmatch(name):
        return "header"
    if _SECRET_NAME.search(name):
        return "secret"
    if _PERSON.fullmatch(name):
        return "person"
    return "name" if name.lower() == "name" else None


def _shown_for(kind: str, value: str) -> str:
    if kind in ("secret", "tagged", "header"):
        return REMOVED
    return HIDDEN if value[0] not in "\"'\\" else f"'{HIDDEN}'"


def _named_values(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield where the value of a secret or a person starts and ends, and what replaces it."""
    position = 0
    while match := _NAMED.search(text, position):
        position = match.end()
        name = match["name"]
        escaped = text[match.start() - 1 : match.start()] == "\\"
        kind = (_kind(name[1:]) if escaped else None) or _kind(name)
        if kind == "secret" and match[0].endswith(">") and not match[0].endswith("=>"):
            kind = "tagged"
        value = _VALUES[kind].match(text, position) if kind else None
        if kind and value:
            yield value.start(), value.end(), _shown_for(kind, value[0])
            position = value.end()


def _mask_named(text: str) -> str:
    """Mask values that follow the name of a secret or a person."""
    parts, shown = [], 0
    for start, end, replacement in _named_values(text):
        parts += [text[shown:start], replacement]
        shown = end
    return "".join([*parts, text[shown:]]) if parts else text


def _mask_url(match: re.Match[str]) -> str:
    url = match[0]
    if (credentials := _CREDENTIALS.search(url)) is None:
        return url
    at = credentials.start(2)
    # The `@` may be in the value of a query parameter, whose name is removed with what looks like credentials.
    query = _QUERY.search(url)
    ends = [end for start, end, _ in _named_values(url) if query and query.start() < start <= at < end]
    return f"{url[:credentials.end(1)]}{REMOVED}{url[ends[0] if ends else at:]}"


def mask_text(text: str, *, hide_amounts: bool = False) -> str:
    """Mask secrets, personal data, account numbers and, with `hide_amounts`, amounts in free text."""
    lowered = text.lower()
    numbers = _LONG.search(text)
    if _SIGN.search(text):
        if ("@" in lowered or "%40" in lowered) and ("://" in lowered or "%2f%2f" in lowered):
            text = _URL.sub(_mask_url, text)
        text = _mask_named(text)
        if hide_amounts:
            text = _AMOUNTS.sub(rf"\1{HIDDEN}", text)
    for hint, forms in _FORMS_BY_HINT.items():
        if hint in lowered:
            for substitute, shown in forms:
                text = substitute(shown, text)
    return _NUMBERS.sub(_last_four, text) if numbers else text


@lru_cache(maxsize=1024)
def _replacement(name: str, hide_amounts: bool) -> str | None:
    """Return the replacement for all values with this name; None if it depends on the value."""
    lowered = name.lower()
    if _SECRET_NAME.search(name):
        return REMOVED
    if lowered in _PERSONAL_NAMES or (lowered in _AMOUNT_NAMES and hide_amounts):
        return HIDDEN
    return None


def mask_value(  # pylint: disable=too-many-return-statements  # one per type of value
    name: str, value: Any, *, hide_amounts: bool
) -> Any:
    """Mask a named value, recursively through mappings and sequences."""
    if value is None or isinstance(value, bool):
        return value
    replacement = _replacement(name, hide_amounts)
    if replacement is not None:
        return replacement
    if isinstance(value, bytes | bytearray):
        value = value.decode(errors="backslashreplace")
    if isinstance(value, str):
        return mask_text(value, hide_amounts=hide_amounts)
    if isinstance(value, float) or (isinstance(value, int) and -_LONG_NUMBER < value < _LONG_NUMBER):
        return value
    if isinstance(value, Mapping):
        return {
            mask_text(str(key)): mask_value(str(key), item, hide_amounts=hide_amounts) for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [mask_value(name, item, hide_amounts=hide_amounts) for item in value]
    return mask_text(str(value), hide_amounts=hide_amounts)
