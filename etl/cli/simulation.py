"""`simulate`: the API simulator in the foreground, for demos and users' own tests."""

import click

from etl.cli.options import Command
from etl.cli.output import say
from etl.errors import ConfigurationError
from etl.sync.outcome import count


def _faults_epilog() -> str:
    try:
        from etl.simulator import describe_faults
    except ImportError:
        return "The simulator needs: pip install 'bindings-etl[simulator]'"
    return "\b\nFaults:\n" + "\n".join(
        f"  {name:<22} {text}" for name, text in describe_faults().items()
    )


class _Simulate(Command):
    def get_help(self, ctx: click.Context) -> str:
        self.epilog = _faults_epilog()
        return super().get_help(ctx)


@click.command("simulate", cls=_Simulate, short_help="The API simulator on a loopback port.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8765,
    show_default=True,
    help="0 takes any free one.",
)
@click.option("--services", type=click.IntRange(1, 1000), default=3, show_default=True)
@click.option(
    "--bindings",
    type=click.IntRange(0, 5_000_000),
    default=1000,
    show_default=True,
    help="Over all services.",
)
@click.option("--latency-ms", type=click.FloatRange(0, 60_000), default=0, show_default=True)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="The same seed gives the same world."
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="NAME[:EVERY]",
    help="Play a fault, on each EVERY-th request (repeat).",
)
def simulate(
    port: int, services: int, bindings: int, latency_ms: float, seed: int, faults: tuple[str, ...]
) -> int:
    """Serve a made-up account as the Conversations API would, until it is stopped.

    Prints the account and key to configure.
    """
    try:
        from etl.simulator import Simulator, build_demo
    except ImportError:
        raise ConfigurationError(
            "the simulator needs: pip install 'bindings-etl[simulator]'"
        ) from None
    world = build_demo(services, bindings, seed)
    try:
        simulator = Simulator(world, latency_ms=latency_ms, faults=faults)
    except ValueError as unknown:
        raise ConfigurationError(f"--fault: {unknown}") from None

    def announce(url: str) -> None:
        say(
            f"Serving {count(services, 'service')} with {count(bindings, 'binding')}; "
            "stop with Ctrl-C.\n\n"
            f"accounts:\n  - name: simulated\n    account_sid: {world.account_sid}\n"
            f"    api_key: {world.api_key}\n    api_secret: {world.api_secret}\n"
            f"    base_url: {url}"
        )

    try:
        simulator.run_forever(port, on_ready=announce)
    except OSError as taken:
        raise ConfigurationError(
            f"--port {port}: cannot be opened ({taken.strerror}); choose another one"
        ) from taken
    except KeyboardInterrupt:
        return 130
    return 0


commands: dict[str, click.Command] = {"simulate": simulate}
