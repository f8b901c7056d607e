"""Usage <-> proto, both directions together."""

from __future__ import annotations

from recension.model.usage import Period, Usage
from recension.v1 import usage_service_pb2 as pb
from recension.wire.convert import timestamp_from_proto, timestamp_to_proto


def usage_to_proto(usage: Usage) -> pb.Usage:
    """Write what a licensee has used."""
    return pb.Usage(
        licensee=usage.licensee,
        agreement=usage.agreement,
        ordinal=usage.ordinal,
        periods=map(_period_to_proto, usage.periods),
        reserved_articles=usage.reserved_articles,
        reserved_text_bytes=usage.reserved_text_bytes,
        requests_per_second=usage.requests_per_second,
        burst=usage.burst,
        concurrent_streams=usage.concurrent_streams,
        open_streams=usage.open_streams,
    )


def usage_from_proto(message: pb.Usage) -> Usage:
    """Read what a licensee has used. Raises ``InvalidTimeError``."""
    return Usage(
        licensee=message.licensee,
        agreement=message.agreement,
        ordinal=message.ordinal,
        periods=tuple(map(_period_from_proto, message.periods)),
        reserved_articles=message.reserved_articles,
        reserved_text_bytes=message.reserved_text_bytes,
        requests_per_second=message.requests_per_second if message.HasField("requests_per_second") else None,
        burst=message.burst if message.HasField("burst") else None,
        concurrent_streams=message.concurrent_streams if message.HasField("concurrent_streams") else None,
        open_streams=message.open_streams,
    )


def _period_to_proto(period: Period) -> pb.UsagePeriod:
    return pb.UsagePeriod(
        period=period.name,
        articles=period.articles,
        text_bytes=period.text_bytes,
        lost_articles=period.lost_articles,
        lost_text_bytes=period.lost_text_bytes,
        articles_limit=period.articles_limit,
        text_bytes_limit=period.text_bytes_limit,
        renews_at=timestamp_to_proto(period.renews_at),
    )


def _period_from_proto(message: pb.UsagePeriod) -> Period:
    return Period(
        name=message.period,
        articles=message.articles,
        text_bytes=message.text_bytes,
        lost_articles=message.lost_articles,
        lost_text_bytes=message.lost_text_bytes,
        articles_limit=message.articles_limit if message.HasField("articles_limit") else None,
        text_bytes_limit=message.text_bytes_limit if message.HasField("text_bytes_limit") else None,
        renews_at=timestamp_from_proto(message.renews_at, "renews_at"),
    )
