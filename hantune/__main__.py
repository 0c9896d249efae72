"""``python -m hantune`` and the command ``hantune``."""

import atexit
import gc
import signal
import sys


def main() -> int:
    """The exit code of the command line. Ctrl-C while Python still imports ends without a traceback.

    At the end the system takes all memory back at once: what is left is not searched for cycles first.
    """
    atexit.register(gc.freeze)
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_default:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from hantune.cli import main as run

    if is_default:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()


if __name__ == "__main__":
    sys.exit(main())
