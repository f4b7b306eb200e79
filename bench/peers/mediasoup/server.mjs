// mediasoup as it comes, behind a line of JSON for each request: one worker, one UDP port, a router for each room.
// What is asked for and answered are mediasoup's own parameters; whoever drives it (over_mediasoup.py) knows the rest.
//
// node server.mjs DIRECTORY_WITH_NODE_MODULES CONTROL_PORT MEDIA_PORT

import { createRequire } from 'node:module';
import net from 'node:net';
import path from 'node:path';
import readline from 'node:readline';

const [directory, controlPort, mediaPort] = process.argv.slice(2);
const mediasoup = createRequire(path.join(path.resolve(directory), 'any.js'))('mediasoup');
const address = '127.0.0.1';
// Loopback is no bottleneck; the estimate need not find that out.
const initialAvailableOutgoingBitrate = 50_000_000;
const mediaCodecs = [
  { kind: 'audio', mimeType: 'audio/opus', clockRate: 48_000, channels: 2 },
  { kind: 'video', mimeType: 'video/VP8', clockRate: 90_000 },
];

const worker = await mediasoup.createWorker({ logLevel: 'warn' });
worker.on('died', () => process.exit(1));
const webRtcServer = await worker.createWebRtcServer({
  listenInfos: [{ protocol: 'udp', ip: address, port: Number(mediaPort) }],
});
const routers = new Map();
const transports = new Map();

async function routerOf(room) {
  if (!routers.has(room)) {
    routers.set(room, worker.createRouter({ mediaCodecs }));
  }
  return routers.get(room);
}

const methods = {
  async transport({ room, fingerprints }) {
    const router = await routerOf(room);
    const transport = await router.createWebRtcTransport({ webRtcServer, initialAvailableOutgoingBitrate });
    await transport.connect({ dtlsParameters: { role: 'client', fingerprints } });
    transports.set(transport.id, { transport, router });
    const { id, iceParameters, iceCandidates, dtlsParameters } = transport;
    return { id, iceParameters, iceCandidates, dtlsParameters };
  },

  async produce({ transport, kind, rtpParameters }) {
    const producer = await transports.get(transport).transport.produce({ kind, rtpParameters });
    return { id: producer.id };
  },

  async consume({ transport: id, producer, spatialLayer }) {
    const { transport, router } = transports.get(id);
    const preferredLayers = spatialLayer === null ? undefined : { spatialLayer };
    const options = { producerId: producer, rtpCapabilities: router.rtpCapabilities, preferredLayers };
    const { rtpParameters } = await transport.consume(options);
    return { rtpParameters };
  },
};

const server = net.createServer((socket) => {
  socket.on('error', () => {});
  // In order, for one request builds on another.
  let last = Promise.resolve();
  readline.createInterface({ input: socket }).on('line', (line) => {
    last = last.then(async () => {
      let answer;
      try {
        const { method, ...parameters } = JSON.parse(line);
        answer = { result: await methods[method](parameters) };
      } catch (error) {
        answer = { error: String(error) };
      }
      socket.write(`${JSON.stringify(answer)}\n`);
    });
  });
});
server.listen(Number(controlPort), address);
