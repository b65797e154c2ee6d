"""replay=PNG: the image of a recipe again, with the settings that are typed beside it."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ldm.cli.jobs import job_overrides
from ldm.cli.null_groups import WITHOUT
from ldm.cli.sweep import sweep_folder
from ldm.utils.errors import UserError
from ldm.utils.seeds import as_seeds

MODE_KEYS = {"image", "mask", "size", "strength", "resample", "jump_length", "height", "width"}
# Keys that concern the run and not the image.
ELSEWHERE = {"replay", "output", "overwrite", "device", "threads", "paths", "hydra", "mode", "kind"}


def typed_keys() -> set[str]:
    """Top-level keys of the overrides of this job; none outside one."""
    found: set[str] = set()
    for word in job_overrides():
        key, _, value = word.lstrip("+~").partition("=")
        names = value.strip("[]").split(",") if key == WITHOUT else [key]
        found |= {name.partition(".")[0] for name in names}
    return found


def replayed_request(
    recipe: Mapping[str, Any], config: Mapping[str, Any], given: Mapping[str, Any], typed: Collection[str]
) -> tuple[dict[str, Any], list[dict[str, Any]], int, dict[str, str]]:
    """The request of a recipe with typed settings in place of the recorded ones.

    Args:
        recipe: of an image.
        config: of the command.
        given: the request of the command without the recipe.
        typed: keys whose values come from the command line.

    Returns: the request, the images sampled together, the image's index and the digests of its files, among
    them those typed in place of recorded ones: a file may have moved, but is the same.

    Raises: UserError for a key that means nothing for one image.
    """
    from ldm.pipelines.recipe import ITEM, request_in
    from ldm.pipelines.request import MODEL, NODES, READING

    request, batch, index = request_in(recipe)
    _check_mode(str(request["kind"]), config, typed)
    changed = set(typed) - ELSEWHERE
    if unknown := sorted(changed - given.keys() - {*ITEM, "scale"}):
        raise UserError("must be left out with replay=, which makes one image again", unknown[0])
    # an older recipe has fewer
    request |= {name: given[name] for name in (*READING, *MODEL) if name not in request}
    for name in changed & given.keys():
        node = given[name]
        if name in NODES and isinstance(node, dict) and "_target_" not in node:
            node = {**(request.get(name) or {}), **node}
        request[name] = node
    items = [dict(item) for item in batch]
    items[index] |= {name: _one(name, config[name]) for name in changed & set(ITEM)}
    digests = {name: value for name, value in recipe["sha256"].items() if _is_read(name, request)}
    return request, items, index, digests


def replayed_path(config: Mapping[str, Any]) -> Path:
    """Where the image is written."""
    if config["output"] is not None:
        return Path(config["output"])
    return (sweep_folder() or Path("outputs")) / Path(config["replay"]).name


def _check_mode(kind: str, config: Mapping[str, Any], typed: Collection[str]) -> None:
    """Refuse the settings of another mode than the image's."""
    if config["kind"] != kind and (wrong := sorted({"mode", "kind", *MODE_KEYS} & set(typed))):
        raise UserError(f"must be left out or go with mode={kind}, which made the image", wrong[0])


def _one(name: str, value: Any) -> Any:
    """The single value of an image, where a list may be given."""
    values = value if isinstance(value, list) else [value]
    if len(values) != 1 or (name == "prompt" and values[0] is None):
        raise UserError(f"must be one with replay=, got {value!r}", name)
    return as_seeds(values[0]) if name == "seed" else values[0]


def _is_read(name: str, request: Mapping[str, Any]) -> bool:
    """True if the request reads the file of a digest; without a checkpoint it reads the model of `ldm`."""
    return name == "checkpoint" or bool(request.get(name))
