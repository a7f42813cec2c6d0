"""The resumable recipe of the pocket ladder."""
