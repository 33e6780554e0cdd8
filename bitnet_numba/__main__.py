"""``python -m bitnet_numba``: the command line."""

from bitnet_numba_cli.main import main

if __name__ == "__main__":
    main()
