"""The vendor's own client as a foreign witness."""

import pytest

pytest.importorskip("twilio")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:twilio")


@pytest.fixture
def sdk(stand):
    """Give a stand with 230 bindings and the SDK pointed to it."""
    from twilio.rest import Client

    here = stand(230)
    client = Client(here.world.api_key, here.world.api_secret, here.world.account_sid)
    client.conversations.base_url = str(here.client.base_url).rstrip("/")
    yield here, client.conversations.v1.services(here.service.sid).bindings, client
    client.http_client.session.close()


def test_sdk_reads_everything(sdk):
    """If this failed, the vendor's client would not take the simulator for the API."""
    here, bindings, _ = sdk
    assert [binding.sid for binding in bindings.stream(page_size=20)] == list(here.service.bindings)


def test_sdk_reads_filtered(sdk):
    """If this failed, filters would be read otherwise than the vendor's client writes them."""
    here, bindings, _ = sdk
    rows = here.service.bindings.values()
    people = [row["identity"] for row in rows][:25]
    expected = [
        row["sid"]
        for row in rows
        if row["binding_type"] in {"apn", "fcm"} and row["identity"] in people
    ]
    listed = bindings.list(binding_type=["apn", "fcm"], identity=people, page_size=4)
    assert [binding.sid for binding in listed] == expected


def test_sdk_reads_the_fields(sdk):
    """If this failed, the vendor's client would not find the fields where it expects them."""
    here, bindings, _ = sdk
    sid, row = next(iter(here.service.bindings.items()))
    binding = bindings(sid).fetch()
    assert {name: getattr(binding, name) for name in row if not name.startswith("date_")} == {
        name: value for name, value in row.items() if not name.startswith("date_")
    }
    assert binding.date_updated.strftime("%Y-%m-%dT%H:%M:%SZ") == row["date_updated"]


def test_sdk_lists_services_and_configuration(sdk):
    """If this failed, discovery would not work for the vendor's client."""
    here, _, client = sdk
    here.world.add_service(0)
    listed = client.conversations.v1.services.list(page_size=1)
    assert [service.sid for service in listed] == sorted(here.world.services)
    assert (
        client.conversations.v1.configuration().fetch().default_chat_service_sid == here.service.sid
    )


def test_sdk_reads_errors(sdk):
    """If this failed, error bodies would not be what the vendor's client understands."""
    from twilio.base.exceptions import TwilioException, TwilioRestException

    here, bindings, _ = sdk
    here.simulator.faults.add("throttle")
    with pytest.raises(TwilioException) as caught:
        bindings.list()
    assert "HTTP 429" in str(caught.value)
    with pytest.raises(TwilioRestException) as missing:
        bindings("BS" + "0" * 32).fetch()
    assert (missing.value.status, missing.value.code) == (404, 20404)
