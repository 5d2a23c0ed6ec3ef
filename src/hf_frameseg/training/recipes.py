"""Recipes: YAML files whose values stand below the command line and are checked as if they stood on it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from hf_frameseg._text import printable


class RecipeParser(HfArgumentParser):
    """Fill dataclasses from a command line over a recipe; every mistake is one line on standard error and status 2.

    One of the dataclasses has a field `recipe` with a default. Names are not guessed from their beginnings, and the
    usage, which is longer than a screen here, is shown by `--help` alone.

    Args:
        dataclass_types: The dataclasses, as for `transformers.HfArgumentParser`.
        recipes: Folder of the recipes that go by name, `NAME.yaml`.
        **kwargs: As for `argparse.ArgumentParser`, such as `prog`.
    """

    def __init__(self, dataclass_types: Any, recipes: Path, **kwargs: Any) -> None:
        super().__init__(dataclass_types, allow_abbrev=False, **kwargs)
        self.recipes = recipes

    def error(self, message: str) -> NoReturn:
        """End with one line."""
        self.exit(2, f"{self.prog}: error: {printable(' '.join(message.split()))}\n")
        raise AssertionError  # exit does not return

    def parse(self, argv: Sequence[str] | None = None) -> tuple[Any, ...]:
        """Parse the command line over the recipe that it names.

        Args:
            argv: The command line; None takes the process's own.

        Returns:
            One object per dataclass.

        Raises:
            ValueError: From the dataclasses, about values that do not go together.
        """
        given = list(sys.argv[1:] if argv is None else argv)
        recipe = self.recipe_arguments(self.parse_known_args(given)[0].recipe)
        *objects, unknown = self.parse_args_into_dataclasses(
            [*recipe, *given], return_remaining_strings=True, look_for_args_file=False
        )
        if unknown:
            self.error(f"unknown argument(s): {' '.join(unknown)} (--help lists all)")
        return tuple(objects)

    def recipe_arguments(self, name: str) -> list[str]:
        """Return the values of a recipe as they would stand on the command line.

        Args:
            name: Name of a recipe in the folder, or path of a YAML file.

        Returns:
            Words of a command line.
        """
        path = Path(name) if name.endswith((".yaml", ".yml")) else self.recipes / f"{name}.yaml"
        values = self._read(path, name)
        actions = {action.dest: action for action in self._actions}
        if unknown := sorted(str(key) for key in values if key not in actions or key in ("help", "recipe")):
            self.error(f"{path} sets unknown argument(s): {', '.join(unknown)}")
        words: list[str] = []
        for key, value in values.items():
            if value is None:
                self.error(f"{path} sets {key} to nothing: give it a value, or leave it out")
            if not isinstance(value, list):
                words += [f"--{key}", _word(value)] if actions[key].nargs == "+" else [f"--{key}={_word(value)}"]
            elif actions[key].nargs != "+":
                self.error(f"{path} sets {key} to a list; expected one value")
            elif value:
                words += [f"--{key}", *map(_word, value)]
        return words

    def _read(self, path: Path, name: str) -> dict[Any, Any]:
        """Return what the file holds."""
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in self.recipes.glob("*.yaml")))
            self.error(f"no recipe {name!r}: use one of {known}, or the path of a YAML file.")
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
            self.error(f"{path} is not a YAML file that can be read ({error}); correct it")
        if not isinstance(values, dict) or not values:
            kind = "nothing" if not values else f"a {type(values).__name__}"
            self.error(f"expected {path} to hold names and values, such as `lora_r: 16`, got {kind}")
        return values


def _word(value: Any) -> str:
    """Write a value as on a command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, dict) else str(value)
