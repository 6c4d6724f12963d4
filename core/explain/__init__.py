"""Why the network answers as it does. One method, one file, one verb: ``explain``.

``options.py`` and ``methods.py`` do not import torch; the API publishes and checks options with them.
"""
