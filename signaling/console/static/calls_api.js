// The calls API and its event socket for the page of a call: requests, problems, and events that survive a lost socket.

export class Problem extends Error {
  constructor(status, document) {
    super(document.detail || document.title || 'The server refused.');
    Object.assign(this, { status, code: document.code || 'unavailable', document });
  }
}

export class Api {
  constructor(token) {
    this.token = token;
    this.offset = 0; // how far the server's clock is ahead of ours, in ms
  }

  async ask(method, path, body) {
    let reply;
    try {
      reply = await fetch(`/v1${path}`, {
        method,
        headers: { Authorization: `Bearer ${this.token}`, ...(body === undefined ? {} : { 'Content-Type': 'application/json' }) },
        body: body === undefined ? undefined : JSON.stringify(body),
      });
    } catch {
      throw new Problem(0, { code: 'unreachable', detail: 'The server cannot be reached.' });
    }
    const date = Date.parse(reply.headers.get('Date') || '');
    if (!Number.isNaN(date)) this.offset = date - Date.now();
    if (reply.status === 204) return null;
    const data = await reply.json().catch(() => ({}));
    if (!reply.ok) throw new Problem(reply.status, data);
    return data;
  }

  now() { return Date.now() + this.offset; }
}

export async function becomeGuest(name) {
  const reply = await fetch('/v1/guests', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ name }) });
  const data = await reply.json().catch(() => ({}));
  if (!reply.ok) throw new Problem(reply.status, data);
  return data.token;
}

// Tells `heard(event)` of what happens in a call. After a lost socket everything is asked for anew: the page shows
// states, not a history, so a fresh look replaces whatever was missed.
export class Events {
  constructor(api, cid, deviceId, heard, connected) {
    Object.assign(this, { api, cid, deviceId, heard, connected });
    this.stopped = false;
    this.pause = 500;
    // Settled when the first answer to our subscription has come: from then on nothing is missed unnoticed.
    this.ready = new Promise((settle) => { this.settle = settle; });
    this.open();
  }

  open() {
    const socket = this.socket = new WebSocket(`${location.origin.replace(/^http/, 'ws')}/v1/events`);
    let beat = 0;
    const send = (frame) => socket.readyState === WebSocket.OPEN && socket.send(JSON.stringify(frame));
    socket.onopen = () => send({ type: 'auth', token: this.api.token, device_id: this.deviceId });
    socket.onmessage = (message) => {
      const frame = JSON.parse(message.data);
      if (frame.type === 'hello') {
        this.pause = 500;
        beat = setInterval(() => send({ type: 'ping' }), frame.heartbeat_ms);
        send({ type: 'subscribe', cids: [this.cid] });
      } else if (frame.type === 'subscribed') {
        this.settle();
        this.connected();
      } else if (frame.type.includes('.') && (frame.cid === this.cid || frame.cid === null)) {
        this.heard(frame);
      } else if (frame.type === 'unsubscribed' && frame.reason) {
        this.connected();
      } else if (frame.type === 'error' && (frame.problem.status === 429 || frame.problem.status >= 500)) {
        // For the moment only: the database is away, or we asked too often.
        setTimeout(() => send({ type: 'subscribe', cids: [this.cid] }), Math.max(1000, frame.problem.retry_after_ms || 0));
      }
    };
    socket.onclose = (event) => {
      clearInterval(beat);
      if (this.stopped || event.code === 4401 || event.code === 4403) return;
      setTimeout(() => this.stopped || this.open(), this.pause * (0.5 + Math.random()));
      this.pause = Math.min(this.pause * 2, 15000);
    };
  }

  // A call that did not exist could not be watched; now it can.
  subscribe() {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type: 'subscribe', cids: [this.cid] }));
  }

  stop() {
    this.stopped = true;
    this.socket.close();
  }
}
