"""The set of message types of a binding, in one form (docs/api.md §6)."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.domain.message_types import normalize_message_types

PREFIXES = [
    "",
    "twilio.conversations.",
    "twilio.channel.",
    "TWILIO.Channel.",
    "twilio.channel.twilio.conversations.",
    " ",
]
NAMES = [
    "new_message",
    "added_to_conversation",
    "added_to_channel",
    "removed_from_channel",
    "invited_to_channel",
    "twilio.sync.event",
    "",
]

likely = st.builds(
    lambda prefix, name, blank: f"{blank}{prefix}{name}{blank}",
    *map(st.sampled_from, (PREFIXES, NAMES, ["", " ", "\t\n"])),
)
names = st.lists(likely | st.text(max_size=30), max_size=8)


@given(names, st.booleans())
def test_twice_is_once(given_names: list[str], map_legacy: bool) -> None:
    """If the normal form were not its own normal form, a row could change for ever without the API changing it."""
    once = normalize_message_types(given_names, map_legacy=map_legacy)
    assert normalize_message_types(once, map_legacy=map_legacy) == once


@given(names, st.booleans(), st.randoms(use_true_random=False))
def test_order_and_repetition_never_matter(
    given_names: list[str], map_legacy: bool, random: Random
) -> None:
    """The API gives a set in any order; if order counted, every run would report changes."""
    shuffled = given_names * 2
    random.shuffle(shuffled)
    normal = normalize_message_types(given_names, map_legacy=map_legacy)
    assert normalize_message_types(shuffled, map_legacy=map_legacy) == normal
    assert normal == sorted(set(normal))


@given(names, st.booleans())
def test_names_are_trimmed_lower_and_never_empty(given_names: list[str], map_legacy: bool) -> None:
    """An analyst who counts by name must not meet three writings of one."""
    for name in normalize_message_types(given_names, map_legacy=map_legacy):
        assert name
        assert name == name.strip() == name.lower()


@pytest.mark.parametrize(
    "name",
    [
        "new_message",
        "  new_message\t",
        "NEW_Message",
        "twilio.conversations.new_message",
        "twilio.channel.new_message",
        "Twilio.Conversations.New_Message",
        "twilio.channel.twilio.conversations.new_message",
        "twilio.conversations.twilio.conversations.new_message",
        "twilio.conversations. new_message",
        " twilio.channel.  twilio.channel.new_message ",
    ],
)
def test_every_writing_of_a_name_is_one_name(name: str) -> None:
    """A writing that escapes would split one message type into two columns of every chart."""
    assert normalize_message_types([name], map_legacy=True) == ["new_message"]


@pytest.mark.parametrize(
    "name",
    [
        "twilio.sync.event",
        "com.twilio.rtd.cds.map",
        "twilio.ipmsg.typing_indicator",
        "my.twilio.channel.x",
        "twilio.conversation.x",
    ],
)
def test_other_dotted_names_stay_whole(name: str) -> None:
    """Only two prefixes are known to say nothing; cutting another would join names that differ."""
    assert normalize_message_types([name], map_legacy=True) == [name]


def test_legacy_names_are_mapped_where_asked_for() -> None:
    """The same subscription read under its old name would count as another message type."""
    legacy = ["twilio.channel.added_to_channel", "REMOVED_FROM_CHANNEL", "invited_to_channel"]
    assert normalize_message_types(legacy, map_legacy=True) == [
        "added_to_conversation",
        "invited_to_channel",
        "removed_from_conversation",
    ]
    assert normalize_message_types(legacy, map_legacy=False) == [
        "added_to_channel",
        "invited_to_channel",
        "removed_from_channel",
    ]


def test_a_mapped_name_and_its_twin_are_one() -> None:
    """Mapping after taking each once would leave a name twice."""
    assert normalize_message_types(
        ["added_to_channel", "added_to_conversation"], map_legacy=True
    ) == ["added_to_conversation"]


@pytest.mark.parametrize(
    "nothing", [[], [""], [" ", "\t"], ["twilio.channel."], ["twilio.conversations. "]]
)
def test_nothing_stays_nothing(nothing: list[str]) -> None:
    """A name of white space would be a message type that nobody can ask for."""
    assert normalize_message_types(nothing, map_legacy=True) == []
