"""Who may connect, and who may call methods: on this host anybody, from elsewhere known certificates only.

Knows certificates and folders of them. A client's certificate is the one of its secure channel: only that one
has proved that it holds the key. Folders are read at every connection, so that adding or removing a file is
enough.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.internal_server import InternalServer
from asyncua.server.user_managers import UserManager
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from dualkd.daemon.bridges.config import OpcUaSecurity
from dualkd.daemon.bridges.feed import BridgeError
from dualkd.daemon.credentials import find_secret, why_not_secret

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SUFFIXES = (".pem", ".der", ".crt", ".cer")


@dataclass
class Peer(User):
    """Who is connected."""

    may_call: bool = False


@dataclass(frozen=True, slots=True)
class Identity:
    """The server's own certificate and its key, and the application's name that the certificate is made for."""

    certificate: x509.Certificate
    private_key: rsa.RSAPrivateKey
    application_uri: str


class Gate(UserManager):
    """Asked by the server for every session that is to be activated."""

    def __init__(self, security: OpcUaSecurity | None) -> None:
        """None: no certificates, everybody may call. Raises BridgeError for what is no certificate."""
        self._security = security
        if security is not None:
            self._controllers(security), self._readers(security)

    def get_user(
        self,
        iserver: InternalServer,  # noqa: ARG002 (asyncua's interface)
        username: str | None = None,  # noqa: ARG002
        password: str | None = None,  # noqa: ARG002
        certificate: bytes | None = None,
    ) -> Peer | None:
        """Who that is. Raises ServiceError, which tells the client why not."""
        if self._security is None:
            return Peer(UserRole.User, may_call=True)
        if not certificate:  # a channel without security, which asyncua leaves open for discovery
            raise ServiceError(ua.StatusCodes.BadSecurityModeInsufficient)
        try:
            may_call = certificate in self._controllers(self._security)
            known = may_call or certificate in self._readers(self._security)
        except BridgeError as error:
            logger.warning("opcua: nobody is let in: %s", error)
            raise ServiceError(ua.StatusCodes.BadCertificateUntrusted) from error
        if not known:
            raise ServiceError(ua.StatusCodes.BadCertificateUntrusted)
        shown = x509.load_der_x509_certificate(certificate)
        if not shown.not_valid_before_utc <= datetime.now(timezone.utc) <= shown.not_valid_after_utc:
            raise ServiceError(ua.StatusCodes.BadCertificateTimeInvalid)
        return Peer(UserRole.User, shown.subject.rfc4514_string(), may_call)

    @staticmethod
    def _controllers(security: OpcUaSecurity) -> frozenset[bytes]:
        return _load_folder("controllers", security.controllers)

    @staticmethod
    def _readers(security: OpcUaSecurity) -> frozenset[bytes]:
        return _load_folder("readers", security.readers)


def load_identity(security: OpcUaSecurity) -> Identity:
    """Read the server's certificate and key. Raises BridgeError."""
    certificate = _read("certificate", Path(security.certificate), _certificate)
    key_path = find_secret(security.private_key)
    private_key = _read("private_key", key_path, _private_key)
    fault = why_not_secret(key_path)
    if fault:
        raise BridgeError(f"opcua.security.private_key: {key_path}: {fault}")
    if certificate.public_key() != private_key.public_key():
        raise BridgeError(
            f"opcua.security: {security.private_key} is not the key of {security.certificate}; "
            "name the pair that was made together"
        )
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError) as error:
        raise BridgeError(
            f"opcua.security.certificate: {security.certificate}: OPC UA clients want one URI in its "
            "subjectAltName, such as URI:urn:dualkd:line1; BRIDGES.md has the command that makes one"
        ) from error
    if certificate.not_valid_after_utc < datetime.now(timezone.utc):
        logger.warning("opcua: %s ran out on %s", security.certificate, certificate.not_valid_after_utc)
    return Identity(certificate, private_key, uri)


def _load_folder(key: str, folder: str | None) -> frozenset[bytes]:
    """The certificates of a folder, as DER. Raises BridgeError."""
    if folder is None:
        return frozenset()
    try:
        paths = [path for path in Path(folder).iterdir() if path.suffix.lower() in _SUFFIXES]
    except OSError as error:
        raise BridgeError(
            f"opcua.security.{key}: {folder}: {error.strerror}; it is a folder of client certificates, "
            f"{', '.join(f'*{suffix}' for suffix in _SUFFIXES)}"
        ) from error
    certificates = (_read(key, path, _certificate) for path in paths)
    return frozenset(certificate.public_bytes(serialization.Encoding.DER) for certificate in certificates)


def _read(key: str, path: Path, load: Callable[[bytes], T]) -> T:
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise BridgeError(f"opcua.security.{key}: {path}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise BridgeError(
            f"opcua.security.{key}: {path}: not in PEM or DER, or not what is wanted here ({error})"
        ) from error


def _certificate(raw: bytes) -> x509.Certificate:
    return (x509.load_pem_x509_certificate if _is_pem(raw) else x509.load_der_x509_certificate)(raw)


def _private_key(raw: bytes) -> rsa.RSAPrivateKey:
    load = serialization.load_pem_private_key if _is_pem(raw) else serialization.load_der_private_key
    key = load(raw, password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("Basic256Sha256 wants an RSA key")
    return key


def _is_pem(raw: bytes) -> bool:
    return raw.lstrip().startswith(b"-----BEGIN")
