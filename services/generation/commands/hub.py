"""Uploading a dataset to the Hugging Face hub, where a token is present."""

from collections.abc import Sequence
from pathlib import Path

from shared.errors import Fatal, first_line


def check_token() -> None:
    """Raises `Fatal` without a token: better before hours of work than after."""
    from huggingface_hub import get_token

    if not get_token():
        raise Fatal("--push-to-hub: there is no token; set HF_TOKEN, or log in with `hf auth login`")


def push(repository: str, files: Sequence[Path], card: Path) -> None:
    """Put the files and the card into a dataset repository, which is made if need be. Raises `Fatal`."""
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    hub = HfApi()
    uploads = {card: "README.md"} | {file: file.name for file in files}
    try:
        hub.create_repo(repository, repo_type="dataset", exist_ok=True)
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for file, name in uploads.items()]
        hub.create_commit(repository, operations, commit_message="Pairs written by Pairwright", repo_type="dataset")
    except (HfHubHTTPError, OSError, ValueError) as error:
        problem = f"{repository}: {first_line(error)} (the files are on this disk all the same)"
        raise Fatal(f"--push-to-hub: {problem}") from None
