// Package engine is what the Docker API tells weft, always asynchronously: no
// handler waits for it, because handlers run under the engine's locks.
//
//	e := engine.New(engine.Config{Socket: "/run/docker.sock"})
//	go e.Run(ctx)              // follows the engine's restarts and reloads
//	ok, why := e.DirectSafe()  // from memory
//
// By itself it only reads. Networks are made and removed when package netsync asks for
// it. The few documents that it needs are decoded here: the official client would
// bring five megabytes and its own version negotiation for ten requests.
package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ErrUnknown means that the engine did not answer.
var ErrUnknown = errors.New("the engine does not answer")

// Config is what [New] takes.
type Config struct {
	// Socket is the path of the Docker API's socket.
	Socket string
	// Retry is the pause between attempts to reach the engine; 500 ms if 0.
	Retry time.Duration
	// OnNetworks, if not nil, is called after a network came or went, and after the
	// engine was reached again. It must be quick.
	OnNetworks func()
	// OnContainer, if not nil, is called with the id of a container that started, ended,
	// got another name, or came to or left a network, and with an empty one after the
	// engine was reached again: any may have changed. It must be quick.
	OnContainer func(id string)
	Logger      *slog.Logger
}

// followed are the events that weft wants to hear of.
const followed = `{"type":["daemon","network","container"],"event":["reload","create","destroy","connect","disconnect","start","die","rename"]}`

// event is one line of the engine's stream.
type event struct {
	Type, Action string
	Actor        struct {
		ID         string
		Attributes map[string]string
	}
}

// Info is what matters of the engine.
type Info struct {
	// Version as the engine prints it, for instance 28.5.2+dfsg4.
	Version string `json:"version"`
	// LiveRestore keeps containers running while the engine is down.
	LiveRestore bool `json:"liveRestore"`
	// Firewall is the engine's firewall backend (engine ≥ 28.1), or "".
	Firewall string `json:"firewall,omitempty"`
}

// An Engine remembers what the engine said last. It is safe for concurrent use.
type Engine struct {
	cfg  Config
	log  *slog.Logger
	http *http.Client

	mu    sync.Mutex
	info  Info
	known bool
}

// New makes an engine that knows nothing yet; call [Engine.Run].
func New(cfg Config) *Engine {
	if cfg.Retry == 0 {
		cfg.Retry = 500 * time.Millisecond
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.OnNetworks == nil {
		cfg.OnNetworks = func() {}
	}
	if cfg.OnContainer == nil {
		cfg.OnContainer = func(string) {}
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", cfg.Socket)
	}
	return &Engine{cfg: cfg, log: cfg.Logger, http: &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConns: 1}}}
}

// Run asks the engine, then holds its event stream open: a reload makes it ask again, what
// happens to networks and containers is passed on, and when the stream breaks nothing is
// known until the next answer.
func (e *Engine) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := e.follow(ctx)
		e.forget()
		e.log.Debug("engine", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(e.cfg.Retry):
		}
	}
	return nil
}

func (e *Engine) follow(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	events, err := e.open(ctx, "/events?filters="+url.QueryEscape(followed))
	if err != nil {
		return err
	}
	defer events.Close()
	dec := json.NewDecoder(events)
	go func() {
		defer stop()
		e.watch(ctx)
	}()
	if err := e.ask(ctx); err != nil {
		return err
	}
	e.cfg.OnNetworks()
	e.cfg.OnContainer("")
	for {
		var one event
		if err := dec.Decode(&one); err != nil {
			return err
		}
		if err := e.heard(ctx, one); err != nil {
			return err
		}
	}
}

// heard passes an event on.
func (e *Engine) heard(ctx context.Context, one event) error {
	switch {
	case one.Type == "container" && one.Action != "create":
		e.cfg.OnContainer(one.Actor.ID)
	case one.Type == "network" && (one.Action == "connect" || one.Action == "disconnect"):
		e.cfg.OnContainer(one.Actor.Attributes["container"])
	case one.Type == "network":
		e.cfg.OnNetworks()
	case one.Type == "daemon":
		return e.ask(ctx)
	}
	return nil
}

// watch returns when the engine stops to answer. An engine that shuts down takes
// no new connections but waits five seconds for open streams, ours too, unless it
// ended the plugin first; with live-restore, or a weft that is a service, it does
// not.
func (e *Engine) watch(ctx context.Context) {
	const every, patience = time.Second, 2 * time.Second
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		ping, cancel := context.WithTimeout(ctx, patience)
		body, err := e.open(ping, "/_ping")
		if err == nil {
			err = body.Close()
		}
		cancel()
		if err != nil {
			e.log.Debug("the engine stops to answer", "err", err)
			return
		}
	}
}

func (e *Engine) ask(ctx context.Context) error {
	var doc struct {
		ServerVersion      string
		LiveRestoreEnabled bool
		FirewallBackend    *struct{ Driver string }
	}
	if err := e.get(ctx, "/info", &doc); err != nil {
		return err
	}
	info := Info{Version: doc.ServerVersion, LiveRestore: doc.LiveRestoreEnabled}
	if doc.FirewallBackend != nil {
		info.Firewall = doc.FirewallBackend.Driver
	}
	e.mu.Lock()
	changed := !e.known || e.info != info
	e.info, e.known = info, true
	e.mu.Unlock()
	if changed {
		e.log.Info("engine", "version", info.Version, "liveRestore", info.LiveRestore)
	}
	return nil
}

func (e *Engine) forget() {
	e.mu.Lock()
	e.known = false
	e.mu.Unlock()
}

// Info is the last answer; ok is false while the engine is not reached.
func (e *Engine) Info() (info Info, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.info, e.known
}

// DirectSafe says whether the engine bears endpoints whose link it did not
// move: 29.7 and later do; 28 does without live-restore (with it, dockerd
// panics on `docker stop`); before 28 the sandbox is not there in time.
func (e *Engine) DirectSafe() (ok bool, why string) {
	info, known := e.Info()
	if !known {
		return false, "nothing is known of the engine yet"
	}
	major, minor := versionOf(info.Version)
	switch {
	case major > 29, major == 29 && minor >= 7:
		return true, ""
	case major < 28:
		return false, "engine " + info.Version + " is older than 28"
	case info.LiveRestore:
		return false, "engine " + info.Version + " with live-restore cannot stop such containers"
	}
	return true, ""
}

func versionOf(v string) (major, minor int) {
	parts := strings.SplitN(v, ".", 3)
	major, err := strconv.Atoi(parts[0])
	if err != nil || len(parts) < 2 {
		return 0, 0
	}
	minor, err = strconv.Atoi(parts[1])
	if err != nil {
		return 0, 0
	}
	return major, minor
}

// open sends a GET request without a version in its path: the engine answers
// with its newest API, whose fields used here are the same since 1.40.
func (e *Engine) open(ctx context.Context, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := e.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	if resp.StatusCode != http.StatusOK {
		err := fmt.Errorf("%w: GET %s: %s", ErrUnknown, path, resp.Status)
		return nil, errors.Join(err, resp.Body.Close())
	}
	return resp.Body, nil
}

func (e *Engine) get(ctx context.Context, path string, into any) error {
	const patience = 10 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	body, err := e.open(ctx, path)
	if err != nil {
		return err
	}
	err = json.NewDecoder(body).Decode(into)
	if err != nil {
		err = fmt.Errorf("decode GET %s: %w", path, err)
	}
	return errors.Join(err, body.Close())
}
