"""Views of an image: parameters are sampled first, then applied; masks and the selection of views."""
