"""``python -m pathology_scaat`` is the ``scaat`` command."""

from pathology_scaat.cli import main

if __name__ == "__main__":
    main()
