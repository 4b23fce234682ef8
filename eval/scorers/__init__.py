"""One file a family of scorers. Each has `load(options, services) -> Scorer`, and `calls(options, item)`: judge calls for one picture.

`options` is the `scoring:` mapping of a benchmark's YAML file.
"""

from __future__ import annotations
