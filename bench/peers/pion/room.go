package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
)

const (
	receiveBuffer = 1500
	// At most one request for a key frame in this time goes to a publisher.
	keyframePause = 500 * time.Millisecond
)

// The rids of a simulcast from the lowest layer on, as browsers' users name them.
var ridOrder = []string{"q", "h", "f"}

type rooms struct {
	mutex  sync.Mutex
	byName map[string]*room
}

func newRooms() *rooms { return &rooms{byName: map[string]*room{}} }

func (r *rooms) get(name string) *room {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	found, ok := r.byName[name]
	if !ok {
		found = &room{changed: make(chan struct{})}
		r.byName[name] = found
	}
	return found
}

// room holds what is sent, in the order of its coming.
type room struct {
	mutex   sync.Mutex
	sources []*source
	// Closed and replaced whenever a source comes.
	changed chan struct{}
}

// source is one track, or one layer of a simulcast.
type source struct {
	publisher string
	track     string
	layer     int
	local     *webrtc.TrackLocalStaticRTP
	ssrc      uint32
	from      *webrtc.PeerConnection

	mutex sync.Mutex
	asked time.Time
}

// wish says which sources somebody wants.
type wish struct {
	only, except string
	layers       []int
}

func (r *room) add(s *source) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.sources = append(r.sources, s)
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *room) remove(s *source) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.sources = slices.DeleteFunc(r.sources, func(other *source) bool { return other == s })
}

// wait returns `count` sources as soon as the room has them.
func (r *room) wait(wish wish, count int, limit time.Duration) ([]*source, error) {
	deadline := time.After(limit)
	for {
		r.mutex.Lock()
		found, changed := wish.choose(r.sources), r.changed
		r.mutex.Unlock()
		if len(found) == count {
			return found, nil
		}
		select {
		case <-changed:
		case <-deadline:
			return nil, fmt.Errorf("the offer has %d sections for %d tracks", count, len(found))
		}
	}
}

// choose takes one source of each track: the only one, or the wished layer of the n-th simulcast track. A track whose
// layer has not come yet is left out.
func (w wish) choose(sources []*source) []*source {
	var tracks []string
	byTrack := map[string][]*source{}
	for _, s := range sources {
		if w.only != "" && s.publisher != w.only || s.publisher == w.except {
			continue
		}
		key := s.publisher + "/" + s.track
		if byTrack[key] == nil {
			tracks = append(tracks, key)
		}
		byTrack[key] = append(byTrack[key], s)
	}
	var chosen []*source
	position := 0
	for _, track := range tracks {
		layer := 0
		if byTrack[track][0].local.Kind() == webrtc.RTPCodecTypeVideo {
			if len(w.layers) > 0 {
				layer = w.layers[min(position, len(w.layers)-1)]
			}
			position++
		}
		if index := slices.IndexFunc(byTrack[track], func(s *source) bool { return s.layer == layer }); index >= 0 {
			chosen = append(chosen, byTrack[track][index])
		}
	}
	return chosen
}

// forward puts a track into the room and copies its packets until it ends.
func forward(room *room, publisher string, from *webrtc.PeerConnection, remote *webrtc.TrackRemote) error {
	name := strings.Join([]string{publisher, remote.ID(), remote.RID()}, "-")
	local, err := webrtc.NewTrackLocalStaticRTP(remote.Codec().RTPCodecCapability, name, publisher)
	if err != nil {
		return err
	}
	source := &source{
		publisher: publisher,
		track:     remote.ID(),
		layer:     max(slices.Index(ridOrder, remote.RID()), 0),
		local:     local,
		ssrc:      uint32(remote.SSRC()),
		from:      from,
	}
	room.add(source)
	defer room.remove(source)
	buffer := make([]byte, receiveBuffer)
	packet := &rtp.Packet{}
	for {
		size, _, err := remote.Read(buffer)
		if err != nil {
			return err
		}
		if err := packet.Unmarshal(buffer[:size]); err != nil {
			return err
		}
		// The publisher's extensions are numbered as he and we agreed; subscribers' ones are their own.
		packet.Extension, packet.Extensions = false, nil
		if err := local.WriteRTP(packet); err != nil && !errors.Is(err, webrtc.ErrConnectionClosed) {
			return err
		}
	}
}

// readFeedback answers a subscriber's wish for a key frame; his other reports are for the interceptors, which see them
// as they are read.
func (s *source) readFeedback(sender *webrtc.RTPSender) {
	for {
		packets, _, err := sender.ReadRTCP()
		if err != nil {
			return
		}
		for _, packet := range packets {
			switch packet.(type) {
			case *rtcp.PictureLossIndication, *rtcp.FullIntraRequest:
				s.askKeyframe()
			}
		}
	}
}

func (s *source) askKeyframe() {
	if s.local.Kind() != webrtc.RTPCodecTypeVideo {
		return
	}
	s.mutex.Lock()
	isSoon := time.Since(s.asked) < keyframePause
	if !isSoon {
		s.asked = time.Now()
	}
	s.mutex.Unlock()
	if !isSoon {
		// A publisher who has gone needs no request.
		_ = s.from.WriteRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: s.ssrc}})
	}
}
