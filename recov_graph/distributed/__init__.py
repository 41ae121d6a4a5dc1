"""Problems over a Ray cluster: each worker writes a store of its own, merged at the end.

What the workers stored is what counts. A worker that died is followed by another that goes on from
the same shard; what was on a machine that is gone is worked out again, and nothing else is.
"""

from recov_graph.distributed.cluster import Cluster
from recov_graph.distributed.collecting import default_shards, take_in
from recov_graph.distributed.driver import Distributed

__all__ = ["Cluster", "Distributed", "default_shards", "take_in"]
