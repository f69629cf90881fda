"""TLS of the service, with a certificate that may be renewed while it runs."""

from __future__ import annotations

import os
import ssl

import structlog

log = structlog.get_logger(__name__)


class Tls:
    """A server's context from a certificate chain and its key, both PEM, and their renewal.

    Connections that are open keep the certificate they were made with; new handshakes take the new one.

    Attributes:
        context: For the listening socket.
        renewals: How often a new certificate was taken.
        errors: How often files had changed and could not be used; the old certificate goes on then.
    """

    def __init__(self, cert_path: str, key_path: str) -> None:
        """Load both.

        Raises:
            OSError: A file cannot be read, or they are no certificate and its key.
        """
        self._paths = (cert_path, key_path)
        self._seen = self._signature()
        try:
            self.context = self._load()
        except ssl.SSLError:
            raise OSError(f"{cert_path}, {key_path}: no certificate and its key in PEM") from None
        except OSError as error:
            raise OSError(f"{cert_path}, {key_path}: {error.strerror}") from None
        self.renewals = 0
        self.errors = 0

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # A key with a password would have OpenSSL ask for it on the terminal.
        context.load_cert_chain(*self._paths, password=lambda: "")
        return context

    def _signature(self) -> tuple[tuple[int, int, int] | None, ...]:
        found: list[tuple[int, int, int] | None] = []
        for path in self._paths:
            try:
                status = os.stat(path)
            except OSError:
                found.append(None)
            else:
                found.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(found)

    def refresh(self) -> bool:
        """Take a renewed certificate; whether there was one. Blocks for reading two small files."""
        signature = self._signature()
        if signature == self._seen:
            return False
        try:
            # First into a context of its own: a certificate whose key is not written yet must not leave
            # the one in use with half of each.
            self._load()
            self.context.load_cert_chain(*self._paths, password=lambda: "")
        except OSError as error:
            self._seen = signature  # told of once; the second file's change makes another try
            self.errors += 1
            log.error("wds_certificate_unusable", error=type(error).__name__)
            return False
        self._seen = signature
        self.renewals += 1
        log.info("wds_certificate_renewed")
        return True
