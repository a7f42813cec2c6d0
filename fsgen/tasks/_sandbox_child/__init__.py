"""The process in which a generated program is judged: the standard library only, nothing else of ours."""
