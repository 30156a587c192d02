"""``python -m longspan``, which is what ``torchrun -m longspan pretrain ...`` launches."""

from longspan.cli import main

if __name__ == "__main__":
    main()
