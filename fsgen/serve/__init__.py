"""`fsgen serve`: an OpenAI-compatible server of collaborative decoding. Needs the extra `serve`."""
