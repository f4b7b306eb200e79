"""What can be set about a node's workers: each with its unit, bounds and the reason to change it.

Values only; where they come from (file, environment, command line) is the business of whoever nests this model.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MIB = 1024 * 1024


class NodeSettings(BaseModel):
    """The workers of one node and the limits of their data plane."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: Annotated[
        int | None,
        Field(ge=1, le=256, description="Worker processes; unset: one per core. Lower it to leave cores to others."),
    ] = None
    bind: Annotated[
        IPv4Address | IPv6Address,
        Field(description="Address the media sockets are bound to; `::` takes IPv6 and IPv4 on every interface."),
    ] = IPv6Address("::")
    udp_port: Annotated[
        int,
        Field(
            ge=0,
            le=65_000,
            description="Media port (UDP and TCP) of worker 0; worker i uses this plus i. 0: any free port.",
        ),
    ] = 7882
    tcp: Annotated[
        bool, Field(description="Offer ICE-TCP on the same port number, for networks that let no UDP through.")
    ] = True
    node_ip: Annotated[
        tuple[IPv4Address | IPv6Address, ...],
        Field(
            max_length=16,
            description="Addresses told to clients; set it where they differ from the interfaces' (NAT, cloud).",
        ),
    ] = ()
    run_directory: Annotated[
        Path | None,
        Field(
            description="Where sockets and process files of workers lie; unset: a directory of this user and node. "
            "Two nodes on one machine need two."
        ),
    ] = None
    pin_cpu: Annotated[
        bool,
        Field(description="Pin worker i to core i. Helps on machines that do nothing else; hurts on shared ones."),
    ] = False

    receive_buffer_bytes: Annotated[
        int,
        Field(
            ge=64 * 1024,
            le=1024 * MIB,
            description="Kernel buffer for arriving packets. Raise it when overflows are counted; costs memory.",
        ),
    ] = 8 * MIB
    send_buffer_bytes: Annotated[
        int,
        Field(
            ge=64 * 1024,
            le=1024 * MIB,
            description="Kernel buffer for leaving packets. Raise it when full send buffers are counted; costs memory.",
        ),
    ] = 8 * MIB
    tick_microseconds: Annotated[
        int,
        Field(
            ge=0,
            le=5_000,
            description="Under load packets wait this long for each other. Raise it to save CPU, lower it for latency; "
            "0: every packet wakes the worker.",
        ),
    ] = 500
    queue_capacity: Annotated[
        int,
        Field(
            ge=1024,
            le=1 << 22,
            description="Commands and events under way between a worker's two threads. Raise it when lost events are "
            "counted; costs memory.",
        ),
    ] = 65_536
    tcp_max_connections: Annotated[
        int,
        Field(
            ge=1,
            le=100_000,
            description="ICE-TCP connections of one worker. Raise it together with the process's open-file limit.",
        ),
    ] = 2_000
    tcp_unauthenticated_timeout_seconds: Annotated[
        float,
        Field(
            ge=1,
            le=10,
            description="An ICE-TCP connection without a valid check is closed after this. Raise it for slow links.",
        ),
    ] = 10.0
    tcp_max_queue_bytes: Annotated[
        int,
        Field(
            ge=16 * 1024,
            le=64 * MIB,
            description="Bytes waiting for one slow ICE-TCP reader. Raise it for high bitrates over long round trips.",
        ),
    ] = 512 * 1024

    memory_max_bytes: Annotated[
        int,
        Field(
            ge=MIB,
            le=1024 * MIB,
            description="What signaling may leave with one worker to rebuild its rooms from. Raise it for thousands "
            "of participants a worker.",
        ),
    ] = 64 * MIB
    controller_max_queue_bytes: Annotated[
        int,
        Field(
            ge=MIB,
            le=1024 * MIB,
            description="Events waiting for a slow signaling process before it is cut off and must re-attach.",
        ),
    ] = 64 * MIB
    orphan_timeout_seconds: Annotated[
        float,
        Field(
            ge=1,
            le=86_400,
            description="A worker without signaling forwards on for this long. Raise it where repairs take longer.",
        ),
    ] = 600.0
    idle_orphan_timeout_seconds: Annotated[
        float,
        Field(
            ge=1,
            le=86_400,
            description="The same for a worker that also has no transport: nobody would miss it.",
        ),
    ] = 30.0
    heartbeat_interval_seconds: Annotated[
        float, Field(ge=0.05, le=60, description="How often a worker is asked whether it lives. Costs a message each.")
    ] = 1.0
    heartbeat_timeout_seconds: Annotated[
        float,
        Field(
            ge=0.2,
            le=300,
            description="A worker that has not answered for this long is lost: it is killed and its rooms move. Raise "
            "it on machines that stall (snapshots, heavy swapping).",
        ),
    ] = 5.0
    start_timeout_seconds: Annotated[
        float, Field(ge=1, le=300, description="How long a worker may take to start. Raise it on very slow machines.")
    ] = 20.0
    restart_backoff_max_seconds: Annotated[
        float,
        Field(
            ge=0.1,
            le=600,
            description="A worker that keeps dying is restarted after 0.1 s, 0.2 s, 0.4 s … up to this.",
        ),
    ] = 30.0
