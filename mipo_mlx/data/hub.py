"""Files of a data set on the hub: ``hf://datasets/OWNER/NAME[@REVISION]/FILE``, fsspec's spelling.

One file is downloaded into the hub's own cache and read from there ever after. A revision that
holds slashes is known or quoted: ``@refs/convert/parquet``, ``@refs%2Fconvert%2Fparquet``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from mipo_mlx.errors import DataError

ADDRESS = re.compile(
    r"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+)"
    r"(@(?P<revision>refs/convert/[\w-]+|refs/pr/\d+|[^/]+))?/(?P<file>.+)"
)
Download = Callable[..., str]


def local_file(name: str, *, offline: bool = False, download: Download | None = None) -> Path:
    """Where a file or folder is on this machine, downloaded if it stands on the hub.

    Args:
        name: a local path, or an ``hf://datasets/...`` address.
        offline: refuse the network; a file in the cache is still found.
        download: in place of ``huggingface_hub.hf_hub_download``.

    Raises:
        DataError: the address is malformed, or the file cannot be had.
    """
    if not name.startswith("hf://"):
        return Path(name).expanduser()
    match = ADDRESS.fullmatch(name)
    if match is None:
        raise DataError(f"{name}: no file on the hub.", "write hf://datasets/OWNER/NAME/FILE")
    if download is None:
        from huggingface_hub import hf_hub_download

        download = hf_hub_download
    where = {
        "repo_id": match["repo"],
        "filename": match["file"],
        "repo_type": "dataset",
        "revision": unquote(match["revision"]) if match["revision"] else None,
    }
    try:
        return Path(download(**where, local_files_only=True))
    except Exception:  # not in the cache
        pass
    if offline:
        raise DataError(f"{name}: not in the local cache, and --offline is set.", "download it")
    try:
        return Path(download(**where))
    except Exception as error:  # whatever the hub, its client or the network comes up with
        raise DataError(
            f"{name}: could not be downloaded ({type(error).__name__}).",
            "check the address and the connection; gated data needs a login at the hub",
        ) from error
