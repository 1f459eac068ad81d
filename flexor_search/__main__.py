"""`python -m flexor_search`, and the entry point of `flexor-search`."""

from flexor_search.cli import main

if __name__ == "__main__":
    main()
