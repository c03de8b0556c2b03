"""Loads a policy and a TLS certificate for a start or a reload: both are accepted, or neither."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from ssl import OP_NO_RENEGOTIATION, PROTOCOL_TLS_SERVER, SSLContext

from cartpole.predictor import Engine, load_engine, read_file
from cartpole.settings import Settings


@dataclass(frozen=True)
class Loaded:
    """A policy and a certificate that have been loaded and checked.

    Attributes:
        engine: runs the policy.
        tls: the context of HTTPS; None for plain HTTP.
    """

    engine: Engine
    tls: SSLContext | None

    def __str__(self) -> str:
        policy = self.engine.policy
        return (
            f"{policy.path} ({policy.algorithm}, sha256 {policy.sha256[:12]}), "
            f"engine {self.engine.name}"
        )


def load(settings: Settings, copies: Sequence[int] = ()) -> Loaded:
    """Load and check the files that settings name.

    Args:
        copies: descriptors of files in memory for the model, the certificate and the key. One that
            is empty becomes a copy first. Then all is loaded from the copies.

    Raises:
        BadPolicy: the model can't be served, or not by this engine; or a file can't be read.
        OSError: the certificate and its key can't be used.
    """
    model, certificate, key = settings.model, settings.ssl_certfile, settings.ssl_keyfile
    copied = [Path(f"/proc/self/fd/{copy}") for copy in copies]
    engine = load_engine(model, settings.engine, _read("model", model, *copied[:1]))
    if not certificate:
        return Loaded(engine, None)
    _read("--ssl-certfile", certificate, *copied[1:2])
    if key:
        _read("--ssl-keyfile", key, *copied[2:])
    if copied:
        certificate, key = copied[1], key and copied[2]
    context = SSLContext(PROTOCOL_TLS_SERVER)
    context.options |= OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(certificate, key, password="")  # asks no terminal for one
    except OSError as error:  # among them ssl.SSLError
        raise OSError(f"can't load --ssl-certfile or --ssl-keyfile: {error}") from error
    return Loaded(engine, context)


def _read(what: str, path: Path, copy: Path | None = None) -> bytes:
    """The content of a file, from its copy if there is one. An empty copy is made first."""
    content = read_file(copy, what) if copy else b""
    if not content:
        content = read_file(path, what)
        if copy:
            copy.write_bytes(content)
    return content
