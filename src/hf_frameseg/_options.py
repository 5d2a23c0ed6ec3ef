"""Settings that say once what each of their fields means, so that command lines can be made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, field, fields, make_dataclass
from typing import Any, NamedTuple, get_args, get_type_hints


class Option(NamedTuple):
    """Describe one field of some settings as an option of a command line.

    Args:
        name: Name of the field.
        type: Makes a value of a word: the first type of the field's annotation.
        default: Value of the field when the option is left out.
        help: What it means, as a phrase without a full stop.
        metavar: Placeholder of the value.
        choices: The allowed values, if they are few.
    """

    name: str
    type: Callable[[str], Any]
    default: Any
    help: str
    metavar: str
    choices: tuple[Any, ...] = ()

    @property
    def flag(self) -> str:
        """Return how the option is written, such as `--num-frames`."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def shown_help(self) -> str:
        """Return the help with choices and default, where there are any to be shown."""
        text = f"{self.help}: {', '.join(self.choices)}" if self.choices else self.help
        return (
            text if self.default is None or self.default is False else f"{text} (default: {_shown_value(self.default)})"
        )

    def keywords(self) -> dict[str, Any]:
        """Return the arguments of `argparse`'s `add_argument`; an option that is left out becomes None."""
        if self.type is bool:
            return {"action": "store_true", "default": None, "help": self.shown_help}
        shown = {"metavar": self.metavar, "help": self.shown_help}
        return {"type": self.type, "choices": self.choices or None, **shown}


def setting(default: Any, help: str, metavar: str = "VALUE", choices: tuple[Any, ...] = ()) -> Any:
    """Return a field of a dataclass of settings.

    Args:
        default: Its default.
        help: What it means, as a phrase without a full stop: shown by `--help`.
        metavar: Placeholder of the value in a command line.
        choices: The allowed values, if they are few; they follow the help.

    Returns:
        The field, with all but the default in its metadata.
    """
    # None where all values are allowed, as for argparse, which would refuse each of them for an empty tuple.
    return field(default=default, metadata={"help": help, "metavar": metavar, "choices": choices or None})


def options_of(settings: type) -> tuple[Option, ...]:
    """Return the fields of a dataclass that are made by `setting` as options of a command line.

    Args:
        settings: The dataclass.

    Returns:
        One option per field, in their order.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Walk:
        ...     pace: float | None = setting(2.5, "steps per second", "STEPS")
        >>> option, = options_of(Walk)
        >>> option.flag, option.shown_help, option.type("3")
        ('--pace', 'steps per second (default: 2.5)', 3.0)
    """
    types = get_type_hints(settings)
    return tuple(
        Option(
            one.name,
            next(iter(get_args(types[one.name])), types[one.name]),
            None if one.default is MISSING else one.default,
            one.metadata["help"],
            one.metadata["metavar"],
            one.metadata["choices"] or (),
        )
        for one in fields(settings)
        if "help" in one.metadata
    )


def optional_arguments(settings: type, otherwise: str = "default: {default}") -> type:
    """Return a dataclass with the same fields, each None until it is given; for `transformers.HfArgumentParser`.

    Args:
        settings: The dataclass.
        otherwise: What the help says of an option that is left out; `{default}` stands for the field's default.

    Returns:
        A dataclass to inherit from; its fields are keyword-only. `given` returns what was set.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Walk:
        ...     pace: float = setting(2.5, "steps per second")
        >>> class WalkArguments(optional_arguments(Walk)):
        ...     pass
        >>> given(WalkArguments(pace=3.0), Walk), given(WalkArguments(), Walk)
        ({'pace': 3.0}, {})
    """
    made = []
    for one in options_of(settings):
        shown = "none" if one.default is None else _shown_value(one.default)
        text = f"{one.help[0].upper()}{one.help[1:]}; {otherwise.format(default=shown)}."
        metadata = {"help": text, "metavar": one.metavar}
        made.append((one.name, one.type | None, field(default=None, metadata=metadata, kw_only=True)))
    return make_dataclass(f"Optional{settings.__name__}", made)


def given(values: Any, settings: type) -> dict[str, Any]:
    """Return which fields of some settings were given a value.

    Args:
        values: An object with attributes, such as parsed options, or a mapping; what it lacks was not given.
        settings: The dataclass whose fields count.

    Returns:
        Field -> value, without those that are None.
    """
    values = values if isinstance(values, Mapping) else vars(values)
    names = [one.name for one in fields(settings)]
    return {name: values[name] for name in names if values.get(name) is not None}


def split_choices(choices: Mapping[str, Any], settings: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell the fields of some settings from other arguments.

    Args:
        choices: Name -> value.
        settings: The dataclass.

    Returns:
        Those that are fields of it, and the others.
    """
    names = {one.name for one in fields(settings)}
    own = {name: value for name, value in choices.items() if name in names}
    return own, {name: value for name, value in choices.items() if name not in names}


def _shown_value(value: Any) -> str:
    """Write a default as a user would."""
    return f"{value:g}" if isinstance(value, float) else str(value)
