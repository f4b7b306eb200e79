// The tiles of a call: who is there, seen and heard. Draws what the client's Room object says, into #stage and #sounds.
// Names and texts from others go in by textContent.

const { Track, ConnectionQuality, RoomEvent } = window.LivekitClient;

const byId = (id) => document.getElementById(id);

const CHANGES = [
  RoomEvent.ParticipantConnected, RoomEvent.ParticipantDisconnected, RoomEvent.ParticipantNameChanged,
  RoomEvent.TrackSubscribed, RoomEvent.TrackUnsubscribed, RoomEvent.TrackMuted, RoomEvent.TrackUnmuted,
  RoomEvent.LocalTrackPublished, RoomEvent.LocalTrackUnpublished, RoomEvent.TrackStreamStateChanged,
  RoomEvent.ParticipantPermissionsChanged,
];
const LOOK_AGAIN_MS = 1000;

// Keeps the stage as the room is, until it is left: calls `draw` whenever there is something new to be seen.
export function follow(room, draw) {
  for (const event of CHANGES) room.on(event, draw);
  room.on(RoomEvent.ActiveSpeakersChanged, markSpeakers);
  room.on(RoomEvent.ConnectionQualityChanged, (quality, participant) => markQuality(participant, quality));
  room.once(RoomEvent.Connected, () => {
    // The client keeps events back while it reconnects, and those of its last moments for good.
    const timer = setInterval(draw, LOOK_AGAIN_MS);
    room.once(RoomEvent.Disconnected, () => clearInterval(timer));
  });
}

export function drawStage(room) {
  const wanted = new Map();
  for (const participant of [room.localParticipant, ...room.remoteParticipants.values()]) {
    wanted.set(`${participant.sid}/camera`, { participant, source: Track.Source.Camera });
    if (participant.getTrackPublication(Track.Source.ScreenShare)?.track) {
      wanted.set(`${participant.sid}/screen`, { participant, source: Track.Source.ScreenShare });
    }
  }
  const stage = byId('stage');
  for (const tile of [...stage.children]) if (!wanted.has(tile.dataset.key)) tile.remove();
  for (const [key, view] of wanted) drawTile(stage.querySelector(`[data-key="${CSS.escape(key)}"]`) || makeTile(key), view);
  stage.style.setProperty('--columns', Math.ceil(Math.sqrt(wanted.size)));
  drawSounds(room);
}

export function clearStage() {
  byId('stage').replaceChildren();
  byId('sounds').replaceChildren();
}

function makeTile(key) {
  const tile = document.createElement('div');
  tile.className = 'tile no-video';
  tile.dataset.key = key;
  const video = document.createElement('video');
  video.autoplay = true; video.playsInline = true; video.muted = true;
  const initials = document.createElement('span');
  initials.className = 'initials';
  const label = document.createElement('div');
  label.className = 'label';
  const who = document.createElement('span');
  who.className = 'who';
  const mute = document.createElement('span');
  mute.className = 'mute-mark'; mute.textContent = 'muted';
  const quality = document.createElement('span');
  quality.className = 'quality';
  quality.append(...[1, 2, 3].map(() => document.createElement('i')));
  label.append(who, mute, quality);
  tile.append(video, initials, label);
  byId('stage').append(tile);
  return tile;
}

function drawTile(tile, { participant, source }) {
  const isScreen = source === Track.Source.ScreenShare;
  const publication = participant.getTrackPublication(source);
  const microphone = participant.getTrackPublication(Track.Source.Microphone);
  const video = tile.querySelector('video');
  const track = publication && !publication.isMuted ? publication.track : undefined;
  if (track && !track.attachedElements.includes(video)) track.attach(video);
  const name = participant.name || participant.identity;
  tile.classList.toggle('no-video', !track);
  tile.classList.toggle('screen', isScreen);
  tile.classList.toggle('mirrored', participant.isLocal && !isScreen);
  tile.classList.toggle('audio-muted', !isScreen && (!microphone || microphone.isMuted));
  tile.querySelector('.who').textContent = isScreen ? `${name}: screen` : participant.isLocal ? `${name} (you)` : name;
  tile.querySelector('.initials').textContent = name.split(/\s+/).map((word) => word[0] || '').slice(0, 2).join('').toUpperCase();
  tile.dataset.identity = participant.identity;
  markQuality(participant, participant.connectionQuality);
}

function drawSounds(room) {
  const wanted = new Map();
  for (const participant of room.remoteParticipants.values()) {
    for (const publication of participant.audioTrackPublications.values()) {
      if (publication.track) wanted.set(publication.trackSid, publication.track);
    }
  }
  const sounds = byId('sounds');
  for (const element of [...sounds.children]) if (!wanted.has(element.dataset.sid)) element.remove();
  for (const [sid, track] of wanted) {
    const present = sounds.querySelector(`[data-sid="${CSS.escape(sid)}"]`);
    if (present && track.attachedElements.includes(present)) continue;
    // After a reconnection a new track has the old one's sid.
    const element = present ? track.attach(present) : track.attach();
    element.dataset.sid = sid;
    sounds.append(element);
  }
}

function markSpeakers(speakers) {
  const speaking = new Set(speakers.map((participant) => participant.identity));
  for (const tile of byId('stage').children) tile.classList.toggle('speaking', speaking.has(tile.dataset.identity));
}

function markQuality(participant, quality) {
  const tile = byId('stage').querySelector(`[data-key="${CSS.escape(participant.sid)}/camera"]`);
  if (!tile) return;
  const mark = tile.querySelector('.quality');
  mark.dataset.quality = quality;
  mark.title = quality === ConnectionQuality.Unknown ? '' : `Connection: ${quality}`;
}

