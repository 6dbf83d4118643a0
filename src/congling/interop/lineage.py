"""Where a model comes from: the manifests of its stages, found from one to the next and checked by their hashes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from congling import artifact

Manifest = Mapping[str, Any]


def find_lineage(folder: Path) -> dict[str, Manifest]:
    """Stage → manifest, of the model in ``folder`` and all that it was made of, as far as they are still there.

    A stage is looked for where the manifest says, and beside the model, should the run have moved; it counts only
    with the hash that it had when it was used. The evaluation beside the model counts if it was of this model.
    """
    found: dict[str, Manifest] = {}
    _climb(folder.resolve(), None, found)
    if not found:
        return found
    hashes = {manifest.get("hash") for manifest in found.values()}
    evaluation = _manifest(folder.resolve().parent / "evaluate")
    if evaluation is not None:
        used = evaluation.get("inputs", {})
        stage = next(iter(found))  # the model's own
        if used.get(stage, {}).get("hash") in hashes:
            found["evaluate"] = evaluation
    return found


def trained_length(lineage: Mapping[str, Manifest]) -> int | None:
    """The longest sequence that the model was trained on, in tokens."""
    lengths = [
        length
        for stage in ("pretrain", "sft")
        for length in lineage.get(stage, {}).get("config", {}).get(stage, {}).get("lengths", [])
    ]
    return max(lengths, default=None)


def _climb(folder: Path, wanted_hash: str | None, found: dict[str, Manifest]) -> bool:
    manifest = _manifest(folder)
    if manifest is None or (wanted_hash is not None and manifest.get("hash") != wanted_hash):
        return False
    stage = key = manifest["stage"]
    while key in found and found[key].get("hash") != manifest.get("hash"):  # a run may use two fetched sets
        key = f"{stage} {len(found)}"
    if key in found:
        return True
    found[key] = manifest
    for name, source in manifest.get("inputs", {}).items():
        if "path" in source:  # else raw files, which no stage made
            recorded = Path(source["path"])
            data = folder.parents[1] / "data" / recorded.name if len(folder.parents) > 1 else recorded
            for place in (recorded, folder.parent / name, folder.parent / recorded.name, data):
                if _climb(place, source["hash"], found):
                    break
    return True


def _manifest(folder: Path) -> Manifest | None:
    """None: there is none that can be read."""
    try:
        return artifact.read_manifest(folder)
    except (artifact.ArtifactError, OSError):
        return None
