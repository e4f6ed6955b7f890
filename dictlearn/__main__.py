"""`python -m dictlearn`, and `torchrun -m dictlearn`: the command line."""

from dictlearn.cli import main

if __name__ == "__main__":
    main()
