// The built-in call page: joins a room with the official JavaScript client and shows what it is told.
// State lives in the client's Room object; this file only draws it. Names and texts from others go in by textContent.

import { clearStage, drawStage, follow } from './stage.js';

const { Room, RoomEvent, ConnectionState, VideoPresets } = window.LivekitClient;

const byId = (id) => document.getElementById(id);
const link = new URLSearchParams(location.hash.slice(1) || location.search.slice(1));
const invite = link.get('invite');
const readyToken = link.get('token'); // made elsewhere, for example by `callyard token`
// `mode=dual` makes the client use two peer connections; for trying both with one browser.
const singlePeerConnection = link.get('mode') !== 'dual';
const videoCodec = link.get('codec') || 'vp8';

let room = null;
let preview = null;

byId('name').value = localStorage.getItem('callyard.name') || '';
byId('room-line').textContent = describeInvite();
byId('join-form').addEventListener('submit', (event) => { event.preventDefault(); join(); });
byId('with-camera').addEventListener('change', showPreview);
if (!invite && !readyToken) {
  lobbyMessage('This page needs an invitation: open the link that the server printed, or one a participant sent you.');
  byId('join').disabled = true;
} else {
  showPreview();
}
if (link.get('autojoin') !== null) join();

async function showPreview() {
  stopPreview();
  if (!byId('with-camera').checked || !navigator.mediaDevices) return;
  try {
    preview = await navigator.mediaDevices.getUserMedia({ video: true });
    if (document.body.dataset.state !== 'lobby') return stopPreview();
    byId('preview').srcObject = preview;
  } catch {
    byId('with-camera').checked = false;
  }
}

function stopPreview() {
  preview?.getTracks().forEach((track) => track.stop());
  preview = null;
  byId('preview').srcObject = null;
}

async function join() {
  byId('join').disabled = true;
  lobbyMessage('');
  const name = byId('name').value.trim();
  localStorage.setItem('callyard.name', name);
  try {
    const token = readyToken || (await redeem(name)).token;
    stopPreview();
    room = new Room({
      adaptiveStream: true,
      dynacast: true,
      singlePeerConnection,
      publishDefaults: { videoCodec, simulcast: true },
      videoCaptureDefaults: { resolution: VideoPresets.h720.resolution },
    });
    window.callyardRoom = room; // for the browser's console
    listen(room);
    await room.connect(location.origin.replace(/^http/, 'ws'), token);
    document.body.dataset.state = 'call';
    byId('title').textContent = room.name;
    document.title = `${room.name} · Callyard`;
    draw();
    if (byId('with-mic').checked) await attempt(() => room.localParticipant.setMicrophoneEnabled(true));
    if (byId('with-camera').checked) await attempt(() => room.localParticipant.setCameraEnabled(true));
    await listDevices();
  } catch (error) {
    leaveTo(error.message || String(error));
  }
}

async function redeem(name) {
  const reply = await fetch('/call/access', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ invite, name }),
  });
  const body = await reply.json();
  if (!reply.ok) throw new Error(body.detail);
  return body;
}

function listen(room) {
  follow(room, draw);
  room.on(RoomEvent.ConnectionStateChanged, showConnection);
  room.on(RoomEvent.MediaDevicesChanged, listDevices);
  room.on(RoomEvent.AudioPlaybackStatusChanged, () => { byId('sound').hidden = room.canPlaybackAudio; });
  room.on(RoomEvent.MediaDevicesError, (error) => toast(`Device: ${error.message}`));
  // Our own leaveTo() disconnects too: `room` is then already gone.
  room.on(RoomEvent.Disconnected, (reason) => { if (window.callyardRoom === room) leaveTo(farewell(reason)); });
}

// --- drawing ---------------------------------------------------------------------------------------------------------

function draw() {
  if (!room || room.state === ConnectionState.Disconnected) return;
  drawStage(room);
  drawControls();
}

function drawControls() {
  const me = room.localParticipant;
  press('mic', !me.isMicrophoneEnabled, me.isMicrophoneEnabled ? 'Mute' : 'Unmute');
  press('camera', !me.isCameraEnabled, me.isCameraEnabled ? 'Stop video' : 'Start video');
  press('screen', me.isScreenShareEnabled, me.isScreenShareEnabled ? 'Stop sharing' : 'Share screen');
  byId('screen').hidden = !navigator.mediaDevices?.getDisplayMedia;
}

function press(id, pressed, text) {
  byId(id).setAttribute('aria-pressed', String(pressed));
  byId(id).textContent = text;
}

function showConnection(state) {
  const texts = {
    [ConnectionState.Connecting]: 'connecting…',
    [ConnectionState.Reconnecting]: 'reconnecting…',
    [ConnectionState.SignalReconnecting]: 'reconnecting…',
  };
  byId('connection').textContent = texts[state] || '';
}

// --- controls ----------------------------------------------------------------------------------------------------------

byId('mic').addEventListener('click', () => toggle((me) => me.setMicrophoneEnabled(!me.isMicrophoneEnabled)));
byId('camera').addEventListener('click', () => toggle((me) => me.setCameraEnabled(!me.isCameraEnabled)));
byId('screen').addEventListener('click', () => toggle((me) => me.setScreenShareEnabled(!me.isScreenShareEnabled, { audio: true })));
byId('sound').addEventListener('click', () => attempt(() => room.startAudio()));
byId('leave').addEventListener('click', () => room.disconnect());
byId('invite').addEventListener('click', copyInvite);
for (const [id, kind] of [['mic-device', 'audioinput'], ['camera-device', 'videoinput'], ['speaker-device', 'audiooutput']]) {
  byId(id).addEventListener('change', (event) => attempt(() => room.switchActiveDevice(kind, event.target.value)));
}

async function toggle(change) {
  await attempt(() => change(room.localParticipant));
  draw();
  await listDevices();
}

async function attempt(action) {
  try {
    await action();
  } catch (error) {
    toast(error.message || String(error));
  }
}

async function listDevices() {
  if (!room) return;
  for (const [id, kind] of [['mic-device', 'audioinput'], ['camera-device', 'videoinput'], ['speaker-device', 'audiooutput']]) {
    const devices = await Room.getLocalDevices(kind, false).catch(() => []);
    const active = room.getActiveDevice(kind);
    byId(id).replaceChildren(...devices.map((device, index) => {
      const option = document.createElement('option');
      option.value = device.deviceId;
      option.textContent = device.label || `${kind} ${index + 1}`;
      option.selected = device.deviceId === active;
      return option;
    }));
  }
}

async function copyInvite() {
  // With a ready token there is nothing to pass on: it is one person's own.
  if (!invite) return toast('This call was opened with a personal token; ask the host for an invitation.');
  const url = `${location.origin}/call#invite=${encodeURIComponent(invite)}`;
  try {
    await navigator.clipboard.writeText(url);
    toast('Invite link copied.');
  } catch {
    window.prompt('Copy this invite link:', url);
  }
}

// --- small things --------------------------------------------------------------------------------------------------------

function describeInvite() {
  try {
    const part = (invite || readyToken).split('.')[1].replace(/-/g, '+').replace(/_/g, '/');
    const claims = JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(part), (c) => c.charCodeAt(0))));
    return `Room: ${claims.room || claims.video.room}`;
  } catch {
    return '';
  }
}

function farewell(reason) {
  const texts = {
    2: 'You joined from another place.', 3: 'The server is shutting down.', 4: 'You were removed from the call.',
    5: 'The call was ended.', 10: 'The call was closed.', 14: 'The connection was lost.',
  };
  return texts[reason] || 'You left the call.';
}

function leaveTo(message) {
  const old = room;
  room = window.callyardRoom = null;
  old?.disconnect();
  document.body.dataset.state = 'lobby';
  clearStage();
  byId('join').disabled = !invite && !readyToken;
  lobbyMessage(message);
  showPreview();
}

function lobbyMessage(text) { byId('lobby-message').textContent = text; }

let toastTimer = 0;
function toast(text) {
  byId('toast').textContent = text;
  byId('toast').classList.add('shown');
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => byId('toast').classList.remove('shown'), 4000);
}
