"""A certificate for tests and benchmarks of TLS."""

import subprocess
from pathlib import Path

CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 "
    "-subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout key.pem -out certificate.pem"
)


def make_certificate(folder: Path) -> None:
    """Write a self-signed certificate.pem and its key.pem to the folder."""
    subprocess.run(CERTIFICATE.split(), cwd=folder, check=True, capture_output=True)
