"""The network: from a picture's bytes to a prediction. Knows no jobs and no web.

Nothing is imported here, so that :mod:`core.vision.images` and :mod:`core.vision.manifest` can be used
by processes that must never load torch.
"""
