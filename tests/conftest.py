"""What the whole suite needs."""

import signal

# Started in the background by a shell, pytest ignores Ctrl-C, and so would the commands whose
# answer to it is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)
