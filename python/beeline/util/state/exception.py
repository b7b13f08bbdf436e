"""What the state API raises, by Ray's names."""

from __future__ import annotations


class RayStateApiException(Exception):  # noqa: N818 - Ray's name
    """The state of a session cannot be had, or not all of it."""


class ServerUnavailable(RayStateApiException, ConnectionError):  # noqa: N818 - Ray's name
    """There is no session to ask, or several; or its daemon does not answer."""
