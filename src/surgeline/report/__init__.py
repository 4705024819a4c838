"""The weblog: what a session did, as one page and as a script."""
