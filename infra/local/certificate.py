"""The certificate by which the parts of a server know each other: it signs itself, so that it is
the authority too, and nothing else is believed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from infra.local.layout import USER, private

DAYS = 36500


def make(certificate: Path, key: Path) -> None:
    """Make it, unless it is there."""
    if certificate.exists() and key.exists():
        return
    secret = ec.generate_private_key(ec.SECP256R1())
    private(key, secret.private_bytes(*_FORMAT, serialization.NoEncryption()).decode())
    private(certificate, _signed(secret).public_bytes(serialization.Encoding.PEM).decode())


_FORMAT = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)


def _signed(secret: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, USER)])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # clocks are set
        .not_valid_after(now + timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(secret, hashes.SHA256())
    )
