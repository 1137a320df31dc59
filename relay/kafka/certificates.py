"""Why OpenSSL does not accept a server's certificate, as far as a person can do something about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import ssl

Fault = Literal["expired", "not yet valid", "other name", "unknown authority", "other"]

# X509_V_ERR_... of OpenSSL, as ssl.SSLCertVerificationError.verify_code has them.
_FAULTS: dict[int, Fault] = {
    9: "not yet valid",
    10: "expired",
    **dict.fromkeys((2, 18, 19, 20, 21, 24, 27), "unknown authority"),
    **dict.fromkeys((62, 64), "other name"),
}


def fault_of(error: ssl.SSLCertVerificationError) -> Fault:
    """Return what is wrong with the certificate, or with what is known of its authority."""
    return _FAULTS.get(error.verify_code, "other")
