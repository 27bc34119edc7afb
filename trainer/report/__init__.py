"""`prefstream report …`: what a policy's pairs look like, before anybody trains on them."""
