"""The policy file: what a router has learned from stored failures, as JSON that can be read.

A policy carries a population of failures (mean, standard deviation and count of each feature, over
all of them and per cell of model and task), how often each operator rescued them, the rule's
mapping from features to operators, and when to stop. It is data only; nothing in it is executed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from recov_graph.errors import PolicyError
from recov_graph.features import FEATURES
from recov_graph.problem import describe
from recov_graph.rollout_features import ROLLOUT_FEATURE_VERSION, ROLLOUT_FEATURES
from recov_graph.signals import FEATURE_VERSION
from recov_graph.words import cut, short

SCHEMA_VERSION = 2
ROUTER_VERSION = 1
MOST_BYTES = 64 << 20  # of a policy file; the shipped one has 30 thousand
MOST = 1e100  # of a count, or of what rates are made of: its square is a float still
LEAST_SD = 1e-9  # a feature that never varied says nothing
NUMBERS = re.compile(r"\[[-+.,\deE\s]+\]")  # a list of nothing but numbers goes on one line
DEFAULT = Path(__file__).parent / "default_policy.json"
Names = tuple[str, ...]  # of the features of a set, in order

# The paper's rule: which feature speaks for which operator.
RULE = {
    "spread": "dense_steer",
    "concentration": "sparse_steer",
    "logit_dispersion": "local_temp",
}
# The same for models whose samples cannot be measured: a failure that was cut wants more room, one
# that every sample makes alike wants another start.
ROLLOUT_RULE = {"truncated": "extend", "agreement": "replan"}


def _of_sane_size(value: int) -> int:
    if value > MOST:
        raise ValueError(f"a count must be at most {MOST:g}")
    return value


Whole = Annotated[int, AfterValidator(_of_sane_size)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Moments(_Part):
    """A feature over a set of failed problems."""

    mean: float = Field(ge=-1e9, le=1e9)
    sd: float = Field(ge=0, le=1e9)
    count: Whole = Field(ge=0)


class Rescue(_Part):
    """How an operator's rescue rate varies over failed problems: a Beta distribution.

    After k failed attempts at a problem the next one is expected to pass with probability
    alpha / (alpha + beta + k).
    """

    alpha: float = Field(gt=0, le=MOST)
    beta: float = Field(gt=0, le=MOST)
    problems: int = Field(ge=0)

    def after(self, failures: float) -> float:
        """The expected rescue probability after that many failed attempts."""
        return self.alpha / (self.alpha + self.beta + failures)


class Window(_Part):
    """When the first and the last of the failures were stored that a policy was fitted on."""

    first: str
    last: str


class Counts(_Part):
    """What a policy was fitted on."""

    problems: Whole = Field(ge=0)
    attempts: float = Field(ge=0, le=MOST)
    rescues: float = Field(ge=0, le=MOST)


class Covariates(_Part):
    """How what is known before the first intervention tells the hardness of a failure.

    Hardness is the log-odds of a rescue: `intercept`, the cell's own part, and a coefficient for
    each feature's z-score and for the log-odds of the share of samples that failed, of the most
    ever `sampled`. Where features were not measured, their part spreads by `spread`.
    """

    intercept: float
    cells: dict[str, float] = Field(default_factory=dict)
    coefficients: dict[str, float]
    sampled: dict[str, int] = Field(default_factory=dict)
    spread: float = Field(default=0.0, ge=0, le=1e3)


class Posterior(_Part):
    """Types of failure, learned from stored outcomes: a mixture over what operators rescue.

    Attributes:
        operators: names, in the order of the columns of `rescue`.
        rescue: for each type, the probability that an attempt of each operator passes.
        weights: the share of each type among all stored failures.
        cells: the same by cell, sparse: type to share; a cell not in here has `weights`.
        hardness: where each type lies on the scale of `covariates`.
        bandwidth: how far from there failures of that type spread, as a standard deviation.
        covariates: how hardness is told before anything was tried.
        informed: how far covariates say which operator to choose, 0 to 1, beyond how hard it is.
        measure: whether the features pay for being measured before the first choice.
        failures: stored failures by cell: how far to trust them against the cold-start rule.
        explore: the share of choices made at random, so that policies can be compared from logs.
    """

    operators: list[str] = Field(min_length=1)
    rescue: list[list[float]] = Field(min_length=1)
    weights: list[float]
    cells: dict[str, dict[int, float]] = Field(default_factory=dict)
    hardness: list[float]
    bandwidth: float = Field(gt=0, le=1e9)
    covariates: Covariates
    informed: float = Field(ge=0, le=1)
    measure: bool
    failures: dict[str, int]
    explore: float = Field(default=0.05, ge=0, le=1)

    @model_validator(mode="after")
    def _shapes_agree(self) -> Posterior:
        types = len(self.rescue)
        for name, length in (("weights", len(self.weights)), ("hardness", len(self.hardness))):
            if length != types:
                raise ValueError(f"{name} has {length} numbers for {types} types")
        if any(len(row) != len(self.operators) for row in self.rescue):
            raise ValueError(f"every type of rescue must have {len(self.operators)} numbers")
        if any(not 0 < p < 1 for row in self.rescue for p in row):
            raise ValueError("rescue must lie strictly between 0 and 1")
        if any(w < 0 for w in self.weights) or sum(self.weights) <= 0:
            raise ValueError("weights must be at least 0 and not all 0")
        places = (*self.hardness, *self.covariates.cells.values(), self.covariates.intercept)
        if any(abs(v) > 1e3 for v in (*places, *self.covariates.coefficients.values())):
            raise ValueError("hardness is in log-odds: no part of it may exceed 1,000")
        if any(not 0 <= count <= 1e12 for count in self.failures.values()):
            raise ValueError("failures must be counts of at most 1e12")
        if any(not 0 <= most <= MOST for most in self.covariates.sampled.values()):
            raise ValueError("sampled must be counts of at most 1e100")
        if any(weight > MOST for weight in self.weights):
            raise ValueError("weights must be at most 1e100")
        for cell, shares in self.cells.items():
            if any(not 0 <= index < types or share < 0 for index, share in shares.items()):
                raise ValueError(f"cell {cell!r} names a type that does not exist")
        return self


def _check_features(part: Policy | RolloutPart, known: Names) -> None:
    """A part must have moments of exactly the features of its set, and rules of no others."""
    for name, moments in [("population", part.population), *part.cells.items()]:
        if set(moments) != set(known):
            raise ValueError(f"{name} has {sorted(moments)}; it must have {sorted(known)}")
    unknown = set(part.rule) - set(known)
    if unknown:
        raise ValueError(f"rule names {sorted(unknown)}; features are {sorted(known)}")


class RolloutPart(_Part):
    """What a policy says by rollout features, for models whose samples cannot be measured.

    Attributes:
        population: each feature over all failures.
        cells: the same by cell of model and task.
        rule: which feature speaks for which operator.
    """

    feature_version: int = ROLLOUT_FEATURE_VERSION
    population: dict[str, Moments]
    cells: dict[str, dict[str, Moments]] = Field(default_factory=dict)
    rule: dict[str, str] = Field(default_factory=lambda: dict(ROLLOUT_RULE))

    @model_validator(mode="after")
    def _features_are_known(self) -> RolloutPart:
        _check_features(self, ROLLOUT_FEATURES)
        return self


# Features that never varied: none of them stands out.
NO_ROLLOUTS = RolloutPart(
    population={name: Moments(mean=0.0, sd=0.0, count=0) for name in ROLLOUT_FEATURES}, rule={}
)


class Policy(_Part):
    """A validated policy; see the module's docstring.

    Attributes:
        shrinkage: failures' worth of weight that the whole population has in a cell's moments.
        failed_samples: failed plain rollouts after which `rescue` was measured.
        carry_over: how much a failure with one operator counts against another, 0 to 1.
        stop_below: the chance of any rescue in the attempts left under which to stop.
        code_version: of the package that fitted it.
        window: when the failures it was fitted on were stored.
        counts: how many they were.
        posterior: what was learned from them; None for a policy of the cold-start rule alone.
        rollout: population, cells and rule of the rollout features, where any were stored.
    """

    schema_version: Literal[1, 2] = 2
    name: str = Field(min_length=1)
    created: str
    source: str
    feature_version: int = FEATURE_VERSION
    router_version: int = ROUTER_VERSION
    population: dict[str, Moments]
    cells: dict[str, dict[str, Moments]] = Field(default_factory=dict)
    shrinkage: float = Field(default=20.0, ge=0, le=MOST)
    rule: dict[str, str] = Field(default_factory=lambda: dict(RULE))
    rescue: dict[str, Rescue]
    carry_over: float = Field(default=0.0, ge=0, le=1)
    failed_samples: Whole = Field(default=4, ge=0)
    stop_below: float = Field(ge=0, le=1)
    code_version: str | None = None
    window: Window | None = None
    counts: Counts | None = None
    posterior: Posterior | None = None
    rollout: RolloutPart | None = None

    @model_validator(mode="after")
    def _features_are_known(self) -> Policy:
        _check_features(self, FEATURES)
        return self

    @property
    def content_hash(self) -> str:
        """The first 16 hex digits of the SHA-256 of everything the policy says."""
        text = json.dumps(self._as_data(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def part(self, features: Names = FEATURES) -> Policy | RolloutPart:
        """Where population, cells and rule of a feature set are; empty where there are none."""
        return self if features == FEATURES else self.rollout or NO_ROLLOUTS

    def moments(
        self, model: str, task: str, features: Names = FEATURES
    ) -> tuple[dict[str, Moments], int]:
        """Moments of each feature of a set for a cell, and how many failures of it are stored.

        A cell with n failures is weighed n : shrinkage against the whole population.
        """
        name = cell_name(model, task)
        cell = self.part(features).cells.get(name)
        return self.cell_moments(name, features), cell[features[0]].count if cell else 0

    def cell_moments(self, name: str, features: Names = FEATURES) -> dict[str, Moments]:
        """Moments for the cell of that name; the population's for an unknown one."""
        part = self.part(features)
        cell = part.cells.get(name)
        if cell is None:
            return part.population
        return {
            feature: _shrunk(cell[feature], part.population[feature], self.shrinkage)
            for feature in features
        }

    def save(self, path: str | Path) -> None:
        """Write the policy with its content hash."""
        data = {**self._as_data(), "content_hash": self.content_hash}
        text = NUMBERS.sub(lambda found: " ".join(found[0].split()), json.dumps(data, indent=2))
        Path(path).write_text(text + "\n", encoding="utf-8")

    def _as_data(self) -> dict[str, Any]:
        # Without what is not there: a file of an earlier version keeps its hash.
        return self.model_dump(mode="json", exclude_none=True)


def cell_name(model: str, task: str) -> str:
    """The key of a cell in a policy."""
    # The bar separates the two, so one inside a name is doubled.
    return "|".join(part.replace("|", "||") for part in (model, task))


def model_part(cell: str) -> str:
    """The cell's name with an empty task: the same for all cells of a model."""
    model = re.match(r"(?:[^|]|\|\|)*", cell)
    assert model is not None
    return f"{model[0]}|"


def _shrunk(cell: Moments, everyone: Moments, strength: float) -> Moments:
    """Moments of a cell pooled with `strength` pseudo-failures of the whole population."""
    total = cell.count + strength
    if total == 0:
        return everyone
    share = cell.count / total
    mean = share * cell.mean + (1 - share) * everyone.mean
    variance = share * (cell.sd**2 + (cell.mean - mean) ** 2) + (1 - share) * (
        everyone.sd**2 + (everyone.mean - mean) ** 2
    )
    return Moments(mean=mean, sd=variance**0.5, count=cell.count)


def load_policy(path: str | Path) -> Policy:
    """Read a policy file.

    Raises:
        PolicyError: it cannot be read, is of a newer version, was edited by hand or is damaged.
    """
    try:
        data: Any = json.loads(_read(Path(path)))
    except OSError as error:
        raise PolicyError(f"policy {path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"policy {path}: not JSON ({cut(str(error))})") from None
    if not isinstance(data, dict):
        raise PolicyError(f"policy {path}: expected a JSON object, got {type(data).__name__}")
    version = data.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise PolicyError(
            f"policy {path}: schema_version {short(version)} is newer than {SCHEMA_VERSION}, the "
            "newest known here; upgrade with `pip install -U recov-graph`"
        )
    claimed = data.pop("content_hash", None)
    try:
        policy = Policy.model_validate(data)
    except ValidationError as error:
        raise PolicyError(f"policy {path}: {describe(error)}") from None
    for kind, made, here in (
        ("feature", policy.feature_version, FEATURE_VERSION),
        ("rollout feature", policy.part(ROLLOUT_FEATURES).feature_version, ROLLOUT_FEATURE_VERSION),
    ):
        if made != here:
            raise PolicyError(
                f"policy {path}: made for {kind} version {made}, this is {here}; "
                "fit it again from stored traces"
            )
    if claimed != policy.content_hash:
        raise PolicyError(
            f"policy {path}: content_hash is {short(claimed)} but the content has "
            f"{policy.content_hash!r}; the file was changed after it was written"
        )
    return policy


def _read(path: Path) -> str:
    """The text of a file, where it is one of sane size: not a pipe or a device that never ends.

    Raises:
        OSError: it cannot be read, or is none.
        ValueError: it is no text.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "it is no file")
    with path.open("rb") as file:
        raw = file.read(MOST_BYTES + 1)
    if len(raw) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {MOST_BYTES >> 20} MB")
    return raw.decode("utf-8")


@lru_cache(maxsize=1)
def default_policy() -> Policy:
    """The policy that ships with the package, measured on the embedded pair."""
    return load_policy(DEFAULT)
