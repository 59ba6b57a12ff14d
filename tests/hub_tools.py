"""A Hub in a folder: no network."""

import shutil
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest


class FakeHub:
    """What Trainer asks of the Hub: a repository to be made, folders to be uploaded to it."""

    def __init__(self, folder: Path):
        self.folder, self.pushes = folder, []

    def create_repo(self, repo_id, **kwargs):
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, *, repo_id, folder_path, ignore_patterns=None, **kwargs):
        target = self.folder / repo_id
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(
            folder_path, target, ignore=shutil.ignore_patterns(*(ignore_patterns or []))
        )
        self.pushes.append(repo_id)
        done = Future()
        done.set_result(None)
        return done


@pytest.fixture()
def hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr("transformers.trainer.hf_api", lambda: fake)
    return fake
