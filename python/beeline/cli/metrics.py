"""`beeline metrics`: counters of agents for Prometheus."""

from __future__ import annotations

import contextlib

import click

from beeline.cli.agents import folder_option


@click.command(short_help="Serve your agents' counters to Prometheus.")
@click.option("--port", default=9464, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--address", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 for other hosts.")
@folder_option
def metrics(port: int, address: str, folder: str) -> None:
    """Serve the counters of all agents of this user on this host at http://ADDRESS:PORT/metrics, until Ctrl-C.

    The agents' files are read at each scrape; agents come and go meanwhile. Names of agents, of their peers and paths
    are labels: whoever may connect may read them. Names of the metrics: docs/observability.md.

    A program can export its own agents itself: `beeline.transfer.prometheus.collector`.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    from beeline.transfer import prometheus

    registry = CollectorRegistry()
    registry.register(prometheus.collector(folder))
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as error:
        raise click.ClickException(f"cannot listen on {address}:{port}: {error.strerror or error}") from error
    click.echo(f"http://{address}:{server.server_port}/metrics")
    with contextlib.suppress(KeyboardInterrupt):
        thread.join()
    server.shutdown()
