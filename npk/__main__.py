"""`python -m npk` is the `npk` command."""

from npk.cli import app

if __name__ == "__main__":
    app()
