"""The HTTP face: one router per noun."""

from service.api.app import create_app
from service.api.server import Server

__all__ = ["Server", "create_app"]
