"""The node process: enrolment, the outbound link, and the loop that serves one site's gateway."""
