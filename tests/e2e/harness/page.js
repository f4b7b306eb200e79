// What a test asks of the official client in a page. Content is made and judged here: pictures by their colours, a
// tone by its frequency.
(() => {
  const { Room, RoomEvent, Track, VideoQuality, ConnectionState, ExternalE2EEKeyProvider } = window.LivekitClient;
  const told = [];
  let room = null;
  const elements = new Map();
  const analysers = new Map();
  let audioContext = null;

  const COLOURS = { red: [200, 30, 30], green: [30, 160, 60], blue: [40, 60, 200], grey: [128, 128, 128] };

  function listen(room) {
    for (const [key, name] of Object.entries(RoomEvent)) {
      room.on(name, (...given) => told.push([name, given.map(describe)]));
    }
  }

  function describe(value) {
    if (value === null || value === undefined) return null;
    if (Array.isArray(value)) return value.map(describe);
    if (value instanceof Uint8Array) return new TextDecoder().decode(value);
    if (typeof value !== 'object') return typeof value === 'function' ? 'function' : value;
    if (value.identity !== undefined) return value.identity;
    if (value.trackSid !== undefined) return value.trackSid;
    if (typeof value.text === 'string') return value.text;
    if (value.sid !== undefined) return value.sid;
    return value.constructor ? value.constructor.name : 'object';
  }

  function publication(identity, source) {
    const participant = identity === room.localParticipant.identity
      ? room.localParticipant : room.getParticipantByIdentity(identity);
    return participant?.getTrackPublication(source);
  }

  function element(track) {
    let found = elements.get(track);
    if (!found) {
      found = track.attach();
      found.muted = true;
      // In view however many there are: adaptive stream has what is not in view paused.
      Object.assign(found.style, { position: 'fixed', top: 0, left: 0 });
      document.body.append(found);
      elements.set(track, found);
    }
    return found;
  }

  function near(data, colour) {
    return data.every((value, index) => Math.abs(value - colour[index]) < 45);
  }

  function meanColour(context, x, y, width, height) {
    const { data } = context.getImageData(x, y, width, height);
    const sums = [0, 0, 0];
    for (let i = 0; i < data.length; i += 4) for (let c = 0; c < 3; c++) sums[c] += data[i + c];
    return sums.map((sum) => sum / (data.length / 4));
  }

  async function receiverStats(identity, source) {
    const track = publication(identity, source)?.track;
    if (!track?.receiver) return null;
    const report = await track.receiver.getStats();
    for (const entry of report.values()) {
      if (entry.type === 'inbound-rtp') {
        return {
          mime: report.get(entry.codecId)?.mimeType ?? null,
          width: entry.frameWidth, height: entry.frameHeight, frames: entry.framesDecoded,
          packets: entry.packetsReceived, bytes: entry.bytesReceived, lost: entry.packetsLost, pli: entry.pliCount,
          freezes: entry.freezeCount,
        };
      }
    }
    return null;
  }

  window.e2e = {
    async join(url, token, options, connect) {
      room = new Room(options);
      window.room = room;
      listen(room);
      await room.connect(url, token, connect);
    },
    // `workerSource`: the client's own worker, which seals and opens frames.
    async joinEncrypted(url, token, options, workerSource, key) {
      const worker = new Worker(URL.createObjectURL(new Blob([workerSource], { type: 'text/javascript' })));
      const keyProvider = new ExternalE2EEKeyProvider();
      await keyProvider.setKey(key);
      room = new Room({ ...options, encryption: { keyProvider, worker } });
      listen(room);
      await room.connect(url, token);
      await room.setE2EEEnabled(true);
    },
    // Not awaited: for joins that are expected to fail or to take long.
    async joinFails(url, token, options) {
      room = new Room(options);
      listen(room);
      try {
        await room.connect(url, token);
        return null;
      } catch (error) {
        return { message: String(error.message), status: error.status ?? null, reason: error.reason ?? null };
      }
    },
    // As a browser that has no decoder for it, from the next join on.
    withoutDecoder(name) {
      const kept = RTCRtpReceiver.getCapabilities('video').codecs
        .filter(({ mimeType }) => mimeType.toLowerCase() !== `video/${name}`);
      for (const method of ['createOffer', 'createAnswer']) {
        const original = RTCPeerConnection.prototype[method];
        RTCPeerConnection.prototype[method] = function (...given) {
          for (const transceiver of this.getTransceivers()) {
            if (transceiver.receiver.track.kind === 'video' && !transceiver.sender.track) {
              transceiver.setCodecPreferences(kept);
            }
          }
          return original.apply(this, given);
        };
      }
      return true;
    },
    leave: () => room.disconnect(),
    events: () => told.map(([name]) => name),
    told: (name, count) => told.filter(([event]) => event === name).length >= count,
    given: (name) => told.filter(([event]) => event === name).map(([, given]) => given),
    state: () => room.state,
    sid: () => room.localParticipant.sid,
    sidOf: (identity) => room.getParticipantByIdentity(identity)?.sid ?? null,
    people: () => [...room.remoteParticipants.keys()].sort(),
    quality: (identity) => (identity === room.localParticipant.identity
      ? room.localParticipant : room.getParticipantByIdentity(identity))?.connectionQuality ?? null,
    speakers: () => room.activeSpeakers.map((participant) => participant.identity),

    // --- publishing
    async publishPicture(left, right, width, height, fps, options) {
      const canvas = document.createElement('canvas');
      canvas.width = width; canvas.height = height;
      const context = canvas.getContext('2d');
      let number = 0;
      const css = (name) => `rgb(${COLOURS[name].join()})`;
      const paint = () => {
        context.fillStyle = css(left); context.fillRect(0, 0, width / 2, height);
        context.fillStyle = css(right); context.fillRect(width / 2, 0, width / 2, height);
        // Something that moves, with detail, so that every frame and every layer is worth its bits.
        number += 1;
        for (let i = 0; i < 24; i++) {
          context.fillStyle = (number + i) % 2 ? '#fff' : '#000';
          context.fillRect((i * width) / 24, 0, width / 24, height / 6);
        }
      };
      paint();
      setInterval(paint, 1000 / fps);
      const track = canvas.captureStream(fps).getVideoTracks()[0];
      const published = await room.localParticipant.publishTrack(track, options);
      return published.trackSid;
    },
    async publishTone(frequency, options) {
      audioContext ??= new AudioContext();
      await audioContext.resume();
      const oscillator = audioContext.createOscillator();
      oscillator.frequency.value = frequency;
      const gain = audioContext.createGain();
      gain.gain.value = 0.4;
      const destination = audioContext.createMediaStreamDestination();
      oscillator.connect(gain).connect(destination);
      oscillator.start();
      const published = await room.localParticipant.publishTrack(destination.stream.getAudioTracks()[0], options);
      return published.trackSid;
    },
    camera: (on, options, publish) => room.localParticipant.setCameraEnabled(on, options, publish).then(() => true),
    microphone: (on) => room.localParticipant.setMicrophoneEnabled(on).then(() => true),
    screen: (on) => room.localParticipant.setScreenShareEnabled(on).then(() => true),
    async mute(source, muted) {
      const track = publication(room.localParticipant.identity, source).track;
      await (muted ? track.mute() : track.unmute());
      return true;
    },
    async unpublish(source) {
      await room.localParticipant.unpublishTrack(publication(room.localParticipant.identity, source).track);
      return true;
    },
    // The encodings that leave, by rid: {q: {active, width, sent}}
    async sending(source) {
      const { sender } = publication(room.localParticipant.identity, source).track;
      const active = sender.getParameters().encodings.map((encoding) => [encoding.rid ?? '', encoding.active]);
      const found = Object.fromEntries(active.map(([rid, on]) => [rid, { active: on }]));
      const report = await sender.getStats();
      for (const entry of report.values()) {
        if (entry.type === 'outbound-rtp') {
          Object.assign(found[entry.rid ?? ''] ??= {}, {
            mime: report.get(entry.codecId)?.mimeType, frames: entry.framesEncoded, width: entry.frameWidth,
            mode: entry.scalabilityMode ?? null,
          });
        }
      }
      return found;
    },
    // Sets the scalability mode of every encoding that leaves: the client's options know it for VP9 and AV1 alone.
    async layered(source, mode) {
      const { sender } = publication(room.localParticipant.identity, source).track;
      const parameters = sender.getParameters();
      for (const encoding of parameters.encodings) encoding.scalabilityMode = mode;
      await sender.setParameters(parameters);
      return true;
    },
    canSend: (mime) => RTCRtpSender.getCapabilities('video').codecs.some((codec) => codec.mimeType === mime),

    // --- receiving
    has: (identity, source) => Boolean(publication(identity, source)?.track),
    published: (identity, source) => publication(identity, source)?.trackSid ?? null,
    mimeType: (identity, source) => publication(identity, source)?.mimeType ?? null,
    muted: (identity, source) => publication(identity, source)?.isMuted ?? null,
    streamState: (identity, source) => publication(identity, source)?.track?.streamState ?? null,
    stats: receiverStats,
    shows(identity, source, left, right) {
      const track = publication(identity, source)?.track;
      if (!track) return null;
      const video = element(track);
      if (!video.videoWidth) return null;
      const canvas = document.createElement('canvas');
      canvas.width = video.videoWidth; canvas.height = video.videoHeight;
      const context = canvas.getContext('2d');
      context.drawImage(video, 0, 0);
      const [w, h] = [canvas.width, canvas.height];
      const colours = [0.15, 0.65].map((x) => meanColour(context, Math.floor(w * x), Math.floor(h * 0.5), Math.ceil(w / 5), Math.ceil(h / 4)));
      if (!near(colours[0], COLOURS[left]) || !near(colours[1], COLOURS[right])) return null;
      return { width: w, height: h };
    },
    // True once pictures come that are not all of one colour: of the fake camera.
    showsSomething(identity, source) {
      const track = publication(identity, source)?.track;
      if (!track) return null;
      const video = element(track);
      if (!video.videoWidth || video.currentTime < 0.3) return null;
      return { width: video.videoWidth, height: video.videoHeight };
    },
    width(identity, source) {
      const track = publication(identity, source)?.track;
      return track ? element(track).videoWidth : 0;
    },
    async widthIs(identity, source, width) {
      const track = publication(identity, source)?.track;
      return Boolean(track) && element(track).videoWidth === width;
    },
    async hears(identity, frequency) {
      const track = publication(identity, Track.Source.Microphone)?.track
        ?? [...(room.getParticipantByIdentity(identity)?.audioTrackPublications.values() ?? [])][0]?.track;
      if (!track) return false;
      audioContext ??= new AudioContext();
      await audioContext.resume();
      // Chromium lets a remote stream flow only into an element; a track of one who publishes again may have the same.
      element(track);
      let analyser = analysers.get(track.mediaStreamTrack);
      if (!analyser) {
        analyser = audioContext.createAnalyser();
        analyser.fftSize = 8192;
        audioContext.createMediaStreamSource(new MediaStream([track.mediaStreamTrack])).connect(analyser);
        analysers.set(track.mediaStreamTrack, analyser);
      }
      const bins = new Float32Array(analyser.frequencyBinCount);
      analyser.getFloatFrequencyData(bins);
      let best = 0;
      for (let i = 1; i < bins.length; i++) if (bins[i] > bins[best] || best === 0) best = i;
      const found = (best * audioContext.sampleRate) / analyser.fftSize;
      return bins[best] > -60 && Math.abs(found - frequency) < 20;
    },
    subscribe: (identity, source, on) => publication(identity, source).setSubscribed(on),
    wantQuality: (identity, source, quality) => publication(identity, source).setVideoQuality(VideoQuality[quality]),
    wantSize: (identity, source, width, height) => publication(identity, source).setVideoDimensions({ width, height }),
    wantFps: (identity, source, fps) => publication(identity, source).setVideoFPS(fps),
    enable: (identity, source, on) => publication(identity, source).setEnabled(on),
    // Sets the size of the element that shows a video; adaptive stream follows it.
    resize(identity, source, width, height) {
      const video = element(publication(identity, source).track);
      Object.assign(video.style, { width: `${width}px`, height: `${height}px`, display: width ? 'block' : 'none' });
      return true;
    },
    // So many pixels from the upper edge of the page's view.
    moveTo(identity, source, top) {
      element(publication(identity, source).track).style.top = `${top}px`;
      return true;
    },

    // --- data
    send: (text, options) => room.localParticipant.publishData(new TextEncoder().encode(text), options),
    sendText: (text, options) => room.localParticipant.sendText(text, options).then(() => true),
    collectText(topic) {
      window.texts = [];
      room.registerTextStreamHandler(topic, async (reader, from) => window.texts.push([from.identity, await reader.readAll()]));
    },
    texts: () => window.texts,
    sendFile: (text, name, topic) => room.localParticipant
      .sendFile(new File([text], name, { type: 'text/plain' }), { topic }).then(() => true),
    collectFiles(topic) {
      window.files = [];
      room.registerByteStreamHandler(topic, async (reader, from) => {
        const parts = await reader.readAll();
        window.files.push([from.identity, reader.info.name, await new Blob(parts).text()]);
      });
    },
    files: () => window.files,
    answer: (method) => room.registerRpcMethod(method, async (call) => `${call.callerIdentity} said ${call.payload}`),
    ask: (identity, method, payload) => room.localParticipant.performRpc({ destinationIdentity: identity, method, payload }),
    metadata: (identity) => room.getParticipantByIdentity(identity)?.metadata ?? null,
    setMetadata: (text) => room.localParticipant.setMetadata(text).then(() => true),
    setAttributes: (attributes) => room.localParticipant.setAttributes(attributes).then(() => true),
    attributes: (identity) => ({ ...room.getParticipantByIdentity(identity)?.attributes }),

    // --- breaking
    simulate: (scenario) => room.simulateScenario(scenario),
    isConnected: () => room.state === ConnectionState.Connected,
    async transportProtocol() {
      const { publisher, subscriber } = room.engine.pcManager;
      const found = [];
      for (const transport of [publisher, subscriber]) {
        if (!transport) continue;
        const report = await transport.getStats();
        for (const entry of report.values()) {
          if (entry.type === 'transport' && entry.selectedCandidatePairId) {
            const pair = report.get(entry.selectedCandidatePairId);
            found.push(report.get(pair.remoteCandidateId).protocol);
          }
        }
      }
      return found;
    },
  };
})();
