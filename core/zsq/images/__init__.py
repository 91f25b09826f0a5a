"""Images: pixels and inputs, pools that are made once and dealt out, pictures of many."""

from __future__ import annotations

from zsq.images._gallery import distinct, gallery, read_gallery
from zsq.images._pixels import normalise, patterns, pixels_of

__all__ = ["distinct", "gallery", "normalise", "patterns", "pixels_of", "read_gallery"]
