"""Images in: sources (folders, the demo world), decoding and the loader. Imports only ``errors``
from ssltool.
"""
