"""Recipes: TOML files, shipped or the user's, and how the config of a run is built from them.

Precedence: the recipe, then `--preset` replaces its model section, then single options, then `--set section.key=value`.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from opendetr.config import ModelConfig, RunConfig, parse_config
from opendetr.errors import UserError, nearest
from opendetr.recipes.presets import PRESETS


def recipe_names() -> list[str]:
    """The recipes shipped with the package."""
    files = resources.files("opendetr.recipes").iterdir()
    return sorted(path.name.removesuffix(".toml") for path in files if path.name.endswith(".toml"))


def load_recipe(name: str) -> RunConfig:
    """A shipped recipe by name, or any TOML file by path (such as a run's `config.toml`).

    Raises:
        UserError: no such recipe, not TOML, or an unknown key.
    """
    return parse_config(_recipe_text(name), name)


def _recipe_text(name: str) -> str:
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise UserError(f"--recipe {name}: no such file; shipped recipes are: {', '.join(recipe_names())}")
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UserError(f"--recipe {name} is no text file; expected a recipe in TOML") from None
    if name in recipe_names():
        return resources.files("opendetr.recipes").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    raise UserError(f"--recipe {name}: unknown recipe; {nearest(name, recipe_names())}")


def resolve_config(
    recipe: str | None = None,
    preset: str | None = None,
    options: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    overrides: Iterable[str] = (),
    trained: ModelConfig | None = None,
) -> RunConfig:
    """Build a config: the recipe, then the preset's model section, then options, then overrides.

    The default is the recipe `fast`; a preset alone means the paper's recipe.

    Args:
        recipe: a shipped recipe or a TOML file.
        preset: a model section by name.
        options: dotted names with their values, such as those of single command-line options.
        image_size: scales all sizes of the data section.
        overrides: `section.key=value` strings; they win.
        trained: the model section of the model to start from; it replaces the recipe's, whose `num_queries` is kept.

    Raises:
        UserError: an unknown name or a value of the wrong kind.
    """
    if preset is not None and preset not in PRESETS:
        raise UserError(f"--preset {preset}: unknown preset; {nearest(preset, PRESETS)}")
    name = recipe or ("fast" if preset is None else "paper")
    config = load_recipe(name)
    model = trained if preset is None else PRESETS[preset]
    if trained is not None and "num_queries" in tomllib.loads(_recipe_text(name)).get("model", {}):
        model = replace(trained, num_queries=config.model.num_queries or trained.num_queries)  # 0 leaves it open
    if model is not None:
        loss = config.loss
        if model.query_source == "learned":  # the losses of selected queries are switched off with them
            loss = replace(loss, proposal_repeats=0, denoising_queries=0)
        config = replace(config, model=model, loss=loss)
    if image_size is not None:
        config = replace(config, data=config.data.resized(image_size))
    return config.with_values(options or {}, "the command line").with_overrides(overrides)
