// The page of a call, for people: create or join it by type and id, wait for its gate or in its lobby, be rung, ask to
// speak, and for those who may: host it. What is shown follows from the API's replies; events only say when to look.

import { Api, Events, Problem, becomeGuest } from './calls_api.js';
import { drawPeople } from './calls_people.js';
import { clearStage, drawStage, follow } from './stage.js';

const { Room, RoomEvent, ConnectionState, VideoPresets } = window.LivekitClient;
const byId = (id) => document.getElementById(id);
const [, , type, id] = location.pathname.split('/').map(decodeURIComponent);
const path = `/calls/${encodeURIComponent(type || '')}/${encodeURIComponent(id || '')}`;
const cid = `${type}:${id}`;
const stored = (name, make) => sessionStorage.getItem(name) || (sessionStorage.setItem(name, make()), sessionStorage.getItem(name));
const deviceId = stored('callyard.device', () => `web-${crypto.getRandomValues(new Uint32Array(2)).join('-')}`);

let api = null;
let events = null;
let reply = null; // what the API last said of the call: call, own_capabilities, session, ring
let missing = false; // there is no such call yet
let room = null;
let preview = null;
let participantId = null;
let waitingEntry = null; // our place in the lobby
let asked = null; // our pending permission request
let joining = false;

function start() {
  const link = new URLSearchParams(location.hash.slice(1));
  if (link.get('token')) {
    // Kept for this tab, and out of the address that people copy.
    sessionStorage.setItem('callyard.token', link.get('token'));
    history.replaceState(null, '', location.pathname);
  }
  byId('pick').addEventListener('submit', (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    location.assign(`/calls/${encodeURIComponent(form.get('type'))}/${encodeURIComponent(form.get('id'))}`);
  });
  if (!type || !id) {
    byId('call-name').textContent = 'Create or join a call';
    byId('pick').hidden = false;
    return;
  }
  byId('call-name').textContent = id;
  byId('call-line').textContent = type;
  document.title = `${id} · Callyard`;
  byId('guest').addEventListener('submit', (event) => { event.preventDefault(); enterAsGuest(); });
  byId('own-token').addEventListener('input', (event) => { byId('guest-name').required = !event.target.value; });
  const token = sessionStorage.getItem('callyard.token');
  if (token) identified(token);
  else askWho('');
}

function askWho(text) {
  byId('guest').hidden = false;
  byId('ready').hidden = true;
  say(text);
}

async function enterAsGuest() {
  const own = byId('own-token').value.trim();
  try {
    const token = own || await becomeGuest(byId('guest-name').value.trim());
    sessionStorage.setItem('callyard.token', token);
    byId('guest').hidden = true;
    identified(token);
  } catch (problem) {
    say(problem.code === 'feature_disabled' ? 'This call takes no guests: open it with your personal link or token.' : problem.message);
  }
}

function identified(token) {
  api = new Api(token);
  events = new Events(api, cid, deviceId, heard, connected);
  setInterval(askAgain, 20000);
  byId('with-mic').checked = byId('with-camera').checked = false;
  for (const name of ['with-mic', 'with-camera']) byId(name).addEventListener('change', showPreview);
  refresh();
}

function connected() {
  refresh();
  askAgain();
}

// Whoever waits in the lobby asks now and then: the answer may have come while the socket was lost.
function askAgain() {
  if (waitingEntry) join();
}

// --- what the call is like ---------------------------------------------------------------------------------------------

let looking = null;
let lookAgain = false;

// Looks at the call; whoever asks while a look is under way gets one more after it.
async function refresh() {
  if (looking) { lookAgain = true; return looking; }
  looking = look();
  try { await looking; } finally { looking = null; }
  if (lookAgain) { lookAgain = false; return refresh(); }
}

async function look() {
  const first = reply === null;
  try {
    reply = await api.ask('GET', path);
    missing = false;
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (problem.status === 401) return expired();
    reply = null;
    missing = problem.code === 'not_found';
    if (missing) return showReady();
    return showRefusal(problem);
  }
  if (first) preset();
  const name = typeof reply.call.custom.name === 'string' ? reply.call.custom.name : id;
  byId('call-name').textContent = byId('title').textContent = name;
  document.title = `${name} · Callyard`;
  byId('call-line').textContent = `${type} · ${reply.call.participant_count} in the call`;
  showReady();
  if (room) await drawCall();
}

function preset() {
  const { settings } = reply.call;
  byId('with-mic').checked = may('media.audio') && settings.audio.mic_default_on;
  byId('with-camera').checked = may('media.video') && settings.video.enabled && settings.video.camera_default_on;
  showPreview();
}

function may(capability) { return Boolean(reply?.own_capabilities.includes(capability)); }

function expired() {
  sessionStorage.removeItem('callyard.token');
  events?.stop();
  askWho('Your link has expired or is not valid here. Ask for a new one.');
}

// --- before the call -----------------------------------------------------------------------------------------------------

let gateTimer = 0;

function showReady() {
  clearInterval(gateTimer);
  byId('guest').hidden = true;
  byId('ready').hidden = false;
  byId('gate').hidden = true;
  byId('lobby-go-live').hidden = byId('reopen').hidden = true;
  byId('join').hidden = false;
  byId('join').disabled = joining;
  byId('sending').hidden = false;
  showRing();
  if (missing) {
    byId('call-line').textContent = `${type} · there is no such call yet`;
    byId('join').textContent = 'Create and join';
    return;
  }
  const { call } = reply;
  byId('join').textContent = 'Join';
  byId('with-mic').closest('label').hidden = !may('media.audio') && !closed(call);
  byId('with-camera').closest('label').hidden = !(call.settings.video.enabled && (may('media.video') || closed(call)));
  if (waitingEntry) return showGate('Waiting for the host to let you in…');
  if (call.ended_at) {
    byId('reopen').hidden = !may('call.join_ended');
    byId('join').hidden = !may('call.join_ended');
    return showGate('This call has ended.');
  }
  if (!closed(call)) return undefined;
  byId('lobby-go-live').hidden = !may('live.start');
  if (may('call.join_backstage')) {
    byId('join').textContent = 'Join backstage';
    return showGate('Not live yet: only hosts and speakers are in.');
  }
  byId('join').disabled = true;
  if (!call.opens_at) return showGate('Not live yet. The host will open it; this page joins in then.');
  showGate('Opens in', Date.parse(call.opens_at));
}

// Whether the gate is shut now: `backstage` alone does not say, for the clock may have opened it.
function closed(call) {
  return call.backstage && !(call.opens_at && api.now() >= Date.parse(call.opens_at));
}

function showGate(text, opensAt = 0) {
  byId('gate').hidden = false;
  byId('gate-text').textContent = text;
  byId('countdown').textContent = '';
  if (!opensAt) return;
  const tick = () => {
    const left = Math.ceil((opensAt - api.now()) / 1000);
    byId('countdown').textContent = clockOf(Math.max(left, 0));
    // The server's clock decides: a moment later, so that it has opened when we look.
    if (left <= 0) { clearInterval(gateTimer); setTimeout(refresh, 300); }
  };
  gateTimer = setInterval(tick, 250);
  tick();
}

function clockOf(seconds) {
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  const shown = parts[0] ? parts : parts.slice(1);
  return shown.map((part, index) => (index ? String(part).padStart(2, '0') : part)).join(':');
}

function showRefusal(problem) {
  const texts = {
    missing_capability: 'Only those whom the host has admitted may see this call.',
    blocked: 'You were blocked from this call.',
    banned: 'You are banned here.',
    gone: 'This call was deleted.',
  };
  clearInterval(gateTimer);
  byId('ready').hidden = true;
  say(texts[problem.code] || problem.message);
}

function showRing() {
  const ring = reply?.ring;
  const me = userId();
  const mine = ring?.state === 'pending' && ring.callees.find((callee) => callee.user_id === me && callee.state === 'ringing');
  byId('ringing').hidden = !mine || Boolean(room);
  if (mine) byId('ring-text').textContent = `${ring.caller?.name || ring.caller?.id || 'Somebody'} is calling${ring.video ? ' with video' : ''}`;
}

function userId() {
  try {
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(api.token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/')), (c) => c.charCodeAt(0)))).sub;
  } catch {
    return '';
  }
}

async function showPreview() {
  preview?.getTracks().forEach((track) => track.stop());
  preview = null;
  byId('preview').srcObject = null;
  byId('preview').hidden = !byId('with-camera').checked;
  if (!byId('with-camera').checked || room || !navigator.mediaDevices) return;
  try {
    preview = await navigator.mediaDevices.getUserMedia({ video: true });
    if (room || !byId('with-camera').checked) return showPreview();
    byId('preview').srcObject = preview;
  } catch {
    byId('with-camera').checked = false;
    byId('preview').hidden = true;
  }
}

// --- joining ---------------------------------------------------------------------------------------------------------------

byId('join').addEventListener('click', () => join());
byId('lobby-go-live').addEventListener('click', () => act('PUT', '/live', {}));
byId('reopen').addEventListener('click', () => act('POST', '/reopen', {}));
byId('ring-accept').addEventListener('click', async () => {
  if (await act('POST', `/rings/${reply.ring.id}/accept`, { device_id: deviceId })) join();
});
byId('ring-decline').addEventListener('click', () => act('POST', `/rings/${reply.ring.id}/reject`, { reason: 'decline', device_id: deviceId }));

async function join() {
  if (joining || room) return;
  joining = true;
  byId('join').disabled = true;
  say('');
  try {
    if (missing) {
      await api.ask('PUT', path, {});
      events.subscribe();
      await refresh();
    }
    await Promise.race([events.ready, new Promise((settle) => { setTimeout(settle, 3000); })]);
    const joined = await api.ask('POST', `${path}/join`, { device_id: deviceId });
    if (joined.lobby) {
      // Another place than the one we had: that one was denied, or ran out, while nobody could tell us.
      if (waitingEntry && waitingEntry.id !== joined.lobby.id) refused();
      else waitingEntry = joined.lobby;
      return;
    }
    waitingEntry = null;
    participantId = joined.participant.id;
    // What one may do inside was masked while the gate was shut.
    reply = { ...reply, call: joined.call, session: joined.session, own_capabilities: joined.own_capabilities };
    await connect(joined.media);
  } catch (error) {
    leaveTo(refusalText(error));
  } finally {
    joining = false;
    await refresh();
  }
}

function refused() {
  waitingEntry = null;
  say('The host did not let you in.');
}

function refusalText(error) {
  const texts = {
    missing_capability: 'Only members may join this call.',
    backstage: 'The call is not live yet.',
    call_full: 'The call is full.',
    call_ended: 'The call has ended.',
    no_media_node: 'No media server can take the call right now.',
  };
  return texts[error.code] || error.message || String(error);
}

async function connect(media) {
  const withMic = byId('with-mic').checked, withCamera = byId('with-camera').checked;
  room = new Room({
    adaptiveStream: true,
    dynacast: true,
    publishDefaults: { videoCodec: 'vp8', simulcast: true },
    videoCaptureDefaults: { resolution: VideoPresets.h720.resolution },
  });
  window.callyardRoom = room; // for the browser's console
  await showPreview();
  listen(room);
  await room.connect(media.url, media.token);
  document.body.dataset.state = 'call';
  drawStage(room);
  if (withMic && may('media.audio')) await attempt(() => room.localParticipant.setMicrophoneEnabled(true));
  if (withCamera && may('media.video')) await attempt(() => room.localParticipant.setCameraEnabled(true));
}

function listen(room) {
  follow(room, draw);
  room.on(RoomEvent.ConnectionStateChanged, (state) => {
    byId('connection').textContent = [ConnectionState.Connected, ConnectionState.Disconnected].includes(state) ? '' : 'connecting…';
  });
  room.on(RoomEvent.AudioPlaybackStatusChanged, () => { byId('sound').hidden = room.canPlaybackAudio; });
  room.on(RoomEvent.MediaDevicesError, (error) => toast(`Device: ${error.message}`));
  // Our own leaveTo() disconnects too: `room` is then already gone.
  room.on(RoomEvent.Disconnected, (reason) => { if (window.callyardRoom === room) leaveTo(farewell(reason)); });
}

function farewell(reason) {
  const texts = { 2: 'You joined from another place.', 3: 'The server is shutting down.', 4: 'You are not in the call any more.', 5: 'The call was ended.', 10: 'The call was closed.', 14: 'The connection was lost.' };
  return texts[reason] || 'You left the call.';
}

function leaveTo(message) {
  const old = room;
  room = window.callyardRoom = null;
  participantId = asked = null;
  old?.disconnect();
  document.body.dataset.state = 'lobby';
  clearStage();
  say(message);
  showPreview();
  if (api) refresh();
}

byId('leave').addEventListener('click', async () => {
  const gone = participantId;
  leaveTo('You left the call.');
  if (gone) await api.ask('POST', `${path}/leave`, { participant_id: gone }).catch(() => {});
});
addEventListener('pagehide', () => {
  if (!participantId) return;
  const body = JSON.stringify({ participant_id: participantId });
  fetch(`/v1${path}/leave`, { method: 'POST', keepalive: true, headers: { Authorization: `Bearer ${api.token}`, 'Content-Type': 'application/json' }, body });
});

// --- in the call -----------------------------------------------------------------------------------------------------------

function draw() {
  if (!room || room.state === ConnectionState.Disconnected) return;
  drawStage(room);
  drawControls();
}

async function drawCall() {
  const { call } = reply;
  byId('live-badge').hidden = !call.live && !call.backstage;
  byId('live-badge').textContent = call.live ? 'LIVE' : 'backstage';
  byId('live-badge').classList.toggle('live', call.live);
  byId('go-live').hidden = !(call.backstage && may('live.start'));
  byId('stop-live').hidden = !(call.live && may('live.stop'));
  byId('ring').hidden = !may('call.ring') || reply.ring?.state === 'pending';
  byId('mute-all').hidden = !may('participant.mute');
  byId('end').hidden = !may('call.end');
  byId('hand').hidden = !may('reaction.send');
  draw();
  const shown = await drawPeople(api, path, reply, { act, me: userId() });
  if (!room) return; // left meanwhile
  asked = shown.mine;
  byId('people-count').textContent = String(shown.count);
  byId('people-wait').hidden = !shown.waiting;
  byId('people-wait').textContent = shown.waiting ? `${shown.waiting} waiting` : '';
  drawControls();
}

function drawControls() {
  const me = room.localParticipant;
  control('mic', may('media.audio'), !me.isMicrophoneEnabled, me.isMicrophoneEnabled ? 'Mute' : 'Unmute');
  control('camera', may('media.video'), !me.isCameraEnabled, me.isCameraEnabled ? 'Stop video' : 'Start video');
  control('screen', may('media.screen') && Boolean(navigator.mediaDevices?.getDisplayMedia), me.isScreenShareEnabled, me.isScreenShareEnabled ? 'Stop sharing' : 'Share screen');
  byId('ask').hidden = may('media.audio');
  byId('ask').textContent = asked ? 'Take back the request' : 'Ask to speak';
  byId('ask').setAttribute('aria-pressed', String(Boolean(asked)));
}

function control(name, allowed, pressed, text) {
  byId(name).hidden = !allowed;
  byId(name).setAttribute('aria-pressed', String(pressed));
  byId(name).textContent = text;
}

const looks = /^(call\.|session\.|permission\.|lobby\.|member\.|participant\.)/;

function heard(event) {
  const { data } = event;
  const me = userId();
  if (event.type === 'lobby.admitted' && data.lobby.id === waitingEntry?.id) { waitingEntry = null; join(); return; }
  if (event.type === 'lobby.denied' && data.lobby.id === waitingEntry?.id) refused();
  if (event.type === 'call.live_started' && !room && byId('gate').hidden === false) setTimeout(() => join(), 200);
  if (event.type === 'call.ring_rejected') toast(`${data.user_id} declined.`);
  if (event.type === 'call.ring_accepted' && data.user_id !== me) toast(`${data.user_id} accepted.`);
  if (event.type === 'permission.resolved' && data.request.user_id === me) toast({ granted: 'You may speak now.', denied: 'The host said no.', expired: 'Nobody answered your request.' }[data.request.state] || '');
  if (event.type === 'participant.muted' && data.user_id === me) toast('The host muted you.');
  if (event.type === 'reaction.new') toast(`${data.user_id} ${data.type === 'hand' ? 'raised a hand ✋' : data.emoji || data.type}`);
  if (looks.test(event.type)) refresh();
}

for (const [name, method, below, body] of [
  ['go-live', 'PUT', '/live', {}], ['stop-live', 'DELETE', '/live'], ['ring', 'POST', '/rings', { video: true }],
  ['mute-all', 'POST', '/participants/mute', { all: true, kinds: ['audio'] }], ['hand', 'POST', '/reactions', { type: 'hand', emoji: '✋' }],
]) byId(name).addEventListener('click', () => act(method, below, body));
byId('end').addEventListener('click', () => { if (confirm('End the call for everybody?')) act('POST', '/end', {}); });
byId('ask').addEventListener('click', () => (asked
  ? act('DELETE', `/permission-requests/${asked.id}`)
  : act('POST', '/permission-requests', { capabilities: ['media.audio'] })));
byId('mic').addEventListener('click', () => toggle((me) => me.setMicrophoneEnabled(!me.isMicrophoneEnabled)));
byId('camera').addEventListener('click', () => toggle((me) => me.setCameraEnabled(!me.isCameraEnabled)));
byId('screen').addEventListener('click', () => toggle((me) => me.setScreenShareEnabled(!me.isScreenShareEnabled, { audio: true })));
byId('sound').addEventListener('click', () => attempt(() => room.startAudio()));
byId('people-toggle').addEventListener('click', () => {
  byId('people').hidden = !byId('people').hidden;
  byId('people-toggle').setAttribute('aria-expanded', String(!byId('people').hidden));
});
byId('copy-link').addEventListener('click', async () => {
  const link = location.origin + location.pathname;
  try {
    await navigator.clipboard.writeText(link);
    toast('Link copied.');
  } catch {
    window.prompt('Copy this link:', link);
  }
});

// Does something in the call by the API; a refusal is told, and the page looks again either way.
async function act(method, below, body) {
  try {
    await api.ask(method, path + below, body);
    return true;
  } catch (error) {
    toast(refusalText(error));
    say(room ? '' : refusalText(error));
    return false;
  } finally {
    refresh();
  }
}

async function toggle(change) {
  await attempt(() => change(room.localParticipant));
  draw();
}

async function attempt(action) {
  try {
    await action();
  } catch (error) {
    toast(error.message || String(error));
  }
}

function say(text) { byId('lobby-message').textContent = text; }

let toastTimer = 0;
function toast(text) {
  if (!text) return;
  byId('toast').textContent = text;
  byId('toast').classList.add('shown');
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => byId('toast').classList.remove('shown'), 4000);
}

start();
