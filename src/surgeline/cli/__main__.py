"""`python -m surgeline.cli`: the same as the console script."""

from surgeline.cli import main

if __name__ == "__main__":
    main()
