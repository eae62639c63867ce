"""``python -m ssltool`` is the ``ssltool`` command."""

from ssltool.cli import main

if __name__ == "__main__":
    main()
