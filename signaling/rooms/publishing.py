"""What participants send: announcing tracks, the client's offers, muting, changing, ending.

A track exists from `add_track` on and is published once a media section of the client's offer carries it; the two come
in either order and are joined by the client's id of the track (`cid`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial

from livekit.protocol import models, rtc

from sfu import border
from sfu.border import Content, Kind, LayerMode, LayerSpec
from sfu.sdp import SdpError
from signaling.rooms import data, quality, subscribing
from signaling.rooms.core import RoomCore, State
from signaling.rooms.demand import layers_of
from signaling.rooms.effects import TrackChanged
from signaling.rooms.grants import SOURCES
from signaling.rooms.names import has_controls, normal
from signaling.rooms.state import Participant, Track, Uplink
from signaling.rooms.transport import Answer, Publishing, ReceivedSection

_SOURCE_LETTERS = {
    models.TrackSource.CAMERA: "C",
    models.TrackSource.MICROPHONE: "M",
    models.TrackSource.SCREEN_SHARE: "S",
    models.TrackSource.SCREEN_SHARE_AUDIO: "s",
}
_SOURCE_NAMES: dict[int, str] = {number: name for name, number in SOURCES.items()}
_SCREENS = (models.TrackSource.SCREEN_SHARE, models.TrackSource.SCREEN_SHARE_AUDIO)
_CODECS_MAX = 8
_LAYERS_MAX = 16
_FEATURES_MAX = 32
"""Far above what there is."""
_IN_BROWSERS = (
    models.ClientInfo.SDK.JS,
    models.ClientInfo.SDK.REACT_NATIVE,
    models.ClientInfo.SDK.FLUTTER,
    models.ClientInfo.SDK.UNITY_WEB,
)
_SENT_CIDS_MAX = 512
_SVC_MIMES = ("video/vp9", "video/av1")
"""All spatial layers of these come in one stream, unless the client says otherwise."""
_VIDEO = models.TrackType.VIDEO
_SVC_MODE = models.VideoLayer.Mode.MULTIPLE_SPATIAL_LAYERS_PER_STREAM
_SIMULCAST_MODE = models.VideoLayer.Mode.ONE_SPATIAL_LAYER_PER_STREAM


def source_name(source: int) -> str:
    """Return the name that tokens use."""
    return _SOURCE_NAMES.get(source, "unknown")


# --- announcing -----------------------------------------------------------------------------------------------------


def add_track(room: RoomCore, participant: Participant, request: rtc.AddTrackRequest) -> None:
    if not request.sid:
        # A client announces again when the answer was lost with its signal: it knows nothing of the first one.
        abandoned = [t for t in participant.tracks.values() if not t.is_published and request.cid in t.cids]
        end_tracks(room, participant, abandoned)
    refusal = _refusal(room, participant, request)
    if refusal is not None:
        _refuse(room, participant, request, *refusal)
        return
    known = participant.tracks.get(request.sid)
    track = _new_track(room, request) if known is None else _with_codecs(known, request)
    excess = _too_much(room, track)
    if excess:
        _refuse(room, participant, request, rtc.RequestResponse.Reason.LIMIT_EXCEEDED, excess)
        return
    if known is None:
        participant.tracks[track.sid] = track
        room.by_track[track.sid] = (participant, track)
    else:
        known.info, known.cids = track.info, track.cids
        track = known
    room.touch(participant)
    reply = rtc.TrackPublishedResponse(cid=request.cid, track=track.info)
    room.send(participant, rtc.SignalResponse(track_published=reply))
    parked = [participant.parked.pop(cid) for cid in tuple(track.cids) if cid in participant.parked]
    if parked:
        _announced(room, participant, [_connect(room, participant, track, section) for section in parked])


def _refuse(
    room: RoomCore,
    participant: Participant,
    request: rtc.AddTrackRequest,
    reason: rtc.RequestResponse.Reason,
    message: str,
) -> None:
    refused = rtc.RequestResponse(reason=reason, message=message, add_track=request)
    room.send(participant, rtc.SignalResponse(request_response=refused))


def _refusal(
    room: RoomCore, participant: Participant, request: rtc.AddTrackRequest
) -> tuple[rtc.RequestResponse.Reason, str] | None:
    reasons = rtc.RequestResponse.Reason
    if not participant.grants.may_publish(request.source):
        return reasons.NOT_ALLOWED, "The token does not allow to publish this source."
    excess = _excess(room, request)
    if excess:
        return reasons.LIMIT_EXCEEDED, excess
    if request.sid:
        known = participant.tracks.get(request.sid)
        return None if known is not None else (reasons.NOT_FOUND, "There is no track of that sid to add a codec to.")
    if request.type == _VIDEO and not room.overload.takes_video:
        return reasons.LIMIT_EXCEEDED, "The server is overloaded and takes no new video; try again in a few seconds."
    if not request.cid:
        return reasons.INVALID_REQUEST, "A track needs a `cid`."
    if has_controls(request.name) or has_controls(request.stream):
        return reasons.INVALID_REQUEST, "The name of the track or of its stream has control characters."
    if request.type not in (models.TrackType.AUDIO, models.TrackType.VIDEO):
        return reasons.UNSUPPORTED_TYPE, "Only audio and video tracks can be added; data goes over data channels."
    settings = room.settings
    if len(participant.tracks) >= settings.tracks_max:
        return reasons.LIMIT_EXCEEDED, f"One participant may publish {settings.tracks_max} tracks at most."
    if sum(not track.is_published for track in participant.tracks.values()) >= settings.pending_tracks_max:
        most = settings.pending_tracks_max
        return reasons.LIMIT_EXCEEDED, f"{most} announced tracks still wait for their media, as many as may."
    return None


def _excess(room: RoomCore, request: rtc.AddTrackRequest) -> str:
    """Return what is too much in a request, or "". All of it is kept, and told to everybody."""
    texts = [
        request.name,
        request.cid,
        request.stream,
        *(codec.cid + codec.codec for codec in request.simulcast_codecs),
    ]
    if any(len(text.encode()) > room.settings.name_max_bytes for text in texts):
        return "A name or an id of the track is too long."
    layers = [len(request.layers), *(len(codec.layers) for codec in request.simulcast_codecs)]
    if len(request.simulcast_codecs) > _CODECS_MAX or max(layers) > _LAYERS_MAX:
        return "The track has more codecs or layers than there are."
    if len(request.audio_features) > _FEATURES_MAX or len(request.packet_trailer_features) > _FEATURES_MAX:
        return "The track has more features than there are."
    return ""


def _too_much(room: RoomCore, track: Track) -> str:
    """As `_excess`, of a track with all its codecs and names."""
    if len(track.info.codecs) > _CODECS_MAX or len(track.cids) > _CODECS_MAX:
        return "The track has more codecs than there are."
    return room.excess_of(track.info)


def _new_track(room: RoomCore, request: rtc.AddTrackRequest) -> Track:
    is_video = request.type == _VIDEO
    kind = Kind.VIDEO if is_video else Kind.AUDIO
    letters = ("V" if is_video else "A") + _SOURCE_LETTERS.get(request.source, "_")
    # A backup codec is announced without an id: it has no section until somebody needs it.
    codecs = [
        _codec_info(codec, kind, request.cid if index == 0 else "", request)
        for index, codec in enumerate(request.simulcast_codecs)
    ]
    layers = _sorted_layers(request.layers)
    info = models.TrackInfo(
        sid=room.sources.sid(f"TR_{letters}"),
        type=request.type,
        name=normal(request.name),
        muted=request.muted,
        width=request.width,
        height=request.height,
        simulcast=is_video and len(layers) > 1,
        disable_dtx=request.disable_dtx,
        source=request.source,
        layers=layers,
        mime_type=codecs[0].mime_type if codecs else "",
        codecs=codecs,
        stereo=request.stereo,
        disable_red=request.disable_red,
        encryption=request.encryption,
        stream=request.stream or ("screen" if request.source in _SCREENS else "camera"),
        audio_features=request.audio_features,
        backup_codec_policy=request.backup_codec_policy,
        packet_trailer_features=request.packet_trailer_features,
    )
    cids = {codec.cid: codec.mime_type for codec in codecs if codec.cid}
    return Track(info=info, request=request, kind=kind, cids=cids or {request.cid: ""})


def _with_codecs(track: Track, request: rtc.AddTrackRequest) -> Track:
    """Return the track with a further codec: of one that is published already it comes with its own section."""
    track = replace(track, info=_copy(track.info), cids=dict(track.cids))
    for codec in request.simulcast_codecs:
        info = _codec_info(codec, track.kind, request.cid, request)
        track.cids[info.cid] = info.mime_type
        announced = next((known for known in track.info.codecs if known.mime_type == info.mime_type), None)
        if announced is None:
            track.info.codecs.append(info)
        else:
            announced.CopyFrom(info)
    return track


def _copy(info: models.TrackInfo) -> models.TrackInfo:
    copy = models.TrackInfo()
    copy.CopyFrom(info)
    return copy


def _codec_info(
    codec: rtc.SimulcastCodec, kind: Kind, default_cid: str, request: rtc.AddTrackRequest
) -> models.SimulcastCodecInfo:
    return models.SimulcastCodecInfo(
        mime_type=_mime(codec.codec, kind),
        cid=codec.cid or default_cid,
        layers=_sorted_layers(codec.layers or request.layers),
        video_layer_mode=codec.video_layer_mode,
    )


def _mime(codec: str, kind: Kind) -> str:
    """Return `video/VP8` for the `vp8` of requests; "" for no preference."""
    if not codec:
        return ""
    name = codec.rpartition("/")[2].lower()
    return f"{kind}/{name if name in ('opus', 'red') else name.upper()}"


def _sorted_layers(layers: Iterable[models.VideoLayer]) -> list[models.VideoLayer]:
    """Return the layers lowest first, numbered; clients list them in either order."""
    ordered = sorted(layers, key=lambda layer: (layer.quality, layer.width * layer.height))
    numbered = []
    for spatial, layer in enumerate(ordered):
        copy = models.VideoLayer()
        copy.CopyFrom(layer)
        copy.spatial_layer = spatial
        numbered.append(copy)
    return numbered


# --- the client's offers --------------------------------------------------------------------------------------------


def offer(room: RoomCore, participant: Participant, description: rtc.SessionDescription) -> None:
    """Answer the client's offer on its publisher connection."""
    wanted = subscribing.wanted(room, participant) if participant.is_single else ()
    try:
        answer = participant.publishing.answer(
            description.sdp, wanted, partial(_said, participant), room.description_limits
        )
    except SdpError as error:
        room.drop(f"sdp_{error.code}")
        subscribing.hopeless(room, participant, f"The offer cannot be used: {error.message}.")
        return
    connection = participant.publisher
    if not connection.is_added:
        connection.is_added = True
        room.by_transport[connection.transport] = participant
        room.command(
            border.AddTransport(
                transport=connection.transport, room=room.record.number, local=answer.local.ice, remote=answer.remote
            )
        )
        data.publishing_added(room, participant)
        if participant.is_single:
            data.receiving_added(room, participant)
    elif answer.ice_restart:
        room.command(
            border.RestartIce(transport=connection.transport, local=answer.local.ice, remote=answer.remote.ice)
        )
    else:
        room.command(border.SetRemote(transport=connection.transport, remote=answer.remote))
    _take_sections(room, participant, answer)
    if participant.is_single:
        subscribing.bind(room, participant, answer.bound, answer.unsupported)
    reply = rtc.SessionDescription(
        type="answer", sdp=answer.sdp, id=description.id, mid_to_track_id=answer.mid_to_track_id
    )
    room.send(participant, rtc.SignalResponse(answer=reply))
    room.touch(participant)
    if participant.is_single:
        subscribing.after_offer(room, participant)


def _said(participant: Participant, sections: Collection[ReceivedSection]) -> Mapping[str, Publishing]:
    """What the client said when it announced the tracks of these sections, by mid."""
    return {
        mid: Publishing(
            mime=track.cids.get(cid, next(iter(track.cids.values()))) or None,
            stereo=track.request.stereo,
            dtx=not track.request.disable_dtx,
            # Encrypted end to end, RED cannot be read here, and who takes Opus alone would hear nothing.
            red=not track.request.disable_red and track.request.encryption == models.Encryption.NONE,
        )
        for mid, (cid, track) in _owners(participant, sections).items()
    }


def _owners(participant: Participant, sections: Collection[ReceivedSection]) -> dict[str, tuple[str, Track]]:
    """Whose each section is that is anybody's: by mid its cid and the announced track.

    Those that name no track, and those of browsers whose name is unknown, get the oldest track of their kind that
    nothing carries: Firefox offers a track under another id than the page knows it by, but never unannounced. So does
    libwebrtc with one that it has sent before, as its first sender keeps the name.
    """
    by_cid: dict[str, Track] = {}
    # Of two that go by one name the one that still waits for its section, and else the newer.
    for track in sorted(participant.tracks.values(), key=lambda track: not track.is_published):
        by_cid.update(dict.fromkeys(track.cids, track))
    owners = {section.mid: (section.cid, by_cid[section.cid]) for section in sections if section.cid in by_cid}
    for section in sections:
        if section.mid in owners:
            continue
        may_be_any = not section.cid or participant.client.sdk in _IN_BROWSERS
        taken = {track.info.sid for _, track in owners.values()}
        for track in participant.tracks.values():
            is_free = not track.uplinks and track.info.sid not in taken
            is_it = may_be_any or track.request.cid in participant.sent_cids
            if track.kind is section.kind and is_free and is_it:
                owners[section.mid] = (section.cid, track)
                break
    return owners


def _take_sections(room: RoomCore, participant: Participant, answer: Answer) -> None:
    """Match what the client sends on with what it announced, and end what it has stopped."""
    active = {section.mid: section for section in answer.received if section.active}
    stopped = []
    has_fewer_codecs = False
    for track in participant.tracks.values():
        lost = []
        for uplink in track.uplinks:
            section = active.get(uplink.mid)
            if section is None or section.cid != uplink.section.cid:
                lost.append(uplink)
            else:
                del active[uplink.mid]
        if len(lost) == len(track.uplinks) > 0:
            stopped.append(track)
        else:
            has_fewer_codecs = has_fewer_codecs or bool(lost)
            for uplink in lost:
                _disconnect(room, track, uplink)
    end_tracks(room, participant, stopped)
    participant.parked.clear()
    owners = _owners(participant, active.values())
    begun = []
    for section in active.values():
        if section.mid not in owners:
            # More than he may announce would wait for nothing.
            if len(participant.parked) < room.settings.tracks_max:
                participant.parked[section.cid] = section
            continue
        _, track = owners[section.mid]
        if section.cid and section.cid not in track.cids:
            _rename(track, section.cid)
        begun.append(_connect(room, participant, track, section))
    if begun:
        _announced(room, participant, begun)
    elif has_fewer_codecs:
        room.announce(participant)


def _rename(track: Track, cid: str) -> None:
    """From now on the client calls the track so."""
    announced = next(iter(track.cids))
    track.cids = {cid: track.cids.pop(announced), **track.cids}
    for codec in track.info.codecs:
        if codec.cid == announced:
            codec.cid = cid


def _connect(room: RoomCore, participant: Participant, track: Track, section: ReceivedSection) -> tuple[Track, Uplink]:
    mime = track.cids.get(section.cid, "") or (section.codecs[0].mime if section.codecs else "")
    uplink = Uplink(uptrack=room.sources.number(), section=section, mime=mime)
    track.uplinks.append(uplink)
    room.by_uptrack[uplink.uptrack] = (participant, track, uplink)
    if len(track.uplinks) == 1:
        track.info.mid = section.mid
        _note_sent(participant, track.request.cid)
    codec = _note_codec(track, uplink)
    layers = layers_of(track, uplink)
    mode = _mode(track, uplink, codec, layers)
    room.command(
        border.AddUptrack(
            uptrack=uplink.uptrack,
            transport=participant.publisher.transport,
            kind=track.kind,
            content=Content.SCREEN if track.info.source in _SCREENS else Content.CAMERA,
            mode=mode,
            mid=section.mid,
            codecs=section.codecs,
            extensions=section.extensions,
            # The one stream goes by any of the names.
            rids=() if mode is LayerMode.SVC else section.rids,
            ssrcs=section.ssrcs,
            layers=tuple(_layer_spec(layer) for layer in layers) if track.kind is Kind.VIDEO else (),
            muted=track.info.muted,
            encrypted=track.info.encryption != models.Encryption.NONE,
        )
    )
    return track, uplink


def _note_sent(participant: Participant, cid: str) -> None:
    sent = participant.sent_cids
    sent.pop(cid, None)
    sent[cid] = None
    if len(sent) > _SENT_CIDS_MAX:
        del sent[next(iter(sent))]


def _announced(room: RoomCore, participant: Participant, begun: list[tuple[Track, Uplink]]) -> None:
    """Everybody is told of tracks that are published or have a further codec, and those who want them get them."""
    # A description names tracks and sections as it likes, and they are told with the track.
    outgrown = {track.sid: track for track, _ in begun if room.excess_of(track.info)}
    if outgrown:
        room.drop("track_too_long")
        end_tracks(room, participant, list(outgrown.values()), by_server=True)
        begun = [(track, uplink) for track, uplink in begun if track.sid not in outgrown]
    published = [track for track, uplink in begun if uplink is track.uplinks[0]]
    if (
        published
        and not participant.is_hidden
        and len(published) == sum(t.is_published for t in participant.tracks.values())
    ):
        room.publishers_changed = True
    for track in published:
        room.out.append(TrackChanged(participant.identity, source_name(track.info.source), "published"))
    room.announce(participant)
    if participant.state == State.ACTIVE:
        for track in published:
            room.notify("track_published", participant, track.info)
    subscribing.consider(room, participant, published)
    for track, uplink in begun:
        if uplink is not track.uplinks[0]:
            subscribing.codec_added(room, track, uplink)


def _mode(track: Track, uplink: Uplink, codec: models.SimulcastCodecInfo, layers: list[models.VideoLayer]) -> LayerMode:
    if track.kind is Kind.AUDIO:
        return LayerMode.SINGLE
    # Safari, React Native and Chromium before 113 are asked for SVC by an encoding for each layer, and send one stream.
    if uplink.mime.lower() in _SVC_MIMES and codec.video_layer_mode == _SVC_MODE:
        return LayerMode.SVC
    media_ssrcs = [ssrc for ssrc in uplink.section.ssrcs if ssrc.rid is None]
    if len(uplink.section.rids) > 1 or len(media_ssrcs) > 1:
        return LayerMode.SIMULCAST
    # Any of VP9 and AV1 in one stream may bring layers whatever was declared; their descriptors tell.
    return LayerMode.SVC if uplink.mime.lower() in _SVC_MIMES or len(layers) > 1 else LayerMode.SINGLE


def _layer_spec(layer: models.VideoLayer) -> LayerSpec:
    return LayerSpec(
        spatial=layer.spatial_layer, width=layer.width, height=layer.height, bitrate_bps=min(layer.bitrate, 2**31)
    )


def _note_codec(track: Track, uplink: Uplink) -> models.SimulcastCodecInfo:
    """Enter codec and mid where clients look for them, and how layers come where the client has not said it."""
    if track.uplinks[0] is uplink:
        track.info.mime_type = uplink.mime
    entry = next((codec for codec in track.info.codecs if codec.cid == uplink.section.cid), None)
    if entry is None:
        entry = track.info.codecs.add(cid=uplink.section.cid, layers=track.info.layers)
    entry.mime_type = uplink.mime
    entry.mid = uplink.mid
    if track.kind is Kind.VIDEO and not entry.video_layer_mode:
        entry.video_layer_mode = _SVC_MODE if uplink.mime.lower() in _SVC_MIMES else _SIMULCAST_MODE
    return entry


def media_arrived(room: RoomCore, event: border.UptrackMedia) -> None:
    found = room.by_uptrack.get(event.uptrack)
    if found is None:
        return
    participant, track, uplink = found
    is_new = not uplink.has_media
    uplink.has_media = True
    if event.mime.lower() != uplink.mime.lower():
        uplink.mime = event.mime
        _note_codec(track, uplink)
        room.announce(participant)
        subscribing.codec_seen(room, track, uplink)
    if is_new:
        room.touch(participant)


# --- ending ---------------------------------------------------------------------------------------------------------


def _disconnect(room: RoomCore, track: Track, uplink: Uplink) -> None:
    """One codec of a track has stopped, and others go on; to be announced."""
    track.uplinks.remove(uplink)
    room.by_uptrack.pop(uplink.uptrack, None)
    subscribing.uplink_ended(room, track, uplink)
    room.command(border.RemoveUptrack(uptrack=uplink.uptrack))


def end_tracks(room: RoomCore, participant: Participant, tracks: list[Track], *, by_server: bool = False) -> None:
    if not tracks:
        return
    for track in tracks:
        participant.tracks.pop(track.sid, None)
        room.by_track.pop(track.sid, None)
        for uplink in track.uplinks:
            room.by_uptrack.pop(uplink.uptrack, None)
            room.command(border.RemoveUptrack(uptrack=uplink.uptrack))
        if by_server:
            message = rtc.TrackUnpublishedResponse(track_sid=track.sid)
            room.send(participant, rtc.SignalResponse(track_unpublished=message))
    room.touch(participant)
    published = [track for track in tracks if track.is_published]
    if published and not participant.is_hidden and not participant.is_publisher:
        room.publishers_changed = True
    if any(track.kind is Kind.AUDIO for track in published):
        quality.silenced(room, participant)
    if published and participant.state != State.DISCONNECTED:
        room.announce(participant)
    subscribing.tracks_ended(room, tracks)
    for track in published:
        room.out.append(TrackChanged(participant.identity, source_name(track.info.source), "unpublished"))
        room.notify("track_unpublished", participant, track.info)


def enforce_permission(room: RoomCore, participant: Participant) -> None:
    """End whatever the grants do not allow any more."""
    forbidden = [t for t in participant.tracks.values() if not participant.grants.may_publish(t.info.source)]
    end_tracks(room, participant, forbidden, by_server=True)


# --- changing -------------------------------------------------------------------------------------------------------


def mute(room: RoomCore, participant: Participant, request: rtc.MuteTrackRequest) -> None:
    track = participant.tracks.get(request.sid)
    if track is not None:
        set_muted(room, participant, track, request.muted, by_server=False)


def set_muted(room: RoomCore, participant: Participant, track: Track, muted: bool, *, by_server: bool) -> None:
    track.muted_by_server = muted and by_server
    if track.info.muted == muted:
        return
    track.info.muted = muted
    for uplink in track.uplinks:
        room.command(border.UpdateUptrack(uptrack=uplink.uptrack, muted=muted))
    room.touch(participant)
    if track.is_published:
        state = "muted" if muted else "unmuted"
        room.out.append(TrackChanged(participant.identity, source_name(track.info.source), state))
        room.announce(participant)


def update_layers(room: RoomCore, participant: Participant, request: rtc.UpdateVideoLayers) -> None:
    track = participant.tracks.get(request.track_sid)
    if track is None or not 0 < len(request.layers) <= _LAYERS_MAX:
        return
    info = _copy(track.info)
    del info.layers[:]
    info.layers.extend(_sorted_layers(request.layers))
    for codec in info.codecs:
        del codec.layers[:]
        codec.layers.extend(info.layers)
    if not _is_taken(room, track, info):
        return
    for uplink in track.uplinks:
        layers = tuple(_layer_spec(layer) for layer in layers_of(track, uplink))
        room.command(border.UpdateUptrack(uptrack=uplink.uptrack, muted=track.info.muted, layers=layers))
    room.announce(participant)


def _is_taken(room: RoomCore, track: Track, info: models.TrackInfo) -> bool:
    """Have the track told so from now on, unless that is too long."""
    if room.excess_of(info):
        room.drop("track_too_long")
        return False
    track.info = info
    return True


def update_audio_track(room: RoomCore, participant: Participant, request: rtc.UpdateLocalAudioTrack) -> None:
    track = participant.tracks.get(request.track_sid)
    if track is None or len(request.features) > _FEATURES_MAX:
        return
    info = _copy(track.info)
    del info.audio_features[:]
    info.audio_features.extend(request.features)
    features = models.AudioTrackFeature
    info.stereo = features.TF_STEREO in request.features
    info.disable_dtx = features.TF_NO_DTX in request.features
    if _is_taken(room, track, info):
        room.announce(participant)


def update_video_track(room: RoomCore, participant: Participant, request: rtc.UpdateLocalVideoTrack) -> None:
    track = participant.tracks.get(request.track_sid)
    if track is not None and (track.info.width, track.info.height) != (request.width, request.height):
        track.info.width, track.info.height = request.width, request.height
        room.announce(participant)
