"""The run configuration: ``schema`` says what exists, ``io`` reads and writes it, ``kits`` reads other tools' files."""
