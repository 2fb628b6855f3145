"""`python -m gato VERB …`."""

from gato.cli import main

if __name__ == "__main__":
    main()
