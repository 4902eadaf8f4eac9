"""``plasmid doctor``: is an installed site in order, and do its defences hold."""

from plasmid.owner.doctor import folder, outside
from plasmid.owner.doctor.report import Check

CHECKS: tuple[tuple[str, Check], ...] = (
    ("keys", folder.keys),
    ("rights", folder.rights),
    ("state", folder.state),
    ("isolation", folder.isolation),
    ("policy", folder.policy),
    ("peers", folder.peers),
    ("ledger", folder.ledger),
    ("log", folder.audit),
    ("clock", folder.clock),
    ("disk", folder.disk),
    ("versions", outside.versions),
    ("certificates", outside.certificates),
    ("coordinator", outside.way_out),
    ("member", outside.member),
)
