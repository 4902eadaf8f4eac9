"""What goes wrong, as the client tells it."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import huggingface_hub as hub
from hub_frame import MINE, READER, TOKEN, api, refused, verb
from huggingface_hub import constants
from huggingface_hub import errors as failures


@verb("missing model, revision, file")
def _():
    refused(failures.RepositoryNotFoundError, lambda: api.model_info("ada/absent"))
    refused(failures.RepositoryNotFoundError, lambda: hub.snapshot_download("ada/absent"))
    refused(failures.RevisionNotFoundError, lambda: api.model_info(MINE, revision="absent"))
    refused(
        failures.RevisionNotFoundError, lambda: hub.hf_hub_download(MINE, "config.json", revision="absent")
    )
    refused(failures.EntryNotFoundError, lambda: hub.hf_hub_download(MINE, "absent.json"), "404")
    refused(failures.EntryNotFoundError, lambda: list(api.list_repo_tree(MINE, "absent")))


@verb("private model")
def _():
    name = f"{MINE}-private"
    api.create_repo(name, private=True)
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=name)
    for who in (READER, False):
        refused(failures.RepositoryNotFoundError, lambda: hub.hf_hub_download(name, "config.json", token=who))  # noqa: B023
        assert name not in [one.id for one in hub.HfApi(token=who).list_models(author="ada")]
    assert hub.hf_hub_download(name, "config.json", token=TOKEN)
    api.update_repo_settings(name, private=False)
    assert hub.hf_hub_download(name, "config.json", token=False, force_download=True)
    api.delete_repo(name)
    refused(failures.RepositoryNotFoundError, lambda: api.model_info(name))
    api.delete_repo(name, missing_ok=True)


@verb("gated model, access requests")
def _():
    name = f"{MINE}-gated"
    api.create_repo(name)
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=name)
    api.update_repo_settings(name, gated="manual")
    page = f"{constants.ENDPOINT}/{name}"
    for who in (READER, False):
        error = refused(
            failures.GatedRepoError,
            lambda: hub.hf_hub_download(name, "config.json", token=who),  # noqa: B023
            page,
        )
        assert error.response.status_code == 403
    reader = hub.HfApi(token=READER)
    refused(failures.GatedRepoError, lambda: reader.auth_check(name), page)
    assert reader.model_info(name).gated == "manual"
    headers = {"Authorization": f"Bearer {READER}"}
    post(f"{page}/ask-access", headers)
    refused(failures.GatedRepoError, lambda: reader.auth_check(name), "have not yet let")
    assert [one.username for one in api.list_pending_access_requests(name)] == ["bob"]
    api.accept_access_request(name, "bob")
    reader.auth_check(name)
    assert hub.hf_hub_download(name, "config.json", token=READER, force_download=True)
    assert [one.username for one in api.list_accepted_access_requests(name)] == ["bob"]


def post(url, headers):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(urllib.request.Request(url, data=b"", headers=headers, method="POST"), timeout=20).read()


@verb("commit conflict")
def _():
    before = api.model_info(MINE).sha
    api.upload_file(path_or_fileobj=b"1", path_in_repo="race.txt", repo_id=MINE, parent_commit=before)
    late = refused(
        failures.HfHubHTTPError,
        lambda: api.upload_file(
            path_or_fileobj=b"2", path_in_repo="race.txt", repo_id=MINE, parent_commit=before
        ),
    )
    assert late.response.status_code == 412
    assert Path(hub.hf_hub_download(MINE, "race.txt")).read_bytes() == b"1"


@verb("dangerous files refused")
def _():
    before = api.model_info(MINE).sha
    for name, data, why in (
        ("pytorch_model.bin", b"\x80\x02}q\x00.", "a pickle can run code"),
        ("modeling.py", b"import os", "code is not hosted"),
        ("model.safetensors", b"\x80\x02}q\x00." + b"x" * 100, "model.safetensors"),
        ("config.json", b'{"auto_map": {"AutoModel": "m.M"}}', "auto_map"),
        ("tokenizer_config.json", b'{"chat_template": "{{ x }}"}', "chat_template"),
    ):
        refused(
            failures.HfHubHTTPError,
            lambda: api.upload_file(path_or_fileobj=data, path_in_repo=name, repo_id=MINE),  # noqa: B023
            why,
        )
    refused(
        failures.HfHubHTTPError,
        lambda: hub.HfApi(token=READER).upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=MINE),
        "bob may not write",
    )
    assert api.model_info(MINE).sha == before
