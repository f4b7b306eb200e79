// A plain SFU on Pion as one would write it in an afternoon, to be measured: rooms of publishers, WHIP in, WHEP out.
//
// One UDP port, Pion's default codecs and interceptors (NACK, reports, transport-wide feedback), and Pion's own fan-out:
// each track, or each layer of a simulcast, is one TrackLocalStaticRTP that all its subscribers are bound to. Nobody
// changes layers, nothing estimates bandwidth. Not here: authentication, anything else of a product.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pion/interceptor"
	"github.com/pion/webrtc/v4"
)

const (
	maxOffer    = 1 << 20
	trackWait   = 10 * time.Second
	gatherWait  = 5 * time.Second
	headerLimit = 5 * time.Second
)

func main() {
	listen := flag.String("http", "127.0.0.1:8080", "address for WHIP and WHEP")
	udp := flag.String("udp", "127.0.0.1:8081", "address for all media")
	flag.Parse()
	if err := serve(*listen, *udp); err != nil {
		log.Fatal(err)
	}
}

func serve(listen, udp string) error {
	api, err := newAPI(udp)
	if err != nil {
		return err
	}
	sfu := &sfu{api: api, rooms: newRooms(), sessions: map[string]*webrtc.PeerConnection{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /whip/{room}/{publisher}", sfu.publish)
	mux.HandleFunc("POST /whep/{room}", sfu.subscribe)
	mux.HandleFunc("POST /whep/{room}/{publisher}", sfu.subscribe)
	mux.HandleFunc("DELETE /sessions/{session}", sfu.end)
	server := &http.Server{Addr: listen, Handler: mux, ReadHeaderTimeout: headerLimit}
	return server.ListenAndServe()
}

func newAPI(udp string) (*webrtc.API, error) {
	address, err := net.ResolveUDPAddr("udp4", udp)
	if err != nil {
		return nil, err
	}
	socket, err := net.ListenUDP("udp4", address)
	if err != nil {
		return nil, err
	}
	settings := webrtc.SettingEngine{}
	settings.SetLite(true)
	settings.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
	settings.SetIncludeLoopbackCandidate(true)
	settings.SetICEUDPMux(webrtc.NewICEUDPMux(nil, socket))
	if err := settings.SetAnsweringDTLSRole(webrtc.DTLSRoleServer); err != nil {
		return nil, err
	}
	media := &webrtc.MediaEngine{}
	if err := media.RegisterDefaultCodecs(); err != nil {
		return nil, err
	}
	registry := &interceptor.Registry{}
	if err := webrtc.RegisterDefaultInterceptors(media, registry); err != nil {
		return nil, err
	}
	return webrtc.NewAPI(
		webrtc.WithSettingEngine(settings),
		webrtc.WithMediaEngine(media),
		webrtc.WithInterceptorRegistry(registry),
	), nil
}

type sfu struct {
	api   *webrtc.API
	rooms *rooms

	mutex    sync.Mutex
	sessions map[string]*webrtc.PeerConnection
	last     int
}

// publish answers the offer of somebody who sends; his tracks are in the room once their first packets come.
func (s *sfu) publish(w http.ResponseWriter, r *http.Request) {
	offer, err := readOffer(w, r)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	connection, err := s.api.NewPeerConnection(webrtc.Configuration{})
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	room, publisher := s.rooms.get(r.PathValue("room")), r.PathValue("publisher")
	connection.OnTrack(func(remote *webrtc.TrackRemote, _ *webrtc.RTPReceiver) {
		if err := forward(room, publisher, connection, remote); err != nil && !errors.Is(err, io.EOF) {
			log.Printf("%s, %s: %v", publisher, remote.Kind(), err)
		}
	})
	s.answer(w, connection, offer)
}

// subscribe answers the offer of somebody who receives: all of a room, or one publisher of it. As many tracks as the
// offer has sections, waited for; `except` names a publisher to be left out, `layers` the layer of the n-th video.
func (s *sfu) subscribe(w http.ResponseWriter, r *http.Request) {
	offer, err := readOffer(w, r)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	layers, err := parseLayers(r.URL.Query().Get("layers"))
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	wish := wish{only: r.PathValue("publisher"), except: r.URL.Query().Get("except"), layers: layers}
	count := strings.Count(offer.SDP, "\nm=")
	sources, err := s.rooms.get(r.PathValue("room")).wait(wish, count, trackWait)
	if err != nil {
		refuse(w, http.StatusConflict, err)
		return
	}
	connection, err := s.api.NewPeerConnection(webrtc.Configuration{})
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	for _, source := range sources {
		sender, err := connection.AddTrack(source.local)
		if err != nil {
			connection.Close()
			refuse(w, http.StatusInternalServerError, err)
			return
		}
		go source.readFeedback(sender)
	}
	connection.OnConnectionStateChange(func(state webrtc.PeerConnectionState) {
		if state == webrtc.PeerConnectionStateConnected {
			for _, source := range sources {
				source.askKeyframe()
			}
		}
	})
	s.answer(w, connection, offer)
}

func readOffer(w http.ResponseWriter, r *http.Request) (webrtc.SessionDescription, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxOffer))
	return webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: string(body)}, err
}

// answer accepts the offer and says so as WHIP (RFC 9725 §4.2) and WHEP do; a connection that fails is closed.
func (s *sfu) answer(w http.ResponseWriter, connection *webrtc.PeerConnection, offer webrtc.SessionDescription) {
	description, err := accept(connection, offer)
	if err != nil {
		connection.Close()
		refuse(w, http.StatusBadRequest, err)
		return
	}
	w.Header().Set("Content-Type", "application/sdp")
	w.Header().Set("Location", "/sessions/"+s.keep(connection))
	w.WriteHeader(http.StatusCreated)
	io.WriteString(w, description.SDP)
}

// keep gives a session its name.
func (s *sfu) keep(connection *webrtc.PeerConnection) string {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.last++
	name := strconv.Itoa(s.last)
	s.sessions[name] = connection
	return name
}

// end closes a session (RFC 9725 §4.2).
func (s *sfu) end(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("session")
	s.mutex.Lock()
	connection := s.sessions[name]
	delete(s.sessions, name)
	s.mutex.Unlock()
	if connection == nil {
		refuse(w, http.StatusNotFound, errors.New("there is no such session"))
		return
	}
	if err := connection.Close(); err != nil {
		log.Printf("session %s: %v", name, err)
	}
}

func accept(connection *webrtc.PeerConnection, offer webrtc.SessionDescription) (*webrtc.SessionDescription, error) {
	if err := connection.SetRemoteDescription(offer); err != nil {
		return nil, err
	}
	gathered := webrtc.GatheringCompletePromise(connection)
	answer, err := connection.CreateAnswer(nil)
	if err != nil {
		return nil, err
	}
	if err := connection.SetLocalDescription(answer); err != nil {
		return nil, err
	}
	select {
	case <-gathered:
		return connection.LocalDescription(), nil
	case <-time.After(gatherWait):
		return nil, errors.New("no candidates were gathered")
	}
}

func parseLayers(text string) ([]int, error) {
	var layers []int
	for _, field := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' }) {
		layer, err := strconv.Atoi(field)
		if err != nil || layer < 0 {
			return nil, fmt.Errorf("%q is no layer", field)
		}
		layers = append(layers, layer)
	}
	return layers, nil
}

func refuse(w http.ResponseWriter, status int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"message": err.Error()})
}
