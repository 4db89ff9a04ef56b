"""Pushing a version to a model hub. The token comes from HF_TOKEN, as everywhere with the hub's tools."""

from pathlib import Path


def push(folder: Path, repo: str, version: str) -> str:
    """Upload a version to `owner/name`, tagged with its id; the commit's address. Raises what it raises."""
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repo, exist_ok=True)
    commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"Pairwright version {version}")
    api.create_tag(repo, tag=version, exist_ok=True)
    return str(commit.commit_url)
