"""TLS for an agent's connections by TCP."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Tls:
    """What an agent shows and asks for in TLS, as paths of PEM files.

    Args:
        certificate: The agent's own, with what leads from it to its CA. Without one, an agent that listens makes one
            for its own lifetime. Either way its address names the certificate, and a reader goes on with no other.
        key: Of the certificate, without a passphrase.
        ca: Agents at the other end must show a certificate that one of these has signed: those that connect to this
            one, and those that it connects to, which must have theirs for the host of their address. By default none
            is asked for.
    """

    certificate: str | os.PathLike[str] = ""
    key: str | os.PathLike[str] = ""
    ca: str | os.PathLike[str] = ""

    def _row(self) -> tuple[str, str, str]:
        return os.fspath(self.certificate), os.fspath(self.key), os.fspath(self.ca)
