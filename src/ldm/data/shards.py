"""Reading small tar shards (webdataset layout) whole into memory."""

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path


def read_shards(paths: Sequence[Path], key: str) -> Iterator[dict[str, bytes]]:
    """Samples of tar shards: consecutive files that share the name before the first dot, by extension.

    Args:
        paths: tar files, plain or gzipped.
        key: the config key that names them, for error messages.

    Raises:
        FileNotFoundError: if there is none, or one is missing.
        ValueError: if one is damaged.
    """
    if not paths:
        raise FileNotFoundError(f"no tar shards found ({key})")
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"no tar shard at {path} ({key})")
        try:
            yield from _samples(path)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ValueError(f"{path}: damaged tar shard: {error} ({key})") from error


def _samples(path: Path) -> Iterator[dict[str, bytes]]:
    sample: dict[str, bytes] = {}
    name = None
    with tarfile.open(path) as tar:
        for member in tar:
            if not member.isfile():
                continue
            stem, _, extension = member.name.partition(".")
            if stem != name and sample:
                yield sample
                sample = {}
            name = stem
            file = tar.extractfile(member)
            assert file is not None
            sample[extension] = file.read()
            if len(sample[extension]) != member.size:
                raise EOFError("truncated")
    if sample:
        yield sample
