"""The status board: the last note of each service, gone soon after its writer."""

import pytest
from redis.asyncio import Redis

from shared.status import FADES_AFTER_S, StatusBoard

pytestmark = pytest.mark.anyio


async def test_the_last_note_is_read_and_services_do_not_mix(redis: Redis, dataset: str) -> None:
    board = StatusBoard(redis, dataset)
    assert await board.read("trainer") == {}
    await board.post("trainer", {"phase": "waiting", "pairs": 1})
    await board.post("trainer", {"phase": "training", "pairs": 2})
    await board.post("generation", {"running": 3})
    assert await board.read("trainer") == {"phase": "training", "pairs": 2}
    assert await board.read("generation") == {"running": 3}


async def test_a_dead_service_s_note_fades(redis: Redis, dataset: str) -> None:
    await StatusBoard(redis, dataset).post("trainer", {"phase": "training"})
    assert 0 < await redis.ttl(f"pairwright:{{{dataset}}}:status:trainer") <= FADES_AFTER_S
    await redis.expire(f"pairwright:{{{dataset}}}:status:trainer", 0)
    assert await StatusBoard(redis, dataset).read("trainer") == {}
