"""The pages of the weblog, each with its template beside it."""
