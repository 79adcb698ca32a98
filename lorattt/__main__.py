"""``python -m lorattt`` is the command ``lorattt``."""

from lorattt.cli import main

if __name__ == "__main__":
    main()
