"""Certificates for tests over TLS, made with openssl."""
from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, stdin=subprocess.DEVNULL, capture_output=True)


def make_authority(folder: Path) -> Path:
    """The folder, with ca.pem, cert.pem and key.pem (the client's), server.pem and server-key.pem (127.0.0.1's)."""
    openssl(folder, "req", "-x509", *CURVE, "-days", "9", "-subj", "/CN=test authority", "-keyout", "ca-key.pem",
            "-out", "ca.pem", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    for key, cert, extra in (("server-key.pem", "server.pem", "subjectAltName=IP:127.0.0.1"),
                             ("key.pem", "cert.pem", "extendedKeyUsage=clientAuth")):
        (folder / "ext").write_text(f"{extra}\nauthorityKeyIdentifier=keyid\n")
        openssl(folder, "req", *CURVE, "-subj", "/CN=test", "-keyout", key, "-out", "request.pem")
        openssl(folder, "x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-days", "9",
                "-CAcreateserial", "-extfile", "ext", "-out", cert)
    return folder


def engine_context(authority: Path) -> ssl.SSLContext:
    """A server that demands the client's certificate, and takes the end of TCP's stream for an end, as Go does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "server.pem", authority / "server-key.pem")
    context.load_verify_locations(authority / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0x80)
    return context
