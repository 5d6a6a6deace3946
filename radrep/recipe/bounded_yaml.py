"""YAML of strangers: PyYAML's safe loader, which leaves depth and aliases open, with limits."""

import yaml

MAX_BYTES = 100_000  # of a recipe; the longest that is shipped has 5,000
_MAX_DEPTH, _MAX_VALUES, _MAX_BITS = 50, 20_000, 128


class BoundedLoader(yaml.SafeLoader):
    """Refuses what is nested deeply or, its aliases written out, large.

    A few lines of aliases to aliases, or of merge keys ("<<"), stand for more values than memory
    holds. An alias counts as all that it stands for, and may not stand within that.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._num_values = 0
        self._sizes: dict[int, int] = {}  # of each finished node, by its identity

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """As PyYAML's; YAMLError beyond a limit."""
        mark, is_alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            self._refuse(f"more than {_MAX_DEPTH} levels of nesting", mark)
        before = self._num_values
        node: yaml.Node | None = super().compose_node(parent, index)
        if is_alias and id(node) not in self._sizes:
            self._refuse("an alias within what it stands for", mark)
        self._num_values += self._sizes[id(node)] if is_alias else 1
        self._sizes[id(node)] = self._num_values - before
        if self._num_values > _MAX_VALUES:
            self._refuse(f"more than {_MAX_VALUES:,} values, each alias written out", mark)
        self._depth -= 1
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """As PyYAML's; ValueError for what Python will not even print."""
        number: int = super().construct_yaml_int(node)
        if number.bit_length() > _MAX_BITS:
            raise ValueError(f"a whole number of more than {_MAX_BITS} bits")
        return number

    def _refuse(self, problem: str, mark: yaml.Mark) -> None:
        raise yaml.composer.ComposerError(None, None, f"{problem}, as no recipe has", mark)


BoundedLoader.add_constructor("tag:yaml.org,2002:int", BoundedLoader.construct_yaml_int)
