"""One file a format of prompts. Each has `load(options, data) -> list[Item]`: every prompt of the benchmark, in its order.

`options` is the `prompts:` mapping of a benchmark's YAML file, `data` the folder of its verified files (None where it has none).
A reader whose pictures are no files has `sources(item)`, the pictures that come with a prompt, and, where it can say what should be drawn,
`targets(item)`, a picture a turn.
"""

from __future__ import annotations
