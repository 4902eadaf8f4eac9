"""What a site says to others when something goes wrong: a code and a sentence fixed here.

The details stay in the site's own log. A code that is not listed leaves as ``site.failed``. The rules of the
policy bring their own sentences.
"""

from __future__ import annotations

from plasmid.core.errors import PlasmidError
from plasmid.gateway.policy.decide import RULES

SENTENCES = {rule.code: rule.sentence for rule in RULES} | {
    "policy.absent": "The site has no policy, so nothing runs there.",
    "policy.invalid": "The site's policy file cannot be read, so nothing runs there.",
    "policy.overlap": "The query differs by very few people from one that the site has answered.",
    "policy.awaiting_approval": "People at the site are to approve the run.",
    "policy.approval_revoked": "An approval of the run was revoked at the site.",
    "policy.approval_expired": "The run was not approved in time at the site, or an approval has expired.",
    "policy.no_budget": "The site's policy gives its population no privacy budget.",
    "policy.budget_unit": "The site's privacy budget is for another unit.",
    "policy.attempts": "The site has reserved no further attempt for the run.",
    "project.not_signed_here": "The site has not signed the project of this run.",
    "project.unsigned": "Not all members of the project have signed it.",
    "project.dates": "The project is not in force.",
    "project.requester": "Who asks may not launch runs in the project.",
    "project.differs": "The request is for another project.",
    "project.requested": "The request was signed later than the site's clock.",
    "project.reach": "The run goes beyond the sites that were invited, or the project's.",
    "project.member": "The site knows a member of the project under another key.",
    "data.source_down": "The site's data source cannot be reached.",
    "data.source_timeout": "The site's data source took longer than its owner allows.",
    "data.absent": "The site has no data file for this recipe.",
    "data.not_ready": "The site's data are not ready for this recipe.",
    "data.invalid": "The site's data does not meet the recipe's contract.",
    "model.not_imported": "The base model is not on the site and could not be imported there.",
    "model.unpinned": "The recipe names a base model without the digest of its weights.",
    "model.digest_differs": "The site's copy of the base model is not the one that the recipe names.",
    "protocol.digest": "The document does not have the digest that was announced.",
    "protocol.run": "The run's id is not that of its request.",
    "protocol.signature": "A message did not carry its sender's signature.",
    "protocol.malformed": "A message did not have the form of its type.",
    "protocol.adverts": "The adverts do not belong together.",
    "protocol.bundles": "A bundle of shares is missing, wrong or does not open.",
    "protocol.recovery": "The recovery statements do not belong together.",
    "protocol.survivors": "The list of survivors is not acceptable.",
    "protocol.consents": "Too few sites have agreed to open the sum.",
    "protocol.consented": "The site has agreed to another sum of that round.",
    "protocol.ready": "The sites do not agree on the key epoch.",
    "protocol.colluders": "The plan assumes fewer colluding sites than this site does.",
    "protocol.unknown_peer": "The roster names a site that the owner has not confirmed.",
    "protocol.revoked": "The coordinator has revoked a party of the run.",
    "protocol.epoch_used": "The key epoch was used before, or the run began with another plan.",
    "protocol.manifest": "The manifest does not describe the run that was admitted.",
    "protocol.step": "The state does not follow from the published totals.",
    "protocol.near_state": "The state is nearly one that was summed over other sites.",
    "protocol.unverified": "The site missed rounds and cannot verify the state.",
    "protocol.result": "The result is not what this site took part in.",
    "protocol.second_manifest": "The site has already begun another manifest for this slot.",
    "protocol.slot_used": "The slot is used.",
    "protocol.evidence": "The site's worker said nothing about the people in the cells.",
    "protocol.vector": "The computation returned a vector that breaks the output contract.",
    "protocol.noise": "The site's worker returned a vector that cannot be noised as the plan says.",
    "protocol.slots": "The key epoch asks for more slots than there may be.",
    "protocol.encoding": "The plan's numbers do not fit its ring.",
    "protocol.ring_overflow": "The plan's sum could wrap its ring.",
    "protocol.invited": "The manifest does not invite enough sites of the roster.",
    "protocol.body": "The state does not have the form that the run implies.",
    "link.body_differs": "The state that arrived does not have the digest that the manifest names.",
    "link.unreachable": "The site could not reach the coordinator in time.",
    "run.unknown": "The site does not know this run; it may have been restarted.",
    "run.bundle": "The recipe's own Python failed at the site.",
    "run.dead_tensor": "Training is broken at the site: a trained tensor gets no gradient.",
    "run.not_finite": "Training diverged at the site: a value is not finite.",
    "site.no_flower": "The recipe is a Flower ClientApp, and the site has not installed plasmid[flower].",
    "site.no_lock": "The site's host cannot keep the records of a recipe's own Python apart.",
    "site.no_rdkit": "The recipe reads fragments of molecules, and the site has no plasmid[molecules].",
    "site.paused": "The site's owner has paused it.",
    "site.worker_died": "The site's worker process ended unexpectedly.",
    "site.failed": "The site could not go on; its own log says why.",
    "storage.lineage_damaged": "The site's record of earlier answers is damaged, so no query leaves it.",
    "storage.ledger_damaged": "The site's privacy ledger is damaged, so nothing runs there.",
    "storage.ledger_rolled_back": "The site's privacy ledger is older than its peers remember.",
    "storage.log_damaged": "The site's audit log is damaged, so nothing leaves it.",
    "storage.log_rolled_back": "The site's audit log is older than its peers remember, so nothing leaves it.",
    "site.clock": "The site's clock is behind its audit log, so nothing leaves it.",
    "storage.full": "The site has no disk space left to keep its log.",
}


def public(error: Exception) -> tuple[str, str]:
    """Return the code and sentence of *error* that may leave the site."""
    code = error.code if isinstance(error, PlasmidError) else "site.failed"
    if code.startswith("data.") and code not in SENTENCES:
        code = "data.invalid"
    if code not in SENTENCES:
        code = "site.failed"
    return code, SENTENCES[code]
