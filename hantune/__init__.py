"""hantune (汉调): raw Chinese conversations -> a tuned, verified, answering chat model.

Layers, each may import only what stands to its left (held by ``tests/test_architecture.py``)::

    errors env log paths | config | data | models | infer | evaluate | train | report | workflow | cli
"""

__version__ = "0.1.0"
