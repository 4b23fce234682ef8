"""Official folder layouts, one file a benchmark: pictures out, for the official scorer, and its results in.

Each has `export(rows, folder)` (rows: item, k, picture's path), `pictures(items, folder)` (who lies where in a folder of that layout, by
group, id and k) and, where the official scorer writes a file that is known, `results(path, items)` (key, values, reason).
"""

from __future__ import annotations
