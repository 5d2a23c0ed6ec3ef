"""The parser of the commands, and options made of the fields of settings."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from hf_frameseg._options import options_of
from hf_frameseg.cli.messages import say

USER_ERROR = 2  # the exit status that argparse uses for a wrong command line


class Parser(argparse.ArgumentParser):
    """Refuse a wrong command line in one line."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong in one line, and exit."""
        say(f"frameseg: error: {message}; see {self.prog} --help")
        raise SystemExit(USER_ERROR)

    def options(self) -> dict[str, argparse.Action]:
        """Return the options by the name under which their values are kept, which is that of the field they set."""
        return {action.dest: action for action in self._actions if action.option_strings}


def add_settings(parser: argparse._ActionsContainer, settings: Any, *names: str) -> None:
    """Add an option for each field of some settings; type, choices, default and help are those of the field.

    An option that is left out is None, so that `_options.given` tells which fields were set.

    Args:
        parser: Parser of a command, or a group of it.
        settings: A dataclass whose fields are made by `_options.setting`; or an object of it, whose values are then the
            defaults that are shown.
        names: The fields; all if there are none.

    Example:
        >>> from hf_frameseg.proposals.settings import ProposalSettings
        >>> parser = Parser()
        >>> add_settings(parser, ProposalSettings, "saliency", "max_moments")
        >>> parser.parse_args(["--max-moments", "5"])
        Namespace(max_moments=5, saliency=None)
    """
    for option in options_of(settings if isinstance(settings, type) else type(settings)):
        if names and option.name not in names:
            continue
        option = option._replace(default=getattr(settings, option.name))
        parser.add_argument(option.flag, **option.keywords())


def add_rating_options(group: argparse._ActionsContainer, text: str) -> None:
    """Add the options that say how clips were rated; the help of the first says what for."""
    group.add_argument("--rating-scale", metavar=("LOWEST", "HIGHEST"), nargs=2, type=float, help=text)
    group.add_argument("--clip-seconds", metavar="S", type=float, help="with it: length of a rated clip (default: 2)")
