"""Pilot jobs: workers that hold a slot somewhere and take job after job. What every cluster backend shares.

`on_node` runs where the jobs run. On arf's side a pool has the queues, the ends and what follows from them
(`pool.py`); a backend starts workers and says what became of them. There are two ways to reach workers:

* through a folder that both sides see (`folder.py`; `sending.py` if that folder is not the study's own);
* over a connection to each node (`linked_pool.py`, with `remote_node.py`, `session.py` and `link.py`),
where a
  foreman keeps the node's workers. Work trees go there as bundles (`bundle.py`).
"""
