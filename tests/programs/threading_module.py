"""A module with a thread, which no fork would take along."""

import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()
