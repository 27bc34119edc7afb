"""The service as a process of its own, made to be killed: python -m tests.faults.api PORT"""

import sys

from service.api import Server, create_app
from service.settings import Settings

if __name__ == "__main__":
    Server(create_app(Settings()), "127.0.0.1", int(sys.argv[1])).run()
