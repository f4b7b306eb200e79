"""What can be set about a node's workers: each with its unit, bounds and the reason to change it.

Values only; where they come from (file, environment, command line) is the business of whoever nests this model.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MIB = 1024 * 1024


class EngineSettings(BaseModel):
    """Limits of a worker's data plane (`sfu/core/proto/src/config.rs`); all are per worker or narrower."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_transports: Annotated[
        int,
        Field(
            ge=1,
            le=1_000_000,
            description="Transports of one worker; an idle one costs about 60 KB. Raise it on machines with "
            "memory to spare.",
        ),
    ] = 20_000
    connect_timeout_seconds: Annotated[
        float,
        Field(
            ge=1,
            le=120,
            description="A transport that has not finished ICE and DTLS by then is freed. Raise it for very slow "
            "links.",
        ),
    ] = 15.0
    dtls_handshake_timeout_seconds: Annotated[
        float,
        Field(ge=1, le=60, description="Life of an unfinished DTLS handshake. Raise it for round trips of seconds."),
    ] = 10.0
    max_dtls_handshakes: Annotated[
        int,
        Field(
            ge=1,
            le=100_000,
            description="Unfinished DTLS handshakes at once, some 64 KiB each. Raise it if thousands join in one "
            "second.",
        ),
    ] = 2_000
    max_ssrcs: Annotated[
        int,
        Field(
            ge=4,
            le=4_096,
            description="Streams tracked per transport, retransmission included. Raise it for clients with dozens "
            "of tracks.",
        ),
    ] = 64
    max_tracks: Annotated[
        int,
        Field(
            ge=2,
            le=10_000,
            description="Tracks on one transport, both directions. Raise it where one client watches hundreds.",
        ),
    ] = 1_000
    max_message_bytes: Annotated[
        int,
        Field(
            ge=1_200,
            le=262_144,
            description="Largest data-channel message. Raise it for applications that send larger ones; every "
            "receiver buffers it.",
        ),
    ] = 64 * 1024
    sctp_receive_buffer_bytes: Annotated[
        int,
        Field(
            ge=64 * 1024,
            le=64 * MIB,
            description="Undelivered data of one association. Raise it for bulk transfer over long round trips.",
        ),
    ] = MIB
    max_channels: Annotated[
        int,
        Field(
            ge=4,
            le=1_024,
            description="Open data channels of one association. Raise it for applications with channels of their own.",
        ),
    ] = 64
    data_messages_per_second: Annotated[
        int,
        Field(
            ge=20,
            le=1_000_000,
            description="Data messages that one transport may send, two seconds' worth at once; beyond it its packets "
            "count as lost, so that it slows down. Raise it for applications that send thousands of small ones.",
        ),
    ] = 2_000
    data_bytes_per_second: Annotated[
        int,
        Field(
            ge=16 * 1024,
            le=1_000_000_000,
            description="The same in bytes; so much may wait for each second that signaling is held up. Raise it for "
            "files over links of more than 60 Mbit/s.",
        ),
    ] = 8_000_000
    reliable_buffer_bytes: Annotated[
        int,
        Field(
            ge=64 * 1024,
            le=64 * MIB,
            description="Unsent reliable data of one receiver before it counts as stalled. Raise it for bulk "
            "transfer to slow readers.",
        ),
    ] = MIB
    reliable_stall_seconds: Annotated[
        float,
        Field(
            ge=1,
            le=300,
            description="How long a reliable receiver may stay over its cap before its channel is reset. Raise it "
            "for links that pause.",
        ),
    ] = 10.0
    lossy_buffer_bytes: Annotated[
        int,
        Field(
            ge=16 * 1024,
            le=64 * MIB,
            description="Unsent lossy data of one receiver; the oldest gives way. Raise it for bursts of large "
            "messages.",
        ),
    ] = 128 * 1024
    history_packets: Annotated[
        int,
        Field(
            ge=64,
            le=8_192,
            description="Packets of one stream kept for retransmission at most, none longer than 3 s; 512 are enough "
            "for 1.6 Mbit/s, and cover 2 s of 2.4. Raise it for streams of higher rates.",
        ),
    ] = 512
    keyframe_interval_seconds: Annotated[
        float,
        Field(
            ge=0.1,
            le=10,
            description="Least time between key-frame requests to one stream. Lower it for faster joins, at the "
            "publisher's cost.",
        ),
    ] = 1.0
    first_picture_interval_seconds: Annotated[
        float,
        Field(
            ge=0.1,
            le=10,
            description="The same where a subscriber waits for his first picture. Chromium answers no two requests "
            "within 0.3 s.",
        ),
    ] = 0.3
    first_picture_burst: Annotated[
        int,
        Field(
            ge=0,
            le=1_000,
            description="Requests for first pictures beyond one each `keyframe_interval_seconds`; earned back one "
            "each. Raise it for long storms of joins, at the publisher's cost.",
        ),
    ] = 20
    first_picture_max_age_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=3,
            description="A first picture may be a key frame this old, sent with what followed it, instead of one that "
            "is asked for. Lower it so that less is caught up on, at the publisher's cost.",
        ),
    ] = 1.0
    demand_dwell_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=60,
            description="How long a lower demand must last before the publisher is told. Raise it if publishers "
            "switch layers too often.",
        ),
    ] = 3.0
    layer_timeout_seconds: Annotated[
        float,
        Field(
            ge=0.2,
            le=30,
            description="Time without packets after which a layer counts as not sent. Raise it for screen shares "
            "of few frames.",
        ),
    ] = 1.5
    unanswered_after_seconds: Annotated[
        float,
        Field(
            ge=1,
            le=15,
            description="Silence of a client that answered what it is sent, until it is asked for another path; one "
            "who is sent nothing is asked once two of its checks are missing. Raise it for clients that stand still "
            "for seconds; a network that has closed is left that much later.",
        ),
    ] = 3.0
    quality_interval_seconds: Annotated[
        float,
        Field(
            ge=1,
            le=60,
            description="Time between connection-quality reports. Lower it for livelier displays, at the cost of "
            "messages.",
        ),
    ] = 5.0
    remb_bps: Annotated[
        int,
        Field(
            ge=100_000,
            le=1_000_000_000,
            description="Bitrate told to publishers that know only REMB. Raise it for publishers of very high "
            "bitrates.",
        ),
    ] = 20_000_000
    twcc_interval_seconds: Annotated[
        float,
        Field(
            ge=0.02,
            le=0.5,
            description="Time between transport-wide feedback to a publisher. Lower it for quicker adaptation, at "
            "the cost of packets.",
        ),
    ] = 0.1
    report_interval_seconds: Annotated[
        float,
        Field(
            ge=0.2,
            le=10,
            description="Time between RTCP reports. Lower it for fresher statistics, at the cost of packets.",
        ),
    ] = 1.0
    congestion_control: Annotated[
        bool,
        Field(
            description="Estimate each subscriber's link from his feedback and send no more than it carries. Off only "
            "for networks that cannot be congested."
        ),
    ] = True
    estimate_start_bps: Annotated[
        int,
        Field(
            ge=50_000,
            le=100_000_000,
            description="First guess of a subscriber's link; a probe replaces it within tenths of a second. Raise it "
            "where nearly every client has a fast line.",
        ),
    ] = 300_000
    estimate_min_bps: Annotated[
        int,
        Field(
            ge=10_000,
            le=10_000_000,
            description="Least estimate of a link: the sound of a small room. Raise it where no link is that narrow.",
        ),
    ] = 50_000
    estimate_max_bps: Annotated[
        int,
        Field(
            ge=100_000,
            le=1_000_000_000,
            description="Most that one subscriber is sent. Raise it for wall-sized views.",
        ),
    ] = 50_000_000
    feedback_patience_seconds: Annotated[
        float,
        Field(
            ge=0.5,
            le=30,
            description="Negotiated feedback that has not come by then, although receiver reports do, is not waited "
            "for, and nothing limits the client; where no reports come either, after four times as long. Raise it "
            "for round trips of seconds.",
        ),
    ] = 1.5
    ping_interval_seconds: Annotated[
        float,
        Field(
            ge=0.005,
            le=10,
            description="Least time between two pings of 56 bytes to a client whose link limits what it gets. Raise it "
            "to spend fewer packets on them; a link that falls is noticed that much later.",
        ),
    ] = 0.01
    pacing_factor: Annotated[
        float,
        Field(
            ge=1.0,
            le=5.0,
            description="Video leaves at this multiple of the estimate. Raise it for quicker key frames, at the cost "
            "of queues on the link.",
        ),
    ] = 1.1
    max_pacer_delay_seconds: Annotated[
        float,
        Field(
            ge=0.2,
            le=10,
            description="Video that would wait longer, a key frame four times as long, is dropped and begun anew. "
            "Raise it for streams without temporal layers on slow links.",
        ),
    ] = 1.5
    layer_dwell_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=30,
            description="A layer is kept for so long before a larger one is tried. Raise it if sizes change too often.",
        ),
    ] = 1.0
    layer_reversal_seconds: Annotated[
        float,
        Field(
            ge=1,
            le=60,
            description="A larger layer taken back within this time has failed and is tried again later. Raise it for "
            "links that wander.",
        ),
    ] = 10.0
    layer_backoff_min_seconds: Annotated[
        float,
        Field(
            ge=0.5,
            le=60,
            description="First wait after a layer that failed; doubles each time. Raise it if sizes change too often.",
        ),
    ] = 2.0
    layer_backoff_max_seconds: Annotated[
        float,
        Field(
            ge=1,
            le=600,
            description="Longest wait after a layer that failed. Lower it for links that get better suddenly.",
        ),
    ] = 60.0
    loudest_microphones: Annotated[
        int,
        Field(
            ge=1,
            le=10_000,
            description="Microphones that everybody in a room hears at once: the loudest; smaller rooms hear all. "
            "Raise it for choirs; each one more costs every subscriber some 40 kbit/s and 50 packets a second.",
        ),
    ] = 50
    overload_no_probes: Annotated[
        float,
        Field(
            ge=0.1,
            le=100,
            description="Share of the packet thread's time in use from which no probes are sent: layers "
            "climb more slowly. A level is reached only with those before it. Lower it on machines that others use.",
        ),
    ] = 0.8
    overload_no_top_layers: Annotated[
        float,
        Field(
            ge=0.1,
            le=100,
            description="The same, from which cameras of several layers are sent without their largest. Raise it where "
            "size counts more than frame rate.",
        ),
    ] = 0.85
    overload_few_videos: Annotated[
        float,
        Field(
            ge=0.1,
            le=100,
            description="The same, from which each subscriber is sent `overload_videos` videos only.",
        ),
    ] = 0.9
    overload_no_new_videos: Annotated[
        float,
        Field(ge=0.1, le=100, description="The same, from which new video is refused; that of before goes on."),
    ] = 0.94
    overload_no_joins: Annotated[
        float,
        Field(
            ge=0.1,
            le=100,
            description="The same, from which newcomers are refused with 503; those who are there may come back. "
            "Above 1 it is reached by packets that wait alone.",
        ),
    ] = 0.97
    overload_full_wait_seconds: Annotated[
        float,
        Field(
            ge=0.005,
            le=5,
            description="Packets that wait so long to be read, in the mean of a quarter of a second, count as a "
            "thread in use all the time; a fraction as that fraction. Raise it on machines that stall.",
        ),
    ] = 0.05
    overload_dwell_seconds: Annotated[
        float,
        Field(
            ge=0.5,
            le=60,
            description="How long the load must be a tenth below a level until it is left for the one before it. Raise "
            "it if pictures come and go.",
        ),
    ] = 1.25
    overload_backoff_max_seconds: Annotated[
        float,
        Field(
            ge=0.5,
            le=600,
            description="A level that was left too early is kept twice as long each time, up to this. Lower it where "
            "load comes in short bursts.",
        ),
    ] = 30.0
    overload_videos: Annotated[
        int,
        Field(
            ge=0,
            le=1_000,
            description="Videos that a subscriber keeps where there is CPU for few only: screens, what he asks for "
            "most, who speaks, the largest tiles.",
        ),
    ] = 4
    max_segment_padding: Annotated[
        int,
        Field(
            ge=0,
            le=16,
            json_schema_extra={"unit": "bytes"},
            description="Padding a packet may get so that a frame leaves as one segmented send. 0 switches "
            "padding off.",
        ),
    ] = 1
    max_segments: Annotated[
        int,
        Field(
            ge=1,
            le=64,
            description="Packets of one segmented send. 1 switches segmentation off, for networks that mishandle it.",
        ),
    ] = 64
    ice_disconnected_after_seconds: Annotated[
        float,
        Field(
            ge=3,
            le=20,
            description="Silence on a client's path until it counts as disconnected; after half of it the client is "
            "asked, as some check only while no media flows. Raise it for networks with long gaps; a dead client is "
            "noticed that much later.",
        ),
    ] = 10.0
    ice_failed_after_seconds: Annotated[
        float,
        Field(
            ge=1,
            le=10,
            description="Further silence until nothing is sent to it any more (RFC 7675: 30 s in all at most). Raise "
            "it for networks with long gaps.",
        ),
    ] = 5.0
    ice_max_paths: Annotated[
        int,
        Field(ge=2, le=128, description="Paths kept of one client. Raise it for clients with very many interfaces."),
    ] = 16
    ice_switch_interval_seconds: Annotated[
        float,
        Field(
            ge=0.1,
            le=10,
            description="Least time between two changes of a client's path. Raise it if paths flap.",
        ),
    ] = 1.0
    ice_path_lifetime_seconds: Annotated[
        float,
        Field(ge=3, le=300, description="A path without checks is forgotten after this. Raise it for rare checks."),
    ] = 30.0
    max_traces: Annotated[
        int,
        Field(
            ge=1,
            le=100,
            description="Traces of subscribers (`callyard trace`) recorded at once on a worker. Raise it for several "
            "operators.",
        ),
    ] = 4
    trace_max_seconds: Annotated[
        float,
        Field(ge=1, le=3_600, description="Longest trace. Raise it to catch what happens rarely."),
    ] = 300.0
    trace_max_bytes: Annotated[
        int,
        Field(
            ge=100_000,
            le=1024 * MIB,
            description="A trace that has grown to this ends; a subscriber of 2.5 Mbit/s makes some 30 KB a second. "
            "Raise it for long traces of fast links, with that much memory to spare.",
        ),
    ] = 32 * MIB
    fault_injection: Annotated[
        bool, Field(description="Let commands damage transports on purpose. Only for tests of what that costs.")
    ] = False


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
            description="Kernel buffer for arriving packets; pictures that a late worker has stand aside may take as "
            "much again. Raise it when overflows are counted; costs memory.",
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
    memory_no_joins: Annotated[
        float,
        Field(
            ge=0.1,
            le=1,
            description="Share of the memory that a worker's control group may use from which newcomers are refused. "
            "Without such a limit nothing is.",
        ),
    ] = 0.85
    memory_no_caches: Annotated[
        float,
        Field(
            ge=0.1,
            le=1,
            description="The same, from which packets are not kept for retransmission any more.",
        ),
    ] = 0.9
    memory_no_idlers: Annotated[
        float,
        Field(
            ge=0.1,
            le=1,
            description="The same, from which participants who neither send nor receive are sent away, first the one "
            "who came first.",
        ),
    ] = 0.95
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

    engine: Annotated[EngineSettings, Field(description="Limits of the data plane.")] = EngineSettings()
