"""The shelf of policies: a folder of policy files, and which of them is active.

Every file is named by its policy's content hash. Which policy is active follows from
`history.jsonl` in the same folder, to which lines are only ever added. Activations are a stack:
activate A, activate B, roll back, and A is active; roll back again, and it is the shipped policy.
Activating what is active already is recorded but adds nothing to the stack, so that a rollback
always gets away from what is active.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from recov_graph.errors import PolicyError
from recov_graph.problem import describe, strict_json
from recov_graph.routing.policy import DEFAULT, Policy, default_policy, load_policy
from recov_graph.store.location import default_folder
from recov_graph.store.traces import now
from recov_graph.words import cut, listed, short

ENVIRONMENT = "RECOV_GRAPH_POLICIES"
SHIPPED = "shipped"
ACTIVE = "active"
HISTORY = "history.jsonl"
LEAST_PREFIX = 4
HASH = re.compile(r"[0-9a-f]{16}")
# Put behind a line that a power loss cut short, before the next: whatever else cannot be read was
# damaged, and leaving it out could bring back a policy that was rolled back.
CUT_OFF = b" (cut off)"
SHOWN = 8  # policies that a message names before it only counts them


def policies_path() -> Path:
    """`RECOV_GRAPH_POLICIES`, else ``policies/`` beside the default trace store."""
    named = os.environ.get(ENVIRONMENT)
    return Path(named) if named else default_folder() / "policies"


@dataclass(frozen=True, slots=True)
class Activation:
    """A line of the history.

    Attributes:
        time: in UTC, as ISO 8601.
        policy: the hash that was active from then on, or "shipped".
        action: how it came to be active.
        why: the reason given, as text.
    """

    time: str
    policy: str
    action: Literal["activate", "rollback"]
    why: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A file on the shelf.

    Attributes:
        policy: None for a file that cannot be used.
        path: the file.
        active: whether it holds the active policy.
        activations: how often it was activated, rollbacks not counted.
        error: why it cannot be used, in one line; None where it can.
    """

    policy: Policy | None
    path: Path
    active: bool = False
    activations: int = 0
    error: str | None = None


# Inside the class `list` is a method.
_Entries = list[Entry]
_History = list[Activation]


class PolicyShelf:
    """A folder of policies; made when something is first written to it. Safe between processes.

    Args:
        folder: by default `policies_path()`.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder is not None else policies_path()
        self._history = self.folder / HISTORY

    def save(self, policy: Policy) -> Path:
        """Put a policy on the shelf; the same policy twice is one file.

        Raises:
            PolicyError: the policy is not valid, or the folder cannot be written.
        """
        try:
            # A copy made by model_copy was never checked, and what is saved must load again.
            data = policy.model_dump(mode="json", exclude_none=True, warnings=False)
            policy = Policy.model_validate(data)
        except ValueError as error:
            why = describe(error) if isinstance(error, ValidationError) else cut(str(error))
            raise PolicyError(f"policy {short(policy.name)} cannot be saved: {why}") from None
        path = self._path(policy.content_hash)
        spare = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                policy.save(spare)
                with spare.open("rb+") as file:
                    os.fsync(file.fileno())
                spare.replace(path)
            finally:
                spare.unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None
        _sync_folder(self.folder)
        return path

    def list(self) -> _Entries:
        """What is on the shelf, by creation date; damaged files come last, with their error.

        Raises:
            PolicyError: the folder cannot be read.
        """
        history, entries = [], []
        try:
            history = self.history()
        except PolicyError as error:
            entries.append(Entry(None, self._history, error=str(error)))
        active = _stack(history)[-1:]
        activated = [line.policy for line in history if line.action == "activate"]
        # An active policy whose file is gone is missed, not passed over.
        paths = self._files() | {self._path(ref) for ref in active if ref != SHIPPED}
        for path in paths:
            policy, why = None, None
            try:
                policy = self._load(path)
            except PolicyError as error:
                why = _one_line(error)
            used, times = [path.stem] == active, activated.count(path.stem)
            entries.append(Entry(policy, path, used, times, why))
        return sorted(
            entries,
            key=lambda e: (e.policy is None, e.policy.created if e.policy else "", e.path.name),
        )

    def find(self, ref: str | Path) -> Policy:
        """The policy meant by a reference.

        Args:
            ref: "shipped", "active", a file's path, a content hash or the first 4 or more
                characters of one, or a name.

        Raises:
            PolicyError: nothing or more than one policy is meant, or it cannot be used.
        """
        if ref == SHIPPED:
            return default_policy()
        if ref == ACTIVE:
            active = self.active()
            if active is None:
                raise PolicyError("no policy is active; 'shipped' is the one in use")
            return active
        if isinstance(ref, Path) or _is_file(ref):
            return self._load(Path(ref))
        named = self._by_hash()
        meant = [
            found
            for found, entry in named.items()
            if (len(ref) >= LEAST_PREFIX and found.startswith(ref.lower()))
            or (entry.policy is not None and entry.policy.name == ref)
        ]
        if ref.lower() in meant:
            meant = [ref.lower()]
        if len(meant) > 1:
            raise PolicyError(
                f"{short(ref)} could mean {listed(meant, SHOWN)}; give more of the hash"
            )
        if meant:
            entry = named[meant[0]]
            if entry.policy is not None:
                return entry.policy
            raise PolicyError(entry.error)
        if os.sep in ref or ref.endswith(".json"):
            return self._load(Path(ref))
        sound = [(name, e.policy.name) for name, e in named.items() if e.policy is not None]
        known = listed([f"{found} ({short(name, 40)})" for found, name in sound], SHOWN)
        legal = f"a file, a name or at least {LEAST_PREFIX} characters of a hash"
        raise PolicyError(f"no policy is {short(ref)}; give {legal}; known are {known}")

    def _by_hash(self) -> dict[str, Entry]:
        """Everything that can be meant; a damaged file by the hash in its name."""
        entries = [*self.list(), Entry(default_policy(), DEFAULT)]
        return {e.policy.content_hash if e.policy else e.path.stem: e for e in entries}

    def active(self) -> Policy | None:
        """The active policy; None where there is none, so that the shipped one is used.

        There is none before the first activation and after the last of them was rolled back.

        Raises:
            PolicyError: its file or the history is damaged.
        """
        ref = self.active_ref()
        try:
            return None if ref is None else self._of(ref)
        except PolicyError as error:
            raise PolicyError(
                f"the active policy cannot be used: {error}; "
                "go back to the one before with `recov-graph policy rollback`"
            ) from None

    def active_ref(self) -> str | None:
        """The hash of the active policy or "shipped"; None where there is none.

        Raises:
            PolicyError: the history is damaged.
        """
        stack = _stack(self.history())
        return stack[-1] if stack else None

    def activate(self, policy: Policy, *, why: str) -> None:
        """Make a policy the active one, saved first where it is not on the shelf.

        The policy that ships is recorded as "shipped", so that a later release of the package
        brings its own.

        Raises:
            PolicyError: the policy is not valid, the folder cannot be written, or the history is
                damaged.
        """
        ref = SHIPPED if policy == default_policy() else self.save(policy).stem
        self._append(Activation(now(), ref, "activate", why))

    def rollback(self, *, why: str = "") -> Policy:
        """Go back to the policy that was active before; returns what is active then.

        Raises:
            PolicyError: nothing is active, the one before cannot be used (nothing is changed), the
                folder cannot be written, or the history is damaged.
        """
        stack = _stack(self.history())
        if not stack:
            raise PolicyError(
                "no policy is active: the shipped one, in use now, has none before it"
            )
        before = stack[-2] if len(stack) > 1 else SHIPPED
        try:
            self._of(before)
        except PolicyError as error:
            raise PolicyError(
                f"the policy before cannot be used: {error}; "
                "`recov-graph policy activate shipped` goes back to the shipped one"
            ) from None
        self._append(Activation(now(), before, "rollback", why))
        # Read again: another process may have added to the history meanwhile.
        return self.active() or default_policy()

    def history(self) -> _History:
        """All activations and rollbacks, the oldest first; a last line cut short is left out.

        Raises:
            PolicyError: it cannot be read, or another line is damaged.
        """
        found, (*lines, last) = [], self._raw_history().split(b"\n")
        for number, line in enumerate(lines, start=1):
            if line.strip() and not line.rstrip().endswith(CUT_OFF):
                activation = _activation(line)
                if activation is None:
                    text = short(line.decode(errors="replace"))
                    raise PolicyError(
                        f"{self._history}:{number}: neither an activation nor a rollback: {text}; "
                        "take the line out to go on"
                    )
                found.append(activation)
        unfinished = _activation(last)
        return found if unfinished is None else [*found, unfinished]

    def _append(self, activation: Activation) -> None:
        self.history()  # to be refused before anything is written
        last = self._raw_history().rpartition(b"\n")[2]
        start = b""
        if last:
            start = b"\n" if _activation(last) else CUT_OFF + b"\n"
        fields = {name: getattr(activation, name) for name in Activation.__slots__}
        line = start + json.dumps(fields).encode() + b"\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = os.open(self._history, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                # One write, so that lines of several processes do not mix.
                if os.write(file, line) < len(line):
                    raise PolicyError(f"{self._history}: cut short, for the disk is full")
                os.fsync(file)
            finally:
                os.close(file)
        except OSError as error:
            raise self._unwritable(error) from None
        _sync_folder(self.folder)

    def _raw_history(self) -> bytes:
        try:
            return self._history.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise PolicyError(f"{self._history}: cannot be read: {error.strerror}") from None

    def _of(self, ref: str) -> Policy:
        return default_policy() if ref == SHIPPED else self._load(self._path(ref))

    def _path(self, content_hash: str) -> Path:
        return self.folder / f"{content_hash}.json"

    def _files(self) -> set[Path]:
        try:
            return {path for path in self.folder.iterdir() if path.suffix == ".json"}
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise PolicyError(f"{self.folder}: cannot be read: {error.strerror}") from None

    def _load(self, path: Path) -> Policy:
        policy = load_policy(path)
        # Otherwise a sound file under the name of another would become active in its place.
        if path.absolute().parent == self.folder.absolute() and path.stem != policy.content_hash:
            raise PolicyError(
                f"policy {path}: holds the policy {policy.content_hash}, which belongs in "
                f"{policy.content_hash}.json; rename the file"
            )
        return policy

    def _unwritable(self, error: OSError) -> PolicyError:
        return PolicyError(
            f"policies {self.folder}: cannot be written: {error.strerror}; "
            f"name another folder with --policies or {ENVIRONMENT}"
        )


def _stack(history: _History) -> list[str]:
    stack: list[str] = []
    for line in history:
        if line.action == "rollback":  # of nothing, where two processes went back at once
            del stack[-1:]
        elif stack[-1:] != [line.policy]:
            stack.append(line.policy)
    return stack


def _activation(line: bytes) -> Activation | None:
    """What a line of the history says; None where it says nothing that can be understood."""
    try:
        data = strict_json(line.decode("utf-8"))
        fields = {name: data[name] for name in Activation.__slots__}
    except (ValueError, RecursionError, TypeError, KeyError):
        return None
    texts = all(isinstance(value, str) for value in fields.values())
    if not texts or fields["action"] not in ("activate", "rollback"):
        return None
    # The hash becomes the name of a file, so it may be nothing but one.
    named = fields["policy"] == SHIPPED or HASH.fullmatch(fields["policy"])
    return Activation(**fields) if named else None


def _is_file(ref: str) -> bool:
    with suppress(OSError, ValueError):  # a name that no file can have
        return Path(ref).is_file()
    return False


def _one_line(error: PolicyError) -> str:
    # The names of files on the shelf are not the user's own words.
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(error))


def _sync_folder(folder: Path) -> None:
    """Make a new name in a folder outlast a power loss, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
