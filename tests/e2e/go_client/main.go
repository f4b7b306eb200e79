// A participant made of the official Go SDK, told what to do by JSON lines on stdin, telling what happens by JSON
// lines on stdout. It judges nothing: media is read from and written to files, which the test makes and examines.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/pion/webrtc/v4"
	"github.com/pion/webrtc/v4/pkg/media"
	"github.com/pion/webrtc/v4/pkg/media/ivfwriter"
	"github.com/pion/webrtc/v4/pkg/media/oggwriter"
)

type command struct {
	Do       string   `json:"do"`
	Path     string   `json:"path"`
	Name     string   `json:"name"`
	Text     string   `json:"text"`
	Topic    string   `json:"topic"`
	To       []string `json:"to"`
	Sid      string   `json:"sid"`
	Scenario int      `json:"scenario"`
}

type teller struct {
	sync.Mutex
	out *json.Encoder
}

func (t *teller) tell(event string, fields map[string]any) {
	t.Lock()
	defer t.Unlock()
	line := map[string]any{"event": event}
	for name, value := range fields {
		line[name] = value
	}
	if err := t.out.Encode(line); err != nil {
		os.Exit(1)
	}
}

func main() {
	url := flag.String("url", "", "server, ws://…")
	token := flag.String("token", "", "access token")
	single := flag.Bool("single", false, "one peer connection for both directions")
	directory := flag.String("directory", ".", "where what is received is written")
	flag.Parse()

	told := &teller{out: json.NewEncoder(os.Stdout)}
	// The SDK's own limit of a few seconds measures how busy a small machine is, not the server.
	options := []lksdk.ConnectOption{lksdk.WithConnectTimeout(20 * time.Second)}
	if *single {
		options = append(options, lksdk.WithSinglePeerConnection())
	}
	room, err := lksdk.ConnectToRoomWithToken(*url, *token, callbacks(told, *directory), options...)
	if err != nil {
		told.tell("failed", map[string]any{"message": err.Error()})
		os.Exit(1)
	}
	told.tell("connected", map[string]any{"sid": room.LocalParticipant.SID(), "room": room.Name()})
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var given command
		if err := json.Unmarshal(lines.Bytes(), &given); err != nil {
			told.tell("error", map[string]any{"message": err.Error()})
			continue
		}
		if given.Do == "leave" {
			break
		}
		if err := act(room, told, given); err != nil {
			told.tell("error", map[string]any{"do": given.Do, "message": err.Error()})
		}
	}
	room.Disconnect()
	told.tell("left", nil)
}

func act(room *lksdk.Room, told *teller, given command) error {
	me := room.LocalParticipant
	switch given.Do {
	case "publish":
		track, err := lksdk.NewLocalFileTrack(given.Path)
		if err != nil {
			return err
		}
		source := livekit.TrackSource_MICROPHONE
		width, height := 0, 0
		if filepath.Ext(given.Path) == ".ivf" {
			source, width, height = livekit.TrackSource_CAMERA, 320, 240
		}
		published, err := me.PublishTrack(track, &lksdk.TrackPublicationOptions{
			Name: given.Name, Source: source, VideoWidth: width, VideoHeight: height,
		})
		if err != nil {
			return err
		}
		told.tell("published", map[string]any{"sid": published.SID()})
		return nil
	case "unpublish":
		return me.UnpublishTrack(given.Sid)
	case "data":
		return me.PublishDataPacket(lksdk.UserData([]byte(given.Text)),
			lksdk.WithDataPublishTopic(given.Topic), lksdk.WithDataPublishReliable(true),
			lksdk.WithDataPublishDestination(given.To))
	case "text":
		me.SendText(given.Text, lksdk.StreamTextOptions{Topic: given.Topic})
		return nil
	case "metadata":
		me.SetMetadata(given.Text)
		return nil
	case "answer":
		return room.RegisterRpcMethod(given.Name, func(data lksdk.RpcInvocationData) (string, error) {
			return data.CallerIdentity + " said " + data.Payload, nil
		})
	case "ask":
		// On a routine of its own: the answer comes by the connection that also brings the next command's.
		go func() {
			answer, err := me.PerformRpc(lksdk.PerformRpcParams{
				DestinationIdentity: given.To[0], Method: given.Name, Payload: given.Text,
			})
			if err != nil {
				told.tell("error", map[string]any{"do": "ask", "message": err.Error()})
				return
			}
			told.tell("answered", map[string]any{"text": *answer})
		}()
		return nil
	case "simulate":
		room.Simulate(lksdk.SimulateScenario(given.Scenario))
		return nil
	}
	return fmt.Errorf("unknown command %q", given.Do)
}

func callbacks(told *teller, directory string) *lksdk.RoomCallback {
	who := func(event string) func(*lksdk.RemoteParticipant) {
		return func(p *lksdk.RemoteParticipant) {
			told.tell(event, map[string]any{"identity": p.Identity(), "sid": p.SID()})
		}
	}
	return &lksdk.RoomCallback{
		OnDisconnectedWithReason: func(reason lksdk.DisconnectionReason) {
			told.tell("disconnected", map[string]any{"reason": string(reason)})
		},
		OnParticipantConnected:    who("participant_connected"),
		OnParticipantDisconnected: who("participant_disconnected"),
		OnReconnecting:            func() { told.tell("reconnecting", nil) },
		OnReconnected:             func() { told.tell("reconnected", nil) },
		OnActiveSpeakersChanged: func(speakers []lksdk.Participant) {
			names := []string{}
			for _, speaker := range speakers {
				names = append(names, speaker.Identity())
			}
			told.tell("speakers", map[string]any{"identities": names})
		},
		ParticipantCallback: lksdk.ParticipantCallback{
			OnMetadataChanged: func(_ string, p lksdk.Participant) {
				told.tell("metadata", map[string]any{"identity": p.Identity(), "text": p.Metadata()})
			},
			OnTrackMuted: func(pub lksdk.TrackPublication, p lksdk.Participant) {
				told.tell("muted", map[string]any{"identity": p.Identity(), "sid": pub.SID()})
			},
			OnTrackSubscribed: func(track *webrtc.TrackRemote, pub *lksdk.RemoteTrackPublication, p *lksdk.RemoteParticipant) {
				told.tell("subscribed", map[string]any{
					"identity": p.Identity(), "sid": pub.SID(), "mime": track.Codec().MimeType,
				})
				go record(told, track, pub.SID(), p.Identity(), directory)
			},
			OnTrackUnsubscribed: func(_ *webrtc.TrackRemote, pub *lksdk.RemoteTrackPublication, p *lksdk.RemoteParticipant) {
				told.tell("unsubscribed", map[string]any{"identity": p.Identity(), "sid": pub.SID()})
			},
			OnDataPacket: func(data lksdk.DataPacket, params lksdk.DataReceiveParams) {
				if user, ok := data.(*lksdk.UserDataPacket); ok {
					told.tell("data", map[string]any{
						"identity": params.SenderIdentity, "text": string(user.Payload), "topic": user.Topic,
					})
				}
			},
		},
	}
}

// record writes what a track brings and tells of it about every second, when the file can be read up to there.
func record(told *teller, track *webrtc.TrackRemote, sid, identity, directory string) {
	path := filepath.Join(directory, sid)
	var writer media.Writer
	var err error
	if track.Kind() == webrtc.RTPCodecTypeAudio {
		path += ".ogg"
		writer, err = oggwriter.New(path, 48000, 2)
	} else {
		path += ".ivf"
		writer, err = ivfwriter.New(path)
	}
	if err != nil {
		told.tell("error", map[string]any{"do": "record", "message": err.Error()})
		return
	}
	packets := 0
	next := time.Now().Add(time.Second)
	for {
		packet, _, err := track.ReadRTP()
		if err != nil {
			_ = writer.Close()
			return
		}
		packets++
		if err := writer.WriteRTP(packet); err != nil {
			told.tell("error", map[string]any{"do": "record", "message": err.Error()})
			return
		}
		if time.Now().After(next) {
			next = time.Now().Add(time.Second)
			told.tell("received", map[string]any{"identity": identity, "sid": sid, "path": path, "packets": packets})
		}
	}
}
