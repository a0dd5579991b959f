"""Programs that measure. `bench` comes before torch, as in a run: it sets how threads wait."""

import bench  # noqa: F401
