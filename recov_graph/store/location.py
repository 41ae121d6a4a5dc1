"""Where traces go when nobody says: in a checkout beside the code, else in the user's data."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from recov_graph.errors import StoreError

ENVIRONMENT = "RECOV_GRAPH_DB"
SERVER = re.compile(r"postgres(ql)?://", re.IGNORECASE)
PASSWORD = re.compile("password")
SECRET = re.compile("password|secret|token|key")
# Parameters of an address whose values may have an "@" in them as it is.
WITH_AT = {"user", "password", "passfile", "dbname", "application_name", "service", "options"}
Address = Path | str  # a file, or the address of a PostgreSQL database


def is_server(address: Address) -> bool:
    """Whether it is the address of a database on a server, and not a file."""
    return isinstance(address, str) and SERVER.match(address) is not None


def shown(address: Address) -> str:
    """The address without a password."""
    text = str(address)
    if not is_server(text):
        return text
    scheme, _, rest = text.partition("://")
    user, at, place = _divided(rest)
    name = re.split("[:?&]", user)[0]  # of which none but ":" is in one that is well formed
    hidden = ":***" if name != user else ""
    if PASSWORD.search(unquote("".join(user.partition("?")[1:])).lower()):
        return f"{scheme}://{name}{hidden}"  # nobody can tell where that one ends
    # Where a password that has a "?" in it ends among the parameters, more of them may follow.
    begins = re.search("[?&]" if "?" in user else "[?]", place)
    where, query = place, ""
    if begins is not None:
        where, query = place[: begins.end()], place[begins.end() :]
    # What is no parameter may be the rest of a password that had a "&" in it.
    parts = [one if "=" in one or not one else "***" for one in query.split("&")]
    kept = "&".join(_without_secret(one) for one in parts)
    return f"{scheme}://{name}{hidden}{at}{where}{kept}"


def without_password(url: str | None) -> str | None:
    """The address of a model's server without what should not be kept of it."""
    if url is None:
        return None
    try:
        parts = urlsplit(url)
    except ValueError:  # not an address; whoever calls it will tell
        return url
    user, at, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    query = "&".join(_without_secret(one, SECRET) for one in parts.query.split("&"))
    kept = f"{name}{colon and ':***'}{at}{host}"
    return urlunsplit(parts._replace(netloc=kept, query=query))


def short_name(address: Address) -> str:
    """The name of the file or of the database, without where it is."""
    text = shown(address)
    return (text.partition("?")[0] if is_server(text) else text).rpartition("/")[2]


def check_server(address: str) -> None:
    """Refuse an address whose password would be taken for something else, and be told in an error.

    Raises:
        StoreError: it has characters that an address spells otherwise.
    """
    user, _, _ = _divided(address.partition("://")[2])
    if re.search(r"[@/\s]|%(?![0-9a-fA-F]{2})", user):
        raise StoreError(
            f"the user or password in {shown(address)} has a character that an address spells "
            "otherwise: @ is %40, / is %2F, % is %25, a blank is %20; or leave the password out "
            "and set PGPASSWORD"
        )


def _divided(rest: str) -> tuple[str, str, str]:
    """User and password, "@", and the rest, however odd the password is."""
    before, _, query = rest.partition("?")
    # An "@" behind "?" ends the password where it is in no parameter that may have one.
    with_at = {one.partition("=")[0] for one in query.split("&") if "@" in one}
    odd = bool(with_at - WITH_AT) or ("@" not in before and "/" not in before)
    end = rest.rfind("@") if odd else before.rfind("@")
    user = rest[: max(end, 0)]
    if end < 0 or ("/" in user and ":" not in user):  # none, or in the name of the database
        return "", "", rest
    return user, "@", rest[end + 1 :]


def _without_secret(part: str, words: re.Pattern[str] = PASSWORD) -> str:
    name, equals, value = part.partition("=")
    secret = words.search(unquote(name).lower()) is not None
    return f"{name}{equals}{'***' if secret else value}"


def default_path() -> Address:
    """`RECOV_GRAPH_DB`, else ``storage/traces.db`` of a checkout, else the user's data folder."""
    named = os.environ.get(ENVIRONMENT)
    if named:
        return named if is_server(named) else Path(named)
    return default_folder() / "traces.db"


def default_folder() -> Path:
    """The folder of the file that `RECOV_GRAPH_DB` names, else that of the default store."""
    named = os.environ.get(ENVIRONMENT)
    if named and not is_server(named):
        return Path(named).parent
    storage = Path(__file__).parents[2] / "storage"
    if (storage / "README.md").is_file():
        return storage
    from platformdirs import user_data_path

    return user_data_path("recov-graph", appauthor=False)
