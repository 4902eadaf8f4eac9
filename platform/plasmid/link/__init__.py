"""The server end of the link: enrolment, mailboxes, bodies. Inside the coordinator's trust domain."""
