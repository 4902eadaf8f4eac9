"""Publish what a run made, once its release gates pass: to the hub of ``HF_ENDPOINT``, to no other by chance.

Rules
-----
1. Gates: every signature holds, at least ``federation.min_sites`` participants have countersigned, the canary
   audit did not fail, and the metric on unseen data is at least the recipe's ``release.min_metric``. What
   does not pass is not published, and every reason is said.
2. Where to: ``--publish OWNER/NAME``, else ``owner`` in ``PLASMID_HOME/publish.yaml`` and the recipe's name,
   else nowhere.
3. A new repository is private: an owner's data are behind it, and people decide to show it.
4. The public hub needs ``--public-hub``, whatever ``HF_ENDPOINT`` says or lacks: an adapter must not leave by
   a forgotten variable.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

from plasmid.cli.output import Reply
from plasmid.client.run import Run
from plasmid.core.errors import UsageError
from plasmid.core.files import home
from plasmid.core.settings import read_settings
from plasmid.hubclient.client import check_repo, find_hub

PUBLIC_HUB = "https://huggingface.co"
SETTINGS = "publish.yaml"


class PublishSettings(BaseModel):
    """The contents of ``publish.yaml``: under which owner every adapter is published."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    owner: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,95}$")]


def target(publish: str | None, recipe: str, *, public_hub: bool, adapter: bool) -> str | None:
    """Return the repository to publish to, None for nowhere; checked before a run begins.

    Parameters
    ----------
    adapter
        Whether the run makes one: nothing else is published.

    Raises
    ------
    UsageError
        ``usage.publish``: *public_hub* without anything to publish; no *adapter*, where it was asked for.
    HubError
        ``hub.name``; ``hub.no_endpoint``: ``HF_ENDPOINT`` names no hub, or the public one.
    RecipeError
        ``recipe.invalid``: ``publish.yaml`` cannot be read.
    """
    if not adapter:
        if publish is not None or public_hub:
            raise UsageError(
                "usage.publish",
                f"the recipe {recipe} makes no adapter, and nothing else is published.",
                "Leave --publish out; what the run made is kept in a folder, which it names.",
            )
        return None
    settings = home() / SETTINGS
    if publish is None and settings.exists():
        publish = f"{read_settings(settings, PublishSettings).owner}/{recipe}"
    if publish is None:
        if public_hub:
            raise UsageError(
                "usage.publish", "--public-hub goes with --publish.", "Name one: --publish OWNER/NAME."
            )
        return None
    find_hub(PUBLIC_HUB if public_hub else None)
    return check_repo(publish)


def unmet(run: Run) -> list[str]:
    """Return which gates *run*, whose adapter has been saved, does not pass: sentences."""
    found, result = [], run.result()
    assert run.verified is not None, "it was saved, and so verified"
    countersigned, least = len(run.verified.countersigned), int(run.document["federation"]["min_sites"])
    if countersigned < least:
        found.append(f"{countersigned} participants have countersigned, federation.min_sites is {least}.")
    if result["audit"] is not None and result["audit"]["verdict"] == "failed":
        found.append("The canary audit failed.")
    wanted, value = run.document["release"]["min_metric"], run.table.federated
    if wanted is not None and value is None:
        found.append(f"release.min_metric is {wanted}, and nothing was measured: give --eval FILE.")
    elif wanted is not None and value is not None and value < wanted:
        found.append(f"{run.table.metric} on unseen data is {value:.3f}, release.min_metric is {wanted}.")
    return found


def publish(run: Run, repo: str | None, *, public_hub: bool, answer: Reply) -> None:
    """Publish the adapter of *run* to *repo*, or say why not. Raises HubError: the hub's own words."""
    if repo is None:
        return
    from plasmid.exchange.sharing import push

    assert run.adapter is not None, "it was saved"
    reasons = unmet(run)
    answer.data |= {"published": None, "not_published": reasons}
    if reasons:
        answer.say(f"[bold red]not published[/bold red] to {repo}:", *(f"  {reason}" for reason in reasons))
        return
    hub = find_hub(PUBLIC_HUB if public_hub else None)
    commit, _ = push(hub, run.adapter, repo, private=True, message=f"run {run.id}")
    answer.data["published"] = {"repo": repo, "commit": commit, "endpoint": hub.endpoint}
    answer.say(f"Published: {hub.endpoint}/{repo} at {commit[:12]}")
