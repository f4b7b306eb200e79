// A participant made of the official SDK for Node (@livekit/rtc-node), told what to do by JSON lines on stdin, telling
// what happens by JSON lines on stdout. It says what it hears and sees (frequency, colours) and judges nothing.
'use strict';
const readline = require('node:readline');
const rtc = require('@livekit/rtc-node');

const [url, token, mode] = process.argv.slice(2);
const SAMPLE_RATE_HZ = 48_000;
const FRAME_SAMPLES = 480;
const FRAMES_PER_SECOND = 15;
const room = new rtc.Room();
let leaving = false;

function tell(event, fields = {}) {
  process.stdout.write(`${JSON.stringify({ event, ...fields })}\n`);
}

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// --- what comes of others

async function hear(track, identity) {
  let samples = [];
  for await (const frame of new rtc.AudioStream(track, SAMPLE_RATE_HZ, 1)) {
    samples.push(...frame.data);
    if (samples.length < SAMPLE_RATE_HZ / 4) continue;
    const rises = samples.filter((value, index) => index > 0 && samples[index - 1] < 0 && value >= 0).length;
    const loudness = Math.sqrt(samples.reduce((sum, value) => sum + value * value, 0) / samples.length);
    tell('hears', { identity, hertz: (rises * SAMPLE_RATE_HZ) / samples.length, loudness });
    samples = [];
  }
}

// (Y, U, V) of one pixel in each half, of every fifth picture.
async function see(track, identity) {
  let count = 0;
  for await (const { frame } of new rtc.VideoStream(track)) {
    count += 1;
    if (count % 5 !== 0) continue;
    const { data, width, height } = frame.convert(rtc.VideoBufferType.I420);
    const [chromaWidth, chromaHeight] = [(width + 1) >> 1, (height + 1) >> 1];
    const pixel = (x, y) => {
      const chroma = width * height + (y >> 1) * chromaWidth + (x >> 1);
      return [data[y * width + x], data[chroma], data[chroma + chromaWidth * chromaHeight]];
    };
    tell('sees', { identity, width, height, left: pixel(width >> 2, height >> 1), right: pixel((width * 3) >> 2, height >> 1) });
  }
}

room
  .on('trackSubscribed', (track, _publication, { identity }) => {
    (track.kind === rtc.TrackKind.KIND_AUDIO ? hear : see)(track, identity);
  })
  .on('dataReceived', (payload, participant, _kind, topic) => {
    tell('data', { identity: participant?.identity ?? null, text: Buffer.from(payload).toString(), topic });
  })
  .on('reconnected', () => tell('reconnected'))
  .on('disconnected', (reason) => tell('disconnected', { reason }));

// --- what it sends

async function publishTone({ hertz }) {
  const source = new rtc.AudioSource(SAMPLE_RATE_HZ, 1, 100);
  const track = rtc.LocalAudioTrack.createAudioTrack('tone', source);
  const options = new rtc.TrackPublishOptions({ source: rtc.TrackSource.SOURCE_MICROPHONE });
  await room.localParticipant.publishTrack(track, options);
  for (let at = 0; !leaving; at += FRAME_SAMPLES) {
    const wave = Int16Array.from({ length: FRAME_SAMPLES }, (_, index) =>
      16_000 * Math.sin((2 * Math.PI * hertz * (at + index)) / SAMPLE_RATE_HZ));
    await source.captureFrame(new rtc.AudioFrame(wave, SAMPLE_RATE_HZ, 1, FRAME_SAMPLES));
  }
}

async function publishPicture({ left, right, width, height }) {
  const source = new rtc.VideoSource(width, height);
  const track = rtc.LocalVideoTrack.createVideoTrack('picture', source);
  const options = new rtc.TrackPublishOptions({ source: rtc.TrackSource.SOURCE_CAMERA, simulcast: true });
  await room.localParticipant.publishTrack(track, options);
  const half = (width, colour) => (index) => (index % width < width / 2 ? left : right)[colour];
  const plane = (length, width, colour) => Uint8Array.from({ length }, (_, index) => half(width, colour)(index));
  const chroma = (width * height) / 4;
  const picture = Buffer.concat([
    plane(width * height, width, 0), plane(chroma, width / 2, 1), plane(chroma, width / 2, 2),
  ]);
  for (let number = 0; !leaving; number += 1) {
    // Something that moves on top.
    picture.fill((number * 16) % 256, 0, width * 8);
    source.captureFrame(new rtc.VideoFrame(new Uint8Array(picture), width, height, rtc.VideoBufferType.I420));
    await sleep(1000 / FRAMES_PER_SECOND);
  }
}

const failed = (what) => (error) => tell('error', { do: what, message: String(error.message ?? error) });
const acts = {
  tone: async (given) => { publishTone(given).catch(failed('tone')); },
  picture: async (given) => { publishPicture(given).catch(failed('picture')); },
  data: ({ text, topic }) => room.localParticipant.publishData(Buffer.from(text), { reliable: true, topic }),
  text: ({ text, topic }) => room.localParticipant.sendText(text, { topic }),
  metadata: ({ text }) => room.localParticipant.updateMetadata(text),
  answer: async ({ name }) => room.localParticipant.registerRpcMethod(
    name, async ({ callerIdentity, payload }) => `${callerIdentity} said ${payload}`),
  ask: async ({ to, name, text }) => {
    for (const destinationIdentity of to) {
      room.localParticipant.performRpc({ destinationIdentity, method: name, payload: text })
        .then((answer) => tell('answered', { text: answer }), failed('ask'));
    }
  },
};

async function main() {
  try {
    await room.connect(url, token, { autoSubscribe: true, dynacast: true, singlePeerConnection: mode === 'single' });
  } catch (error) {
    tell('failed', { message: error.message });
    process.exit(1);
  }
  room.registerTextStreamHandler('t', async (reader, { identity }) => tell('text', { identity, text: await reader.readAll() }));
  tell('connected', { sid: room.localParticipant.sid });
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const given = JSON.parse(line);
    if (given.do === 'leave') break;
    await acts[given.do](given).catch(failed(given.do));
  }
  leaving = true;
  await room.disconnect();
  tell('left');
  process.exit(0);
}

main();
