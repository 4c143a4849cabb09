"""Many workers: both stages spread over Ray actors, behind the same protocols as in one process.

The driver reads data, hands out blocks, puts results in order and alone writes files; an actor holds a model and
answers blocks. Nothing here is imported where a config has no `workers`.
"""
