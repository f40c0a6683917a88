"""Open a model: the embedded one, a folder, or a hub id. Safetensors only; no remote code, ever."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mipo_mlx._blas import warn_if_slow
from mipo_mlx.errors import ModelError
from mipo_mlx.models.architecture import other_states

PATTERNS = [
    "*.json",
    "tokenizer.model",
    "*.tiktoken",
    "merges.txt",
    "vocab.txt",
    "*.jinja",
]
WEIGHTS = "model*.safetensors"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
TEXT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")

Download = Callable[..., str]


@dataclass(frozen=True)
class Paths:
    """Ways of running a model that give the numbers of its plain ``__call__``.

    Attributes:
        shares: prompts are forwarded once for all that follows them.
        splits: the head is run apart from the blocks, chunk by chunk.
        sampling: ``shared`` prompts, the model's ``own`` caches a row at a time, or the ``whole``
            sequence anew for each token.
        checkpoints: blocks may drop their activations and make them again for the gradient.
        pieces: long prompts may be differentiated piece by piece.
        compiles: the gradient may be compiled.
        reasons: why something is given up, by its name.
    """

    shares: bool = True
    splits: bool = True
    sampling: str = "shared"
    checkpoints: bool = True
    pieces: bool = True
    compiles: bool = True
    reasons: tuple[tuple[str, str], ...] = ()


EVERY_PATH = Paths()


@dataclass
class LanguageModel:
    """An open model.

    Attributes:
        model: mlx-lm's module.
        tokenizer: mlx-lm's wrapper of the tokenizer.
        path: folder it was read from.
        name: as the user gave it.
        fingerprint: sha256 over configuration, tokenizer and weights; without the adapter.
        max_tokens: the window, prompt and answer together; None when the configuration has none.
        paths: how it may be run.
        adapter: how the adapter that it carries was made, where that is known.
    """

    model: Any
    tokenizer: Any
    path: Path
    name: str
    fingerprint: str
    max_tokens: int | None
    paths: Paths = EVERY_PATH
    adapter: dict[str, Any] | None = None

    @property
    def shares(self) -> bool:
        """Whether prompts may be forwarded once for all that follows them."""
        return self.paths.shares

    @property
    def splits(self) -> bool:
        """Whether its head may be run apart from its blocks, chunk by chunk."""
        return self.paths.splits


def _fetch(name: str, offline: bool, download: Download, weights: bool) -> Path:
    """Folder of a hub id: from the local cache, else downloaded."""
    patterns = [*PATTERNS, WEIGHTS] if weights else PATTERNS
    try:
        folder = Path(download(name, allow_patterns=patterns, local_files_only=True))
        if (folder / "config.json").is_file() and (not weights or any(folder.glob(WEIGHTS))):
            return folder
    except (OSError, ValueError):
        pass  # not, or not wholly, in the cache
    if offline:
        raise ModelError(
            f"Model {name!r} is no local folder and not in the local cache, and --offline is set.",
            "run once without --offline, or give a folder",
        )
    try:
        return Path(download(name, allow_patterns=patterns))
    except Exception as error:  # whatever the hub, its client or the network comes up with
        raise ModelError(
            f"Model {name!r} is no local folder and could not be downloaded "
            f"({type(error).__name__}).",
            "check the name and the connection; gated models need a login at the hub",
        ) from error


def locate(
    name: str, *, offline: bool = False, download: Download | None = None, weights: bool = True
) -> Path:
    """Folder of a model; a local folder wins over a hub id. ``weights`` may be left undownloaded.

    Raises:
        ModelError: nothing of that name can be found.
    """
    if name == "embedded":
        from mipo_mlx import tiny

        return Path(tiny.MODEL_DIR)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or not HUB_ID.fullmatch(name):
        raise ModelError(
            f"{name}: not a model folder, and no hub id.",
            "give a folder with config.json and model*.safetensors, or owner/name",
        )
    if download is None:
        from huggingface_hub import snapshot_download

        download = snapshot_download
    return _fetch(name, offline, download, weights)


def _read_config(folder: Path, weights: bool = True) -> dict[str, Any]:
    """The model's ``config.json``, once the folder is known to hold what is needed."""
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder}: no config.json.", "give a folder in mlx-lm's or the hub's layout"
        )
    if weights and not any(folder.glob(WEIGHTS)):
        raise ModelError(
            f"{folder}: no weights (model*.safetensors).",
            "only safetensors are read; convert others with 'mlx_lm.convert'",
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{folder / 'config.json'}: not valid JSON ({error}).") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelError(f"{folder / 'config.json'}: no model_type.", "is this a language model?")
    return config


def _content_hash(path: Path) -> str:
    """sha256 of a file; the hub's cache names large files by theirs, which saves reading them."""
    stored = path.resolve().name
    if path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", stored):
        return stored
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(folder: Path) -> str:
    """sha256 over names, sizes and contents of configuration, tokenizer and weights."""
    texts = [folder / name for name in TEXT_FILES if (folder / name).is_file()]
    digest = hashlib.sha256()
    for path in [*texts, *sorted(folder.glob(WEIGHTS))]:
        digest.update(f"{path.name}\0{path.stat().st_size}\0{_content_hash(path)}\n".encode())
    return digest.hexdigest()


def model_type(folder: Path) -> str:
    """Architecture of a model folder, such as ``llama``, as its configuration names it.

    Raises:
        ModelError: it has no configuration that can be read.
    """
    return str(_read_config(folder, weights=False)["model_type"])


def _window(config: dict[str, Any]) -> int | None:
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, dict) else {}):
        if isinstance(part.get("max_position_embeddings"), int):
            return int(part["max_position_embeddings"])
    return None


def _open_tokenizer(folder: Path, config: dict[str, Any]) -> Any:
    from mlx_lm import utils

    return utils.load_tokenizer(
        folder,
        {"trust_remote_code": False, "local_files_only": True},
        eos_token_ids=config.get("eos_token_id"),
    )


def load_tokenizer(
    name: str, *, offline: bool = False, download: Download | None = None
) -> tuple[Any, int | None]:
    """A model's tokenizer and its window in tokens, without its weights.

    Raises:
        ModelError: it cannot be found or opened.
    """
    folder = locate(name, offline=offline, download=download, weights=False)
    config = _read_config(folder, weights=False)
    try:
        tokenizer = _open_tokenizer(folder, config)
    except (Exception, SystemExit) as error:  # any fault of foreign files; told with its place
        raise ModelError(
            f"{folder}: the tokenizer cannot be opened: {error}",
            "mlx_lm.generate --model must be able to open it",
        ) from error
    return tokenizer, _window(config)


def _open(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a folder."""
    from mlx_lm import utils

    try:
        model, config = utils.load_model(folder, trust_remote_code=False)
        tokenizer = _open_tokenizer(folder, config)
    except (Exception, SystemExit) as error:  # any fault of foreign files; told with its place
        raise ModelError(
            f"{folder}: cannot be opened: {error}",
            "see mlx-lm's list of model types; mlx_lm.generate --model must be able to open it",
        ) from error
    return model, tokenizer


def load_model(
    name: str,
    *,
    adapter_path: Path | None = None,
    offline: bool = False,
    download: Download | None = None,
) -> LanguageModel:
    """Open a model, with an adapter if one is given, ready for inference.

    Args:
        name: ``embedded``, a folder, or a hub id ``owner/name``.
        adapter_path: folder with ``adapters.safetensors`` and ``adapter_config.json``.
        offline: refuse the network.
        download: in place of ``huggingface_hub.snapshot_download``.

    Raises:
        ModelError: it cannot be found or opened, or the adapter does not fit.
    """
    folder = locate(name, offline=offline, download=download)
    config = _read_config(folder)
    if mx.default_device() == mx.Device(mx.cpu):
        warn_if_slow()
    model, tokenizer = _open(folder)
    if adapter_path is not None:
        _load_adapter(model, adapter_path)
    model.eval()
    return LanguageModel(
        model=model,
        tokenizer=tokenizer,
        path=folder,
        name=name,
        fingerprint=fingerprint(folder),
        max_tokens=_window(config),
        paths=Paths(shares=False, sampling="own") if other_states(model) else EVERY_PATH,
    )


@dataclass(frozen=True)
class Skeleton:
    """A model without its weights: nothing of it is computed or kept in memory.

    Attributes:
        model: its modules; arrays are never to be evaluated.
        config: contents of ``config.json``.
        tokenizer: as of ``load_model``.
        max_tokens: the window, None when the configuration has none.
        weights: bytes that its weights take once loaded.
        here: whether the weights lie on this machine.
    """

    model: Any
    config: dict[str, Any]
    tokenizer: Any
    max_tokens: int | None
    weights: int
    here: bool


def load_skeleton(
    name: str, *, offline: bool = False, download: Download | None = None
) -> Skeleton:
    """A model's modules from its configuration alone; a hub's weights are not downloaded.

    Raises:
        ModelError: it cannot be found, or is of no kind that mlx-lm knows.
    """
    from mlx_lm import utils

    folder = locate(name, offline=offline, download=download, weights=False)
    config = _read_config(folder, weights=False)
    try:
        kind, arguments = utils._get_classes(config)
        model = kind(arguments.from_dict(config))
        _quantize(model, config)
        tokenizer = _open_tokenizer(folder, config)
    except (Exception, SystemExit) as error:  # any fault of foreign files; told with its place
        raise ModelError(
            f"{folder}: cannot be opened: {error}", "see mlx-lm's list of model types"
        ) from error
    files = list(folder.glob(WEIGHTS))
    size = sum(file.stat().st_size for file in files) or _indexed(folder)
    return Skeleton(
        model, config, tokenizer, _window(config), size or _bytes(model, config), bool(files)
    )


def _quantize(model: Any, config: Mapping[str, Any]) -> None:
    """As mlx-lm does it, with every layer quantized that can be."""
    how = config.get("quantization")
    if not isinstance(how, Mapping):
        return

    def wanted(path: str, module: Any) -> Any:
        if path in how:
            return how[path]
        width = module.weight.shape[-1] if "weight" in module else 1
        return hasattr(module, "to_quantized") and width % how["group_size"] == 0

    nn.quantize(
        model,
        group_size=how["group_size"],
        bits=how["bits"],
        mode=how.get("mode", "affine"),
        class_predicate=wanted,
    )


def _indexed(folder: Path) -> int:
    """Bytes of all weights, as their index says; 0 without one."""
    try:
        text = (folder / "model.safetensors.index.json").read_text(encoding="utf-8")
        return int(json.loads(text)["metadata"]["total_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _bytes(model: Any, config: Mapping[str, Any]) -> int:
    """Bytes of a model's arrays, floating ones in the precision that its configuration names."""
    known = config.get("torch_dtype") or config.get("dtype")
    half = known in ("float16", "bfloat16") or "quantization" in config
    arrays = dict(tree_flatten(model.parameters())).values()
    return sum(a.size * 2 if half and a.dtype == mx.float32 else a.nbytes for a in arrays)


def _load_adapter(model: Any, folder: Path) -> None:
    from mlx_lm.utils import load_adapters

    model.freeze()
    try:
        load_adapters(model, str(folder))
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise ModelError(
            f"{folder}: the adapter cannot be opened: {error}",
            "it must be made for this very model, by mipo or mlx-lm",
        ) from error
