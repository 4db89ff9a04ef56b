"""API keys, compared in constant time."""

import hashlib
import hmac
from collections.abc import Sequence


class KeySet:
    """Keys, kept as digests."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def __contains__(self, key: str) -> bool:
        digest = hashlib.sha256(key.encode()).digest()
        # Every key is compared, so that the time says nothing about which one was near.
        matches = [hmac.compare_digest(digest, own) for own in self._digests]
        return any(matches)
