"""Strategies for secrets in all forms in which they may occur in text, each with the part that must be masked."""

import json
import string
from urllib.parse import quote

from hypothesis import strategies as st

ALPHANUMERIC = string.ascii_letters + string.digits
Secret = tuple[str, str]


def word(alphabet: str = ALPHANUMERIC, min_size: int = 12, max_size: int = 30) -> st.SearchStrategy[str]:
    """Return a strategy for texts that do not occur by chance."""
    return st.text(alphabet, min_size=min_size, max_size=max_size)


def jwts() -> st.SearchStrategy[Secret]:
    part = word(ALPHANUMERIC + "-_")
    return st.tuples(part, part, part).map(lambda parts: (f"eyJ{'.'.join(parts)}", parts[2]))


def bearers() -> st.SearchStrategy[Secret]:
    scheme = st.sampled_from(
        [
            *(
                "Bearer ",
                "bearer ",
                "BEARER ",
                "bEaReR ",
                "Bearer\t",
                "Bearer  ",
                "bearer%20",
                "Bearer: ",
                "Basic ",
                "basic ",
            ),
            *("Authorization: Bearer ", '"authorization": "Basic ', "Authorization: Token ", "authorization=ApiKey "),
            *('Authorization: Digest username="x", response=', "Cookie: a=b; session=", "set-cookie: id=1; token="),
        ]
    )
    return st.tuples(scheme, word(ALPHANUMERIC + "-._~+/")).map(lambda pair: ("".join(pair), pair[1]))


NAMES = [
    *("password", "PASSWORD", "db_passwd", "client_secret", "api_key", "x-api-key", "access_token", "Cookie", "pwd"),
    *(
        "pass",
        "user_pass",
        "pin",
        "cvv",
        "otp",
        "auth",
        "sessionId",
        "credentials",
        "accessKey",
        "dsn",
        "jwt",
        "private",
    ),
]


def pairs() -> st.SearchStrategy[Secret]:
    bare = word(ALPHANUMERIC + "!$%*+-./@^_~|<>?#")
    free = word(string.digits + string.ascii_letters + " ,;&}])('\"\\=:é", min_size=14)
    name, sign = st.sampled_from(NAMES), st.sampled_from(["=", ": ", ":", " = ", "=>", " => ", ":=", "==", "\uff1d"])
    # A separator is part of the value unless another name follows.
    joined = st.tuples(bare, st.sampled_from(",;&)}]"), word()).map("".join)
    return st.one_of(
        st.tuples(name, sign, bare).map(lambda parts: ("".join(parts), parts[2])),
        st.tuples(name, sign, joined).map(lambda parts: ("".join(parts), parts[2][-12:])),
        st.tuples(name, word()).map(lambda pair: (f"<{pair[0]}>{pair[1]}</{pair[0]}>", pair[1])),
        st.tuples(name, word()).map(lambda pair: (f"x?{pair[0]}%3D{pair[1]}%26c%3Dd", pair[1])),
        st.tuples(name, free).map(lambda pair: (json.dumps({pair[0]: pair[1]}), json.dumps(pair[1])[1:-1])),
        st.tuples(name, free).map(lambda pair: (repr({pair[0]: pair[1]}), repr(pair[1])[1:-1])),
        st.tuples(name, bare).map(lambda pair: (json.dumps(json.dumps({pair[0]: pair[1]})), pair[1])),
        st.tuples(name, bare).map(lambda pair: (f"https://host/path?a=b&{pair[0]}={pair[1]}&c=d", pair[1])),
    )


def account_numbers() -> st.SearchStrategy[Secret]:
    number = st.from_regex(r"[1-9][0-9]{9,17}", fullmatch=True)
    before = st.sampled_from(["", "acct_", "DE", "no.", "#", "account_number=", "\\n"])
    return st.tuples(before, number).map(lambda pair: ("".join(pair), pair[1]))


def emails() -> st.SearchStrategy[Secret]:
    return st.tuples(word(ALPHANUMERIC + "._%+-"), word(string.ascii_lowercase, 2, 8)).map(
        lambda pair: (f"{pair[0]}@{pair[1]}.example.org", pair[0])
    )


def pems() -> st.SearchStrategy[Secret]:
    return st.tuples(
        st.sampled_from(["", "RSA ", "EC ", "ENCRYPTED ", "OPENSSH "]), word(ALPHANUMERIC + "+/="), st.booleans()
    ).map(
        lambda parts: (
            f"-----BEGIN {parts[0]}PRIVATE KEY-----\n{parts[1]}\n"
            + (f"-----END {parts[0]}PRIVATE KEY-----" if parts[2] else ""),
            parts[1],
        )
    )


def ibans() -> st.SearchStrategy[Secret]:
    """IBANs with and without letters, grouped or not; the last four characters are not masked."""
    countries = {
        "DE": "d" * 18,
        "GB": "l" * 4 + "d" * 14,
        "FR": "d" * 10 + "x" * 11 + "dd",
        "MT": "l" * 4 + "d" * 5 + "x" * 18,
    }
    countries |= {"NO": "d" * 11, "BE": "d" * 12, "NL": "l" * 4 + "d" * 10, "CH": "d" * 5 + "x" * 12}
    alphabets = {"d": string.digits, "l": string.ascii_uppercase, "x": string.ascii_uppercase + string.digits}

    def number(country: str) -> st.SearchStrategy[str]:
        parts = [st.sampled_from(alphabets[kind]) for kind in "dd" + countries[country]]
        return st.tuples(*parts).map(lambda letters: country + "".join(letters))

    def written(number: str, gap: str, small: bool) -> Secret:
        text = gap.join(number[start : start + 4] for start in range(0, len(number), 4))
        text = text.lower() if small else text
        return text, text[: -4 - 2 * len(gap)]

    whole = st.sampled_from(sorted(countries)).flatmap(number)
    return st.tuples(whole, st.sampled_from(["", " ", "-", "\u00a0", "\u202f"]), st.booleans()).map(
        lambda parts: written(*parts)
    )


def cards() -> st.SearchStrategy[Secret]:
    """Card numbers in groups, and long numbers in non-ASCII digits."""
    digits = st.text(string.digits, min_size=16, max_size=16)
    gap = st.sampled_from([" ", "-", "\u00a0"])
    zeros = st.sampled_from("\u0660\u06f0\u0966\uff10\U0001d7ce")
    return st.one_of(
        st.tuples(digits, gap).map(
            lambda pair: (
                pair[1].join(pair[0][n : n + 4] for n in (0, 4, 8, 12)),
                pair[1].join((pair[0][:4], pair[0][4:8])),
            )
        ),
        st.tuples(digits, gap).map(
            lambda pair: (pair[1].join((pair[0][:4], pair[0][4:10], pair[0][10:15])), pair[0][4:10])
        ),
        st.tuples(digits, zeros)
        .map(lambda pair: "".join(chr(ord(pair[1]) + int(digit)) for digit in pair[0]))
        .map(lambda text: (text, text[:-4])),
    )


def webhooks() -> st.SearchStrategy[Secret]:
    parts = st.tuples(word(string.ascii_uppercase + string.digits, 8, 10), word(min_size=20, max_size=24))

    def address(pair: tuple[str, str], escaped: bool, start: str) -> Secret:
        path = f"services/T{pair[0]}/B{pair[0][::-1]}/{pair[1]}"
        text = "hooks.slack.com/" + path if start != "path" else path
        return (start.removesuffix("path") + (quote(text, safe="") if escaped and start != "path" else text), pair[1])

    return st.tuples(parts, st.booleans(), st.sampled_from(["https://", "", "path"])).map(lambda three: address(*three))


def known_tokens() -> st.SearchStrategy[Secret]:
    prefix = st.sampled_from(["xoxb-", "xoxp-1-", "ghp_", "gho_", "github_pat_", "glpat-", "sk_live_", "AIza"])
    seed = st.text(string.ascii_uppercase + "234567", min_size=56, max_size=56)
    return st.one_of(
        st.tuples(prefix, word(min_size=30, max_size=40)).map(lambda pair: ("".join(pair), pair[1])),
        seed.map(lambda text: (f"SU{text}", text)),
    )


def urls() -> st.SearchStrategy[Secret]:
    user = st.sampled_from(["bank:", "bank@home:", ":", ""])
    scheme = st.sampled_from(["postgresql+asyncpg", "nats", "https", "redis"])

    def address(scheme: str, user: str, password: str, escaped: bool) -> Secret:
        whole = f"{scheme}://{user}{password}@host:5432/bank"
        return (quote(whole, safe=""), quote(password, safe="")) if escaped else (whole, password)

    return st.tuples(scheme, user, word(ALPHANUMERIC + "@:!$&'()*+,;=-._~%/?#[]"), st.booleans()).map(
        lambda parts: address(*parts)
    )


SECRETS = st.one_of(
    *(
        jwts(),
        bearers(),
        pairs(),
        account_numbers(),
        emails(),
        pems(),
        urls(),
        ibans(),
        cards(),
        webhooks(),
        known_tokens(),
    )
)
BEFORE = st.text("ab 1é\n", max_size=5).flatmap(lambda text: st.sampled_from(" \n,;([{<>'\"|=").map(lambda c: text + c))
AFTER = st.text("ab 1é\n", max_size=5).map(lambda text: ' "' + text)
