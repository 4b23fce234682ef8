"""One file a format of prompts. Each has `load(options, data) -> list[Item]`: every prompt of the benchmark, in its order.

`options` is the `prompts:` mapping of a benchmark's YAML file, `data` the folder of its verified files (None where it has none).
"""

from __future__ import annotations
