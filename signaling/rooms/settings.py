"""The operator's settings of rooms; `signaling/settings.py` nests them as `rooms`. Values only."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

MIB = 1024 * 1024


class RoomSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    auto_create: bool = Field(
        True, description="Whether a room is made when somebody joins it first. Off, only CreateRoom makes rooms."
    )
    enable_remote_unmute: bool = Field(
        False,
        description="Whether administrators may unmute tracks. Off, they may only mute: people unmute themselves.",
    )
    empty_timeout_seconds: int = Field(
        300,
        ge=1,
        le=604_800,
        description="How long a room that nobody has joined yet is kept, unless CreateRoom says otherwise.",
    )
    departure_timeout_seconds: int = Field(
        20,
        ge=1,
        le=604_800,
        description="How long a room is kept after its last participant has left, unless CreateRoom says otherwise; "
        "agents and recorders do not keep it, but in calls. Raise it where people come back to the same room after a "
        "break.",
    )
    rooms_max: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="Rooms of this node. Raise it with the machine; an empty room costs some kilobytes.",
    )
    participants_max: int = Field(
        5_000,
        ge=1,
        le=100_000,
        description="Participants of one room, agents, recorders and hidden ones not counted; CreateRoom can only "
        "lower it. Raise it for larger audiences.",
    )
    tracks_max: int = Field(
        64,
        ge=1,
        le=1_000,
        description="Tracks one participant may publish, waiting ones included. Raise it for gateways that publish for "
        "many.",
    )
    pending_tracks_max: int = Field(
        20,
        ge=1,
        le=1_000,
        description="Announced tracks of one participant that have no media section yet. Raise it with `tracks_max`.",
    )
    data_tracks_max: int = Field(
        64, ge=1, le=1_000, description="Data tracks one participant may publish. Raise it for gateways."
    )
    track_max_bytes: int = Field(
        4_096,
        ge=1_024,
        le=65_536,
        description="Size of all that is told of one track, its names, layers, codecs or schema together; every change "
        "of a participant goes to everybody with all his tracks. Raise it for data tracks with long names of schemas, "
        "and `signal_queue_max_bytes` with it.",
    )
    join_request_max_bytes: int = Field(
        1_048_576,
        ge=65_536,
        le=8_388_608,
        description="What the join request in a URL may unpack to; a longer one gets 413. Raise it for clients with "
        "hundreds of sections or very large attributes.",
    )
    subscription_sids_max: int = Field(
        1_000,
        ge=10,
        le=100_000,
        description="Tracks that one message about subscriptions may name; the rest of a longer list is not read. Each "
        "that is not there is answered. Raise it for rooms with more tracks.",
    )
    codecs: tuple[str, ...] = Field(
        ("audio/opus", "audio/red", "video/VP8", "video/H264", "video/VP9", "video/AV1", "video/H265"),
        min_length=1,
        max_length=16,
        description="Codecs that participants may publish. Take one out where some clients cannot decode it.",
    )
    name_max_bytes: int = Field(
        256, ge=1, le=4_096, description="Longest name of a room or participant, and longest identity."
    )
    metadata_max_bytes: int = Field(
        65_536,
        ge=1_024,
        le=524_288,
        description="Longest metadata of a room or participant. Raise it for applications that keep state there; every "
        "change goes to everybody.",
    )
    attributes_max_bytes: int = Field(
        65_536, ge=1_024, le=524_288, description="Size of all attributes of a participant together, keys included."
    )
    description_max_bytes: int = Field(
        2 * MIB,
        ge=16_384,
        le=8 * MIB,
        description="Size of a description (SDP) that a client may send. Chromium's have 5 kB for each video received "
        "and 1 kB for each sound. A track for which there is no room in it is not sent. Raise it, with "
        "`description_lines_max`, and twice as far `http.websocket_message_max_bytes`, for rooms in which one receives "
        "more than 390 videos.",
    )
    description_lines_max: int = Field(
        80_000, ge=500, le=400_000, description="Lines of a description. Raise it with `description_max_bytes`."
    )
    description_sections_max: int = Field(
        512,
        ge=16,
        le=10_000,
        description="Media sections of a description, those that are free included; a track for which there is none "
        "left is not sent. Raise it with `description_max_bytes` for rooms in which one receives more than 480 tracks.",
    )
    replaced_again_seconds: float = Field(
        1.0,
        ge=0.1,
        le=60,
        description="Two clients of one identity may throw each other out once in this time. Raise it where people "
        "leave the same call open on two devices that both come back by themselves.",
    )
    signal_absence_seconds: float = Field(
        120.0,
        ge=5,
        le=3_600,
        description="How long a participant whose signal connection is gone stays while his media lives. Raise it for "
        "clients that lose WebSockets for long.",
    )
    media_absence_seconds: float = Field(
        5.0,
        ge=1,
        le=120,
        description="How long a participant stays after his media has failed, to come back. Raise it for links that "
        "break for longer.",
    )
    asked_again_seconds: float = Field(
        30.0,
        ge=15,
        le=300,
        description="How long a participant who was asked for another path because his media fell silent, or came "
        "back by himself, is left alone to find it. Raise it for networks on which clients take longer: who is asked "
        "sooner never finishes.",
    )
    connect_seconds: float = Field(
        20.0,
        ge=5,
        le=120,
        description="How long a participant may take from joining to connected media. Raise it for very slow links.",
    )
    answer_seconds: float = Field(
        15.0,
        ge=5,
        le=120,
        description="How long a client may take to answer an offer of ours; then it is told to come back afresh, as "
        "nothing further could be offered to it. Raise it for very slow links or devices.",
    )
    removal_revokes_tokens: bool = Field(
        True,
        description="Whether who was removed, or lost a permission, can use no token from before that to be where he "
        "was. Off, it is for the application to give out short-lived tokens, as with LiveKit.",
    )
    cutoffs_max: int = Field(
        1_000,
        ge=10,
        le=100_000,
        description="Removals and changed permissions that one room remembers for that; the oldest gives way. Raise it "
        "for rooms with much moderation.",
    )
    cutoffs_kept_max: int = Field(
        10_000,
        ge=10,
        le=1_000_000,
        description="Removals and changed permissions that are kept in `state_dir`, of all rooms together, for when a "
        "room is over or the server is started anew; the oldest gives way. Raise it for servers with much moderation.",
    )
    cutoffs_kept_seconds: int = Field(
        2_592_000,
        ge=3_600,
        le=315_360_000,
        description="How long they are kept there: as long as tokens that the application makes out may live, by "
        "default 30 days. Raise it for tokens that live longer.",
    )
    backup_codec_seconds: float = Field(
        10.0,
        ge=1,
        le=120,
        description="How long a publisher may take to send a further codec for those who do not take the first; then "
        "they are told that they cannot have the track. Raise it for slow publishers.",
    )
    token_refresh_seconds: int = Field(
        300, ge=10, le=3_600, description="How often connected clients get a fresh token to come back with."
    )
    reliable_cache_seconds: float = Field(
        30.0,
        ge=1,
        le=300,
        description="How long reliable data is kept for those who come back. Raise it with `signal_absence_seconds`.",
    )
    reliable_cache_max_bytes: int = Field(
        8 * MIB,
        ge=64 * 1024,
        le=1024 * MIB,
        description="Reliable data kept in one room for those who come back; the oldest gives way.",
    )
    announcements_per_second: int = Field(
        2_000,
        ge=50,
        le=1_000_000,
        description="Messages a second with which a large room tells who has come and gone: each tells one of all that "
        "has happened since the last, at least 0.25 s ago. Raise it where that must be seen sooner.",
    )
    signal_messages_per_second: int = Field(
        100,
        ge=5,
        le=10_000,
        description="Signal messages one client may send in the long run, long ones counting one per 4 KiB, "
        "descriptions one per 32 KiB; beyond its burst it is closed. Of what its messages make others be told each "
        "4 KiB count one as well: beyond a quarter of `signal_queue_max_bytes` at once it is read no faster. Raise it "
        "for clients with hundreds of tracks.",
    )
    signal_messages_burst: int = Field(
        1_000, ge=50, le=100_000, description="Signal messages one client may send at once before that rate counts."
    )
    signal_deliveries_per_second: int = Field(
        5_000,
        ge=100,
        le=1_000_000,
        description="Messages that others are sent for those of one client in the long run, all of them together; "
        "beyond its burst it is read no faster. Raise it for rooms of hundreds in which one changes much.",
    )
    signal_deliveries_burst: int = Field(
        20_000,
        ge=1_000,
        le=10_000_000,
        description="Messages that others may be sent for those of one client at once before that rate counts.",
    )
    signal_queue_max_bytes: int = Field(
        4 * MIB,
        ge=64 * 1024,
        le=256 * MIB,
        description="Signal messages that wait for a slow client, those with which it is received left out, before its "
        "connection is closed; it may come back and resume. Raise it for very large rooms.",
    )
