"""Which spectral windows, fields and data columns of several, unlike MeasurementSets are the same.

MSs are taken in the order of their start, those that start together in the order of their names, and what is in an
MS in the order of its numbers; so nothing depends on the order in which MSs are given. What is like no earlier group
founds one, and a group is ever after compared by what founded it: groups neither drift nor merge as MSs are added.
Give the groups found earlier as `known`: they keep their ids, and their members as long as an MS has what it had.

A new group's id is the number of what founded it where no group has that id yet, so that the ids are those of the
first MS where all are alike; otherwise it comes after the highest id.
"""

from surgeline.context.matching.data import DataChoice, DataColumn, choose_data
from surgeline.context.matching.facts import Disagreement, FieldGroup, WindowGroup, real_numbers, virtual_id
from surgeline.context.matching.fields import match_fields
from surgeline.context.matching.frequencies import FrequencyRange, frequency_range
from surgeline.context.matching.groups import Matched
from surgeline.context.matching.overrides import MatchOverride
from surgeline.context.matching.ranges import match_windows_in_range
from surgeline.context.matching.sky import SkyPosition, separation
from surgeline.context.matching.windows import match_windows_by_overlap, match_windows_exactly

__all__ = [
    "DataChoice",
    "DataColumn",
    "Disagreement",
    "FieldGroup",
    "FrequencyRange",
    "MatchOverride",
    "Matched",
    "SkyPosition",
    "WindowGroup",
    "choose_data",
    "frequency_range",
    "match_fields",
    "match_windows_by_overlap",
    "match_windows_exactly",
    "match_windows_in_range",
    "real_numbers",
    "separation",
    "virtual_id",
]
