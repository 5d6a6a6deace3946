"""Rad-ReStruct: the structured reports of IU X-Ray (Pellegrini et al., MICCAI 2023).

new_reports/<number>.json   one report: areas, their topics and, of each topic, its instances

Every file has the whole template; a topic without an instance is absent. The template was filled
from the MeSH and RadLex terms of the reports: what it has no topic for, such as a hiatal hernia, is
nowhere in it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from radrep.errors import DataError
from radrep.json_text import load_json

_FOLDERS = ("new_reports", "data/radrestruct/new_reports")
_MAX_REPORT = 1_000_000  # bytes; one that is indented has 94,105
_STUDY = re.compile(r"CXR(\d{1,9})(?:_.*)?", re.ASCII)
# What a report without any abnormality may name, as for the labeler: devices, clips, wires.
_NO_ABNORMALITY = re.compile(r"foreign objects/(?!foreign bodies$)")


class RadReStruct:
    """Reads the structured reports of a clone of Rad-ReStruct, or of its data/radrestruct.

    Raises DataError if the folder has none.
    """

    def __init__(self, folder: Path) -> None:
        found = [folder / name for name in _FOLDERS if any((folder / name).glob("*.json"))]
        if not found:
            raise DataError(
                f"{folder} is no folder of Rad-ReStruct: expected new_reports/<number>.json in it "
                "or in its data/radrestruct, as in https://github.com/ChantalMP/Rad-ReStruct"
            )
        self._folder = found[0]

    def labels(self, study: str) -> dict[str, int]:
        """1 or 0 for each topic of the template, such as "lung/opacity", and for "normal".

        Empty for a study that it has no report of; "normal" is 1 where no abnormality is named.

        Raises:
            DataError: If the id is none of IU X-Ray, or the report cannot be read.
        """
        number = _STUDY.fullmatch(study)
        if number is None:
            raise DataError(
                f"study '{study}' has no id of IU X-Ray, such as CXR1000_IM-0003, and Rad-ReStruct "
                "has reports of IU X-Ray alone: name a folder made by radrep prepare iu"
            )
        path = self._folder / f"{number[1]}.json"
        if not path.exists():
            return {}
        found: dict[str, int] = {}
        for topic, instances in _read(path):
            found[topic] = int(found.get(topic, 0) or instances > 0)
        abnormal = {topic for topic in found if not _NO_ABNORMALITY.match(topic)}
        return found | {"normal": int(not any(found[topic] for topic in abnormal))}


def _read(path: Path) -> list[tuple[str, int]]:
    """Topics and how many instances each has."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_REPORT + 1)
        if len(content) > _MAX_REPORT:
            raise DataError(f"{path} has more than 1 MB, which no structured report has")
        found = list(_topics(load_json(content)))
        if not found:
            raise ValueError("it has no topic")
        "".join(topic for topic, _ in found).encode()  # UnicodeEncodeError, for half a pair
        return found
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is no structured report of Rad-ReStruct, which are lists of areas with topics "
            f"and their instances ({type(error).__name__}: {error}); fetch it again"
        ) from error


def _topics(areas: Any) -> Iterator[tuple[str, int]]:
    """Raises KeyError, TypeError or AttributeError where the layout is another one."""
    for area in areas:
        parts = area["sub_areas"] if "sub_areas" in area else {area["area"]: area}
        for name, kinds in parts.items():
            for kind, topics in kinds.items():
                if kind == "area":
                    continue
                # The infos of a small area are one topic: whether there is anything abnormal.
                for topic, content in ({kind: topics} if kind == "infos" else topics).items():
                    if not isinstance(content["instances"], list):
                        raise TypeError(f"the instances of {name}/{topic} are no list")
                    yield f"{name}/{topic}", len(content["instances"])
