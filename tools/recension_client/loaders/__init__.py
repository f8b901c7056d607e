"""Samples for training, in an order that anyone can compute again.

``torch`` and ``datasets`` have the adapters, each with the extra of its name.
"""

from recension_client.loaders.order import ALL, Order, Share, State
from recension_client.loaders.samples import COLUMNS, Sample, Source, walk
from recension_client.loaders.served import Served
from recension_client.loaders.unpacked import Unpacked

__all__ = ["ALL", "COLUMNS", "Order", "Sample", "Served", "Share", "Source", "State", "Unpacked", "walk"]
