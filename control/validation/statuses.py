"""Statuses of HTTP that refuse a request, those that Envoy knows: it would refuse a whole listener over another one."""

from typing import Final

_FROM_400: Final = (*range(400, 418), 421, 422, 423, 424, 426, 428, 429, 431)
_FROM_500: Final = (*range(500, 509), 510, 511)
REFUSING: Final = frozenset((*_FROM_400, *_FROM_500))
