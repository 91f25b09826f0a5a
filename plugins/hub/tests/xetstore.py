"""The Xet store as the Hub's client speaks to it: xorbs hold packed chunks, shards say which chunks make which file.

After the public specification of the protocol. Nothing is unpacked here: packing, hashing and checking are the client's.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass, field
from typing import Any

TOKEN = "xet-token-of-one-hour"
_HEADER, _FILE, _TERM = 48, struct.Struct("<32sII8x"), struct.Struct("<32sIIII")
_CHUNKED, _HASHED = 1 << 31, 1 << 30  # flags of a file: checks of its terms follow; its SHA-256 follows


@dataclass
class Store:
    """Xorbs and files by their hash; SHA-256 to file."""

    xorbs: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)

    def add(self, shard: bytes) -> None:
        """Read the files of a shard; the xorbs they lie in have to be there."""
        at = _HEADER
        while True:
            name, flags, count = _FILE.unpack_from(shard, at)
            at += 48
            if name == b"\xff" * 32:
                return
            terms = [_TERM.unpack_from(shard, at + 48 * i) for i in range(count)]
            at += 48 * count * (2 if flags & _CHUNKED else 1)
            self.files[text(name)] = [
                {"hash": text(xorb), "unpacked_length": size, "range": {"start": start, "end": end}} for xorb, _, size, start, end in terms
            ]
            assert all(term["hash"] in self.xorbs for term in self.files[text(name)]), "a shard before its xorbs"
            if flags & _HASHED:
                self.hashes[text(shard[at : at + 32])] = text(name)
                at += 48

    def plan(self, name: str, url: str) -> dict[str, Any]:
        """How to put the file together, and where its parts lie."""
        parts: dict[str, list[dict[str, Any]]] = {}
        for term in self.files[name]:
            ends, chunks = offsets(self.xorbs[term["hash"]]), term["range"]
            place = {"start": ends[chunks["start"]], "end": ends[chunks["end"]] - 1}
            parts.setdefault(term["hash"], []).append({"range": chunks, "url": f"{url}/xorb/{term['hash']}", "url_range": place})
        return {"offset_into_first_range": 0, "terms": self.files[name], "fetch_info": parts}


def text(raw: bytes) -> str:
    """A hash as the protocol writes it: four little-endian numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))


def offsets(xorb: bytes) -> list[int]:
    """Where its chunks begin, and where the last one ends; what follows is a footer."""
    found = [0]
    while found[-1] < len(xorb) and xorb[found[-1]] == 0:
        found.append(found[-1] + 8 + int.from_bytes(xorb[found[-1] + 1 : found[-1] + 4], "little"))
    return found


class XetRoutes:
    """What the request handler answers for the store."""

    server: Any
    headers: Any
    known: bool

    def token(self: Any, name: str, right: str, revision: str) -> None:
        if self.found(name, revision):
            if right == "write" and not self.known:
                return self.refuse(401, "Invalid username or password.")
            until = int(time.time()) + 3600
            given = {"casUrl": self.server.url + "/xet", "accessToken": TOKEN, "exp": until}
            headers = {"X_Xet_Cas_Url": given["casUrl"], "X_Xet_Access_Token": TOKEN, "X_Xet_Token_Expiration": str(until)}
            self.json(given, **headers)

    def xorb(self: Any, name: str) -> None:
        new = name not in self.server.xet.xorbs
        self.server.xet.xorbs[name] = self.body()
        self.json({"was_inserted": new})

    def shard(self: Any) -> None:
        self.server.xet.add(self.body())
        self.json({"result": 1})

    def plan(self: Any, name: str) -> None:
        if name not in self.server.xet.files:
            return self.refuse(404, "no such file")
        self.json(self.server.xet.plan(name, self.server.url))

    def part(self: Any, name: str) -> None:
        self.ranged(self.server.xet.xorbs[name])
