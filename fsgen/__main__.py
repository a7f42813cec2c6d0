"""`python -m fsgen`: the commands of `fsgen.cli`."""

from fsgen.cli import main

if __name__ == "__main__":
    main()
