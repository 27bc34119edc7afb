"""The page where people look at pairs."""

from service.web.page import ShownPair, render_pairs

__all__ = ["ShownPair", "render_pairs"]
