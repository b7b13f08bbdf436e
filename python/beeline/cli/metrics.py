"""`beeline metrics`: counters of agents, and what programs count themselves, for Prometheus."""

from __future__ import annotations

import contextlib

import click

from beeline.cli.agents import folder_option


@click.command(short_help="Serve counters and your programs' metrics to Prometheus.")
@click.option("--port", default=9464, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--address", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 for other hosts.")
@click.option("--once", is_flag=True, help="Print one reading, as Prometheus would get it, and end.")
@folder_option
def metrics(port: int, address: str, once: bool, folder: str) -> None:
    """Serve metrics at http://ADDRESS:PORT/metrics, until Ctrl-C.

    They are those that programs record by `ray.util.metrics` (beeline.util.metrics), of all sessions of this user on
    this host, as ray_NAME; the counters of all agents, of whatever moves tensors; and what each process of a session
    has stored and moved to disk.

    Those of programs and agents lie in files, which are read at each scrape: processes come and go meanwhile, and are
    not asked. For their stores sessions are asked; a process that hangs takes half a second of the scrape. Names of
    agents, of their peers and paths, and all tags are labels: whoever may connect may read them. Names of the metrics:
    docs/observability.md.

    A program can export its own agents itself: `beeline.transfer.prometheus.collector`.
    """
    from prometheus_client import CollectorRegistry, generate_latest, start_http_server

    from beeline.transfer import prometheus
    from beeline.util import metrics_files, session_metrics

    registry = CollectorRegistry()
    registry.register(prometheus.collector(folder))
    if not folder:
        registry.register(metrics_files.collector())
        registry.register(session_metrics.collector())
    if once:
        click.echo(generate_latest(registry).decode(), nl=False)
        return
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as error:
        raise click.ClickException(f"cannot listen on {address}:{port}: {error.strerror or error}") from error
    click.echo(f"http://{address}:{server.server_port}/metrics")
    with contextlib.suppress(KeyboardInterrupt):
        thread.join()
    server.shutdown()
