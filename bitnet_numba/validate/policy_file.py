"""Reader of policy files, YAML or JSON: bounded, without aliases or repeated keys; each error names file and key."""

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from bitnet_numba.errors import BitNetError, FormatError, excerpt
from bitnet_numba.files import fingerprint_of, open_regular
from bitnet_numba.formats.json_file import unique_keys

MAX_BYTES = 1 << 18
POLICY_VERSION = 1


class Field:
    """A value of a policy file, and its place: the file and the keys that lead to the value."""

    def __init__(self, place: str, value: object) -> None:
        self.place = place
        self._value = value

    def error(self, problem: str) -> FormatError:
        """Return the error to raise for a problem of this value."""
        return FormatError(f"{self.place}: {problem}; correct the policy")

    def section(self, name: str) -> "Field":
        """Return the content of a whole policy, which has this section and a version."""
        top = self.mapping(required=("version", name))
        version = top["version"]
        if isinstance(version._value, bool) or version._value != POLICY_VERSION:
            raise version.error(f"version {version._shown()} is not read, expected {POLICY_VERSION}")
        return top[name]

    def mapping(self, required: Iterable[str] = (), optional: Iterable[str] = ()) -> dict[str, "Field"]:
        """Return the fields of a mapping with all required keys, and no others than the optional ones."""
        fields = self.entries()
        allowed = (*required, *optional)
        for key in fields:
            if key not in allowed:
                raise self.error(f"unknown key {excerpt(key)}, expected {', '.join(allowed)}")
        for key in required:
            if key not in fields:
                raise self.error(f"key '{key}' is missing")
        return fields

    def entries(self) -> dict[str, "Field"]:
        """Return the fields of a mapping with any keys."""
        if not isinstance(self._value, dict) or not all(isinstance(key, str) for key in self._value):
            raise self.error(f"expected a mapping of names, got {self._shown()}")
        return {key: Field(f"{self.place}: {key}", value) for key, value in self._value.items()}

    def items(self) -> list["Field"]:
        """Return the fields of a list that is not empty."""
        if not isinstance(self._value, list) or not self._value:
            raise self.error(f"expected a list of at least one, got {self._shown()}")
        return [Field(f"{self.place}[{index}]", value) for index, value in enumerate(self._value)]

    def text(self) -> str:
        """Return a text that is not blank."""
        if not isinstance(self._value, str) or not self._value.strip():
            raise self.error(f"expected a text, got {self._shown()}")
        return self._value

    def number(self, minimum: float) -> float:
        """Return a finite number of at least ``minimum``."""
        value = self._value
        if isinstance(value, str):
            raise self.error(f"expected a number, got the text {excerpt(value)} (YAML wants 1.0e-3, not 1e-3)")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(f"expected a number, got {self._shown()}")
        if not minimum <= value <= sys.float_info.max:  # also refuses NaN
            raise self.error(f"{excerpt(value)} is not a finite number of at least {minimum:g}")
        return float(value)

    def flag(self) -> bool:
        """Return a boolean."""
        if not isinstance(self._value, bool):
            raise self.error(f"expected true or false, got {self._shown()}")
        return self._value

    def _shown(self) -> str:
        return "nothing" if self._value is None else excerpt(self._value)


def read_policy(path: Path) -> tuple[Field, str]:
    """Read a policy file: its content, not yet checked, and its fingerprint.

    Raises a FormatError if the file is too large, neither YAML nor JSON, or repeats a key.
    """
    try:
        with open_regular(path) as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BitNetError(f"{path}: cannot be read ({error.strerror}); name a policy file") from error
    if len(data) > MAX_BYTES:
        raise FormatError(f"{path}: larger than {MAX_BYTES:,} bytes, which no policy is; name a policy file")
    try:
        text = data.decode("utf-8")
        # YAML reads JSON's 1e-3 as a text
        value = json.loads(text, object_pairs_hook=unique_keys) if text.lstrip().startswith("{") else _parse_yaml(text)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f" line {error.problem_mark.line + 1}:"
        raise FormatError(f"{path}:{line} not YAML ({error.problem}); correct the policy") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise FormatError(f"{path}: neither YAML nor JSON ({reason}); correct the policy") from None
    return Field(str(path), value), fingerprint_of(hashlib.sha256(data).hexdigest())


def dump_policy(policy: Mapping[str, Any]) -> str:
    """Return a policy as YAML."""
    return str(yaml.safe_dump(dict(policy), sort_keys=False, allow_unicode=False))


def _parse_yaml(text: str) -> Any:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_unique(node, set())
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_unique(node: Any, visited: set[int]) -> None:
    """Refuse repeated keys (YAML takes the last) and aliases, which can grow without bound."""
    if not isinstance(node, yaml.CollectionNode):
        return
    line = node.start_mark.line + 1
    if id(node) in visited:
        raise ValueError(f"line {line}: a list or mapping with an alias; write it out where it is used")
    visited.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_unique(item, visited)
        return
    keys: set[str] = set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in keys:
                raise ValueError(f"line {line}: the key {excerpt(key.value)} occurs twice")
            keys.add(key.value)
        _check_unique(value, visited)
