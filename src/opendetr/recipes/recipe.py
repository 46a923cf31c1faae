"""Recipes: TOML files, shipped or one's own, and how a run's config is put together of them.

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
from opendetr.recipes.presets import preset_named


def recipe_names() -> list[str]:
    """The recipes shipped with the package."""
    return sorted(
        path.name[:-5] for path in resources.files("opendetr.recipes").iterdir() if path.name.endswith(".toml")
    )


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
            raise UserError(
                f"--recipe {name}: the file does not exist; shipped recipes are: {', '.join(recipe_names())}"
            )
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
    """Put a config together: the recipe, then the preset's model section, then options, then overrides.

    Without recipe and preset it is the recipe `fast`; a preset alone means the paper's recipe.

    Args:
        recipe: a shipped recipe or a TOML file.
        preset: a model section by name.
        options: dotted names with their values, such as those of single command-line options.
        image_size: scales all sizes of the data section.
        overrides: `section.key=value` strings; they win.
        trained: the model section of the model to begin with; in place of the recipe's, whose `num_queries` is kept.

    Raises:
        UserError: an unknown name or a value of the wrong kind.
    """
    name = recipe or ("fast" if preset is None else "paper")
    config = load_recipe(name)
    model = trained if preset is None else preset_named(preset)
    if trained is not None and "num_queries" in tomllib.loads(_recipe_text(name)).get("model", {}):
        model = replace(trained, num_queries=config.model.num_queries or trained.num_queries)  # 0 leaves it open
    if model is not None:
        loss = config.loss
        if model.query_source == "learned":  # a recipe's helpers of selected queries go with them
            loss = replace(loss, proposal_repeats=0, denoising_queries=0)
        config = replace(config, model=model, loss=loss)
    if image_size is not None:
        config = replace(config, data=config.data.resized(image_size))
    return config.with_values(options or {}, "the command line").with_overrides(overrides)
