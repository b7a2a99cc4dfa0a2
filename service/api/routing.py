"""What answers a path: its route, and the parts of the path that the route's template leaves open."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from service.api.messages import Route

_PARAMETER = re.compile(r"\{(\w+)\}")

_ANY, _END = object(), object()
"""In the tree of the templates: what stands for a parameter, and where a template ends."""


class Router:
    """Finds routes."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._fixed: dict[str, Route] = {}
        self._tree: dict[object, Any] = {}
        for route in routes:
            if names := _PARAMETER.findall(route.template):
                node = self._tree
                for segment in route.template.split("/"):
                    node = node.setdefault(_ANY if _PARAMETER.fullmatch(segment) else segment, {})
                node[_END] = route, names
            else:
                self._fixed[route.template] = route

    def find(self, path: str) -> tuple[Route, Mapping[str, str]] | None:
        """The route of a path and its parameters, none of them empty; None if nothing answers it.

        A template without parameters goes before one with, and so does a segment that is the path's own.
        """
        if (route := self._fixed.get(path)) is not None:
            return route, {}
        node, values = self._tree, []
        for segment in path.split("/"):
            below = node.get(segment)
            if below is None:
                below = node.get(_ANY)
                if below is None or not segment:
                    return None
                values.append(segment)
            node = below
        if (found := node.get(_END)) is None:
            return None
        route, names = found
        return route, dict(zip(names, values, strict=True))
