"""A simulator of the Twilio Conversations API: services, their push bindings, and faults by name.

It shares no code with the client, so that a mistake in one is not hidden by the other.
"""

from etl.simulator.faults import Fault, Faults, describe_faults
from etl.simulator.request_log import Logged
from etl.simulator.server import Simulator
from etl.simulator.world import Bindings, Service, World, build_demo

__all__ = [
    "Bindings",
    "Fault",
    "Faults",
    "Logged",
    "Service",
    "Simulator",
    "World",
    "build_demo",
    "describe_faults",
]
