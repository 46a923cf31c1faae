"""`python -m opendetr` is the command `opendetr`."""

from opendetr.cli import main

if __name__ == "__main__":
    main()
