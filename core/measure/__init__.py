"""What a machine can do with the network, and whether it does it right: behind ``pawlens bench engine``.

Nothing here needs the tests' folder, a database or a broker, so it can run first on a machine that is new.
"""
