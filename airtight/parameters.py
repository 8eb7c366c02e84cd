"""A pipeline's runtime parameters as a person meets them: type, default, range, choices, description."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from airtight.errors import TerminalError

Scalar = str | int | float | bool
_PYTHON = {"str": str, "int": int, "float": float, "bool": bool}


@dataclass(frozen=True)
class Parameter:
    """One setting of a run, shown on the trigger form and substituted into the compiled pipeline.

    Args:
      name: The runtime parameter's name in the pipeline; units belong in it (`timeout_s`).
      type: "str", "int", "float" or "bool"; TFX's runtime parameters know the first three, and a component takes the
        last as `Parameter[int]`, 0 or 1.
      default: Its value when nobody says otherwise.
      description: What it does, for the trigger form.
      minimum: Smallest number allowed, or None.
      maximum: Largest number allowed, or None.
      choices: The only values allowed, or () for any.
    """

    name: str
    type: Literal["str", "int", "float", "bool"]
    default: Scalar
    description: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[Scalar, ...] = ()

    def __post_init__(self) -> None:
        self.check(self.default)

    def check(self, value: Any) -> Scalar:
        """Returns `value` in the parameter's type.

        Raises:
          TerminalError: Another type, outside the range, or none of the choices.
        """
        python = _PYTHON[self.type]
        right = isinstance(value, python) or (self.type == "float" and isinstance(value, int))
        # To Python, True is an int; to a person, it is none.
        if not right or isinstance(value, bool) != (self.type == "bool"):
            received = f"{value!r} of type {type(value).__name__}"
            raise _refusal(self.name, f"a value of type {self.type}", received)
        if self.minimum is not None and value < self.minimum:
            raise _refusal(self.name, f"at least {self.minimum:g}", value)
        if self.maximum is not None and value > self.maximum:
            raise _refusal(self.name, f"at most {self.maximum:g}", value)
        if self.choices:
            check_choice(self.name, value, self.choices)
        return python(value)

    def to_dict(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Parameter:
        """The inverse of `to_dict`."""
        return cls(**{**fields, "choices": tuple(fields.get("choices", ()))})


def check_choice(name: str, value: Any, choices: Sequence[Scalar]) -> None:
    """Refuses a parameter's value that is none of its choices.

    Args:
      name: The parameter's name.
      value: What was said.
      choices: The only values allowed.

    Raises:
      TerminalError: None of the choices.
    """
    if value not in choices:
        raise _refusal(name, f"one of {', '.join(map(str, choices))}", repr(value))


def check_override(name: str, value: str, reason: str) -> None:
    """Refuses to override a gate without a reason.

    Args:
      name: The parameter by which a run overrides it.
      value: `accept` where it does.
      reason: The parameter `override_reason`.

    Raises:
      TerminalError: There is none.
    """
    if value == "accept" and not reason.strip():
        raise _refusal("override_reason", f"a reason, because {name} is accept", "none")


def _refusal(name: str, expected: str, received: Any) -> TerminalError:
    return TerminalError(
        f"The parameter {name} has a value that it cannot take.",
        expected=expected,
        received=received,
        remedy=f"Correct {name} on the trigger form, in the run's conf or in the pipeline.",
    )
