"""Credentials are cut out of whatever is shown, logged or stored."""

import re

SECRET_NAME = r"passw(?:or)?d|secret|credential|signature|(?:api|access)[_-]?key|auth[_-]?token"
SECRET_PART = re.compile(  # of a URL: user and password, or a parameter
    rf"(?<=://)[^/\s]*(?=@)|(?<=[?&])[^=&\s]*(?:{SECRET_NAME})[^=&\s]*=[^&\s]*", re.IGNORECASE
)


def safe(text: str) -> str:
    """The text without the credentials of URLs in it."""
    return SECRET_PART.sub("***", text)
