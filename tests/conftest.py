"""What the whole suite needs."""

import signal

from hypothesis import settings

# How long an example takes is the machine's affair: speed is never asserted.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# Started in the background by a shell, pytest ignores Ctrl-C, and so would the commands whose
# answer to it is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)
